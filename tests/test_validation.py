"""Checks at the borders: every kind of misfit is a `ValueError` in plain words, and nothing that fits is refused."""

import inspect

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from infmem import MemoryConfig
from infmem.validation import checked, require, require_finite


@checked
def total(x: Float[Tensor, "pos d_model"], weight: Float[Tensor, " pos"] | None = None, scale: float = 1.0) -> Tensor:
    """The docstring."""
    return scale * (x.sum() if weight is None else (weight @ x).sum())


@checked
def middle(
    x: Float[Tensor, "batch *shape d_model"], y: Float[Tensor, "*shape"], z: Float[Tensor, " d_model"] | None = None
) -> tuple[int, ...]:
    return tuple(y.shape)


@checked
def mixed(pair: Float[Tensor, "2 pos"], count: Int[Tensor, " pos"], limit: Float[Tensor, " pos"] | float) -> str:
    return "fits"


class Layer:
    d_model, pos = 5, "an attribute that is no size"

    @checked
    def forward(self, x: Float[Tensor, "pos d_model"]) -> int:
        return x.numel()


def test_require():
    require(True, "unused")
    with pytest.raises(ValueError, match=r"^two must be larger$"):
        require(False, "two must be larger")


@pytest.mark.parametrize("value", [torch.ones(3, 5), torch.zeros(0), torch.ones(3, dtype=torch.long)])
def test_finite_values_pass(value):
    require_finite("x", value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_counted(bad):
    with pytest.raises(ValueError, match=r"^x must be finite, got 2 of 7 values"):
        require_finite("x", torch.tensor([0, bad, 1, 2, bad, 3, 4]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_type_fits(dtype):
    assert total(torch.ones(3, 5, dtype=dtype)) == 15


def test_arguments_may_come_by_name_or_not_at_all():
    x, weight = torch.ones(3, 5), torch.ones(3)
    assert total(weight=weight, x=x) == total(x, weight) == total(x, None) == total(x) == 15
    assert total(x, scale=2.0) == 30


@pytest.mark.parametrize("call", [lambda x, w: total(x, w), lambda x, w: total(weight=w, x=x)])
def test_axes_of_one_name_have_one_size(call):
    with pytest.raises(ValueError, match=r'^total: weight must have the axes "pos" with pos = 3, got pos = 2 in sizes'):
        call(torch.ones(3, 5), torch.ones(2))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 5), ()])
def test_the_number_of_axes_counts(shape):
    with pytest.raises(ValueError, match=rf'x must have the axes "pos d_model", got {len(shape)} axes of sizes'):
        total(torch.ones(shape))


def test_the_type_of_the_numbers_counts():
    with pytest.raises(ValueError, match=r"total: x must be a tensor of type float, got torch.int64: convert it"):
        total(torch.ones(3, 5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"mixed: count must be a tensor of type int, got torch.float32"):
        mixed(torch.ones(2, 3), torch.ones(3), 1.0)


@pytest.mark.parametrize(("value", "name"), [([[1.0]], "list"), (None, "NoneType"), (1.0, "float")])
def test_something_else_than_a_tensor(value, name):
    with pytest.raises(ValueError, match=f"total: x must be a tensor, got {name}$"):
        total(value)


@pytest.mark.parametrize("weight", [1.0, "heavy"])
def test_only_the_alternatives_of_the_annotation_pass(weight):
    with pytest.raises(ValueError, match=r"weight must be a tensor, got"):
        total(torch.ones(3, 5), weight)


def test_all_tensors_share_a_device():
    with pytest.raises(
        ValueError, match=r"one device, got weight on meta and the ones before it on cpu: .*to\('cpu'\)"
    ):
        total(torch.ones(3, 5), torch.ones(3, device="meta"))
    assert total(torch.ones(3, 5, device="meta"), torch.ones(3, device="meta")).device.type == "meta"


@pytest.mark.parametrize("shape", [(), (7,), (7, 11)])
def test_an_axis_group_stands_for_any_number_of_axes(shape):
    assert middle(torch.ones(2, *shape, 5), torch.ones(shape), torch.ones(5)) == shape


def test_an_axis_group_is_one_shape():
    with pytest.raises(ValueError, match=r"with \*shape = \(7, 11\), got \*shape = \(11, 7\)"):
        middle(torch.ones(2, 7, 11, 5), torch.ones(11, 7))
    with pytest.raises(ValueError, match=r"z must have .* d_model = 5, got d_model = 2"):
        middle(torch.ones(2, 7, 11, 5), torch.ones(7, 11), torch.ones(2))
    with pytest.raises(ValueError, match=r'x must have the axes "batch \*shape d_model", got 1 axes'):
        middle(torch.ones(2), torch.ones(()))


def test_an_axis_given_as_a_number():
    count = torch.ones(3, dtype=torch.long)
    assert mixed(torch.ones(2, 3), count, 1.0) == mixed(torch.ones(2, 3), count, torch.ones(3)) == "fits"
    with pytest.raises(ValueError, match=r"with 2 = 2, got 2 = 4"):
        mixed(torch.ones(4, 3), count, 1.0)
    with pytest.raises(ValueError, match=r"limit must have the axes"):
        mixed(torch.ones(2, 3), count, torch.ones(5))


def test_an_axis_that_is_an_attribute_of_self():
    assert Layer().forward(torch.ones(3, 5)) == 15
    with pytest.raises(ValueError, match=r"^Layer.forward: x must have .* with d_model = 5, got d_model = 7"):
        Layer().forward(torch.ones(3, 7))


def test_a_checked_function_keeps_its_face():
    assert total.__name__ == "total" and total.__doc__ == "The docstring."
    assert list(inspect.signature(total).parameters) == ["x", "weight", "scale"]


def test_a_missing_argument_stays_pythons_own_error():
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'x'"):
        total(weight=torch.ones(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 1.5}, "num_samples must be a whole number, got 1.5"),
        ({"num_basis": True}, "num_basis must be a whole number, got True"),
        ({"gate": "no"}, "gate must be True or False, got 'no'"),
        ({"sigma_0": float("inf")}, "sigma_0 must be a finite number, got inf"),
        ({"kl_weight": "small"}, "kl_weight must be a finite number, got 'small'"),
        ({"sticky": "very"}, "sticky must be one of none, stratified, iid, left_edge, got 'very'"),
    ],
)
def test_fields_of_the_wrong_type_are_named(change, message, without_type_checker):
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**change)


def test_widths_may_come_as_a_list(without_type_checker):
    config = MemoryConfig(num_basis=14, sigmas=[0.1, 0.2])
    assert config == MemoryConfig(num_basis=14, sigmas=(0.1, 0.2))
    assert hash(config) == hash(MemoryConfig(num_basis=14, sigmas=(0.1, 0.2)))
