import pytest
import torch
from tiny import TINY
from torch import nn
from torch.testing import assert_close

from infmem.optimizer import ADAM_BETAS, MOMENTUM, Muon, build_optimizer, orthogonalized
from infmem.presets import build_model, model_config


@pytest.mark.parametrize("sizes", [(2, 5, 7), (3, 7, 5), (1, 5, 5), (2, 1, 3)])
def test_orthogonal_matrices_keep_their_singular_vectors(sizes, normal):
    """The polynomial in float64, applied to singular values one by one."""
    matrices = normal(*sizes)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert_close(orthogonalized(matrices), u * s[:, None] @ v, rtol=1e-10, atol=1e-10)
    assert orthogonalized(torch.zeros(sizes)).count_nonzero() == 0


def test_singular_values_end_near_1(normal):
    values = torch.linalg.svdvals(orthogonalized(normal(11, 23, 31)))
    assert 0.6 < values.min() and values.max() < 1.3


def test_a_step_moves_matrices_by_their_momentum_and_the_rest_as_adam(normal):
    """Two steps, written out in float64, beside Adam on the same gradients."""
    matrices = [nn.Parameter(normal(5, 7)), nn.Parameter(normal(7, 3)), nn.Parameter(normal(5, 7))]
    bias, twin = (nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(2))
    muon, adam = Muon(matrices, [bias], lr=0.01), torch.optim.Adam([twin], lr=0.01, betas=ADAM_BETAS)
    expected, momenta = [weight.detach().clone() for weight in matrices], [0.0, 0.0, 0.0]
    for _ in range(2):
        for index, weight in enumerate(matrices):
            weight.grad = normal(*weight.shape)
            momenta[index] = MOMENTUM * momenta[index] + (1 - MOMENTUM) * weight.grad
            look_ahead = MOMENTUM * momenta[index] + (1 - MOMENTUM) * weight.grad
            change = orthogonalized(look_ahead[None])[0] * 0.2 * max(weight.shape) ** 0.5
            expected[index] = expected[index] - 0.01 * change
        bias.grad = normal(5)
        twin.grad = bias.grad.clone()
        muon.step()
        adam.step()
    for weight, wanted in zip(matrices, expected, strict=True):
        assert_close(weight.detach(), wanted, rtol=1e-10, atol=1e-12)
    assert_close(bias, twin, rtol=1e-10, atol=1e-12)


def test_the_update_is_that_of_pytorch():
    """PyTorch computes it in bfloat16 on every device, so the two agree to that."""
    generator = torch.Generator().manual_seed(0)
    weight, twin = (nn.Parameter(torch.zeros(13, 29)) for _ in range(2))
    mine, theirs = (
        Muon([weight], [], lr=0.01),
        torch.optim.Muon([twin], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        weight.grad = torch.randn(13, 29, generator=generator)
        twin.grad = weight.grad.clone()
        mine.step()
        theirs.step()
    assert ((weight - twin).norm() / twin.norm()).item() < 0.02


def test_what_a_parameter_without_gradient_gets():
    weight = nn.Parameter(torch.ones(3, 5))
    Muon([weight], [], lr=0.1).step()
    assert torch.equal(weight, torch.ones(3, 5))


@pytest.mark.parametrize("name", ["infinite-former", "compressive-transformer", "window"])
def test_maps_inside_of_the_model_are_matrices_and_nothing_else(name):
    model = build_model(model_config(name, TINY))
    others, matrices = (group["params"] for group in build_optimizer(model, "muon", 0.01).param_groups)
    names = {id(weight): name for name, weight in model.named_parameters()}
    assert sorted(names[id(weight)] for weight in [*others, *matrices]) == sorted(names.values())
    assert all(weight.ndim == 2 and min(weight.shape) > 1 for weight in matrices)
    rest = {names[id(weight)] for weight in others}
    assert {"embedding.weight", "output.weight", "content_bias", "position_bias"} <= rest
    assert not any(name.startswith("blocks.") and name.endswith("weight") and "norm" not in name for name in rest)


def test_an_unknown_optimizer_is_named(without_type_checker):
    with pytest.raises(ValueError, match="optimizer must be adam or muon, got 'sgd'"):
        build_optimizer(build_model(model_config("window", TINY)), "sgd", 0.01)
