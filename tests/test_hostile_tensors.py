"""Tensors at the edge of what is defined, and beyond: the right numbers, or a sentence that names the argument.

Every public function of the equations has a specimen, which is turned in every way that a caller can turn tensors, and
rows of bad inputs. What the other tests compare with an oracle at ordinary sizes is compared here at extreme ones.
"""

import inspect
import math
import types
from typing import NamedTuple

import numpy as np
import oracles
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.testing import assert_close

from infmem import (
    CompressedMemory,
    CompressedMemoryConfig,
    CompressedState,
    LongTermMemory,
    MemoryConfig,
    attention,
    basis,
    compression,
    contraction,
    memory,
    recurrence,
    signal,
    sticky,
)
from infmem.basis import GaussianBasis

MODULES = (basis, signal, contraction, recurrence, sticky, attention, compression)
NAN, INF = math.nan, math.inf
BATCH, HEAD, QUERY, BASIS, D_HEAD, POS, SAMPLE = 2, 3, 5, 7, 11, 6, 13
D_MODEL = HEAD * D_HEAD


def seven(dtype: torch.dtype = torch.float64) -> GaussianBasis:
    return GaussianBasis.grid(BASIS, (0.1,), dtype=dtype)


def numbers(*sizes: int) -> torch.Tensor:
    """Numbers in (0, 1) that are always the same, with no order in them."""
    count = math.prod(sizes)
    return (torch.arange(1, count + 1, dtype=torch.float64) * 0.6180339887498949 % 1).reshape(sizes)


# --- specimens --------------------------------------------------------------------------------------------------------


class Specimen(NamedTuple):
    """A call of a function, with tensors that somebody turns first.

    Args:
        call: takes the tensors.
        tensors: in float64.
        rows: how many of them have a batch; those come first.
        bfloat16: whether the function takes this type.
    """

    call: types.FunctionType
    tensors: tuple[torch.Tensor, ...]
    rows: int = 0
    bfloat16: bool = True


T = numbers(QUERY)
HEADS = numbers(BATCH, HEAD, QUERY)
PAST, NEW = numbers(SAMPLE).sort().values, signal.positions(POS)
OPERATORS = contraction.update_operators(seven(), PAST, NEW, 0.75, 0.1)
RECURRENCE = recurrence.exact_recurrence(seven(), NEW, 0.75, 0.1)
HIDDEN, OLD = numbers(BATCH, QUERY, D_MODEL), numbers(BATCH, POS, D_MODEL)
WEIGHT = numbers(2 * D_MODEL, D_MODEL)


def of_type(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return layer.to(x.dtype)(x)


SPECIMENS = {
    "gaussian_density": Specimen(basis.gaussian_density, (HEADS, HEADS + 0.1, HEADS + 0.2), 3),
    "gaussian_mass": Specimen(lambda m, v: basis.gaussian_mass(m, v, 0.0, 1.0), (HEADS, HEADS + 0.1), 2),
    "GaussianBasis.evaluate": Specimen(lambda t: seven(t.dtype).evaluate(t), (HEADS,), 1),
    "GaussianBasis.expectation": Specimen(
        lambda m, v: seven(m.dtype).expectation(m, v, unit_interval=True), (HEADS, HEADS + 0.1), 2
    ),
    "ridge_operator": Specimen(lambda t: signal.ridge_operator(seven(), t, 0.1), (numbers(BATCH, POS),), 1),
    "ridge_solve": Specimen(
        lambda g, f: signal.ridge_solve(g @ g.mT, f, 0.5), (numbers(BATCH, BASIS, BASIS), numbers(BATCH, BASIS, POS)),
        2, bfloat16=False,
    ),
    "fit": Specimen(signal.fit, (OLD, numbers(POS, BASIS)), 1),
    "read": Specimen(lambda b, t: signal.read(b, seven(t.dtype), t), (numbers(BATCH, BASIS, D_MODEL), T), 1),
    "effective_degrees_of_freedom": Specimen(lambda t: signal.effective_degrees_of_freedom(seven(), t, 0.1), (NEW,)),
    "regression_error": Specimen(lambda x, t: signal.regression_error(x, seven(), t, 0.1), (OLD, NEW), 1),
    "contracted_positions": Specimen(
        lambda p, n: contraction.contracted_positions(p, n, 0.75), (numbers(BATCH, SAMPLE), NEW), 1
    ),
    "update_operators": Specimen(
        lambda p, n: tuple(contraction.update_operators(seven(), p, n, 0.75, 0.1)), (numbers(BATCH, SAMPLE), NEW), 1
    ),
    "update": Specimen(
        lambda b, x, s, p, n: contraction.update(b, x, s, contraction.UpdateOperators(p, n)),
        (numbers(BATCH, BASIS, D_MODEL), OLD, numbers(BATCH, SAMPLE, BASIS), numbers(BATCH, SAMPLE, BASIS),
         numbers(BATCH, POS, BASIS)), 5,
    ),
    "age_map": Specimen(
        lambda t, where: contraction.age_map(t, 10, [contraction.Update(7, 0.5), contraction.Update(3, 0.9, where)]),
        (T, PAST),
    ),
    "linear_recurrence": Specimen(
        lambda s, p, n: tuple(recurrence.linear_recurrence(s, contraction.UpdateOperators(p, n))),
        (numbers(SAMPLE, BASIS), *OPERATORS),
    ),
    "exact_recurrence": Specimen(lambda n: tuple(recurrence.exact_recurrence(seven(), n, 0.75, 0.1)), (NEW,)),
    "recur": Specimen(
        lambda b, x, a, c: recurrence.recur(recurrence.LinearRecurrence(a, c), b, x),
        (numbers(BATCH, BASIS, D_MODEL), OLD, *RECURRENCE), 2,
    ),
    "retained_mass": Specimen(
        lambda a, c: recurrence.retained_mass(seven(), recurrence.LinearRecurrence(a, c), 5), tuple(RECURRENCE)
    ),
    "retained_energy": Specimen(
        lambda a, c: recurrence.retained_energy(seven(), recurrence.LinearRecurrence(a, c), 5), tuple(RECURRENCE)
    ),
    "half_life": Specimen(lambda shares: torch.tensor(recurrence.half_life(shares)), (torch.tensor([1.0, 0.7, 0.3]),)),
    "attention_histogram": Specimen(lambda m, v: sticky.attention_histogram(m, v, 19), (HEADS, HEADS + 0.1), 2),
    "sample_locations": Specimen(
        lambda p: sticky.sample_locations(p, SAMPLE, torch.Generator().manual_seed(0)), (numbers(BATCH, 19),)
    ),
    "provenance": Specimen(
        lambda where, p: sticky.provenance(where, p).density, (numbers(BATCH, SAMPLE), numbers(BATCH, 19)), 2
    ),
    "scores": Specimen(
        attention.scores, (numbers(BATCH, HEAD, QUERY, D_HEAD), numbers(BATCH, HEAD, BASIS, D_HEAD)), 2
    ),
    "collapsed_keys": Specimen(
        lambda b, k, w: attention.collapsed_keys(b, k, w, HEAD),
        (numbers(BATCH, BASIS, D_MODEL), numbers(D_MODEL, D_MODEL), numbers(2, BASIS)), 1,
    ),
    "collapsed_logits": Specimen(
        lambda q, k: tuple(attention.collapsed_logits(q, k)),
        (numbers(BATCH, HEAD, QUERY, D_HEAD), numbers(BATCH, HEAD, 2, D_HEAD)), 2,
    ),
    "density": Specimen(lambda m, s: tuple(attention.density(m, s)), (HEADS, HEADS - 0.5), 2),
    "expected_value": Specimen(
        attention.expected_value, (numbers(BATCH, HEAD, QUERY, BASIS), numbers(BATCH, HEAD, BASIS, D_HEAD)), 2
    ),
    "continuous_read": Specimen(
        lambda m, v, values: attention.continuous_read(attention.Density(m, v), values, seven(m.dtype)),
        (HEADS, HEADS + 0.1, numbers(BATCH, HEAD, BASIS, D_HEAD)), 3,
    ),
    "kl_regularizer": Specimen(lambda v: attention.kl_regularizer(v, 0.05), (HEADS + 0.1,), 1),
    "discrete_attention": Specimen(
        attention.discrete_attention,
        (numbers(BATCH, HEAD, QUERY, D_HEAD), numbers(BATCH, HEAD, POS, D_HEAD), numbers(BATCH, HEAD, POS, D_HEAD) - 1),
        3,
    ),
    "mean_pool": Specimen(lambda x: compression.mean_pool(x, 3), (OLD,), 1),
    "max_pool": Specimen(lambda x: compression.max_pool(x, 3), (OLD,), 1),
    "most_used": Specimen(lambda x, u: compression.most_used(x, u, 3), (OLD, numbers(BATCH, POS)), 2),
    "Convolution.forward": Specimen(lambda x: of_type(compression.Convolution(D_MODEL, 3), x), (OLD,), 1),
    "DilatedConvolution.forward": Specimen(
        lambda x: of_type(EVEN_CONVOLUTION, x), (OLD,), 1
    ),
    "content_attention": Specimen(
        lambda q, kv: compression.content_attention(q, kv, HEAD), (HIDDEN, numbers(BATCH, POS, 2 * D_MODEL)), 2
    ),
    "attention_reconstruction_loss": Specimen(
        lambda q, old, new, w: compression.attention_reconstruction_loss(q, old, new, w, HEAD),
        (HIDDEN, OLD, OLD[:, ::3] + 0.5, WEIGHT),
    ),
}  # fmt: skip

# What takes no tensor, or checks one argument for others.
WITHOUT_TENSORS = {"GaussianBasis.grid", "GaussianBasis.integrals", "GaussianBasis.inner_products", "GaussianBasis.to"}
WITHOUT_TENSORS |= {"GaussianBasis.stretched", "validate_grid", "positions", "padding_positions", "validate_tau"}
WITHOUT_TENSORS |= {"scaled_tau"}
# Where a number that is rounded to bfloat16 falls on the other side of an edge, or there is little but rounding left.
DECIDED_BY_ROUNDING = {"sample_locations", "provenance", "most_used", "ridge_operator", "update_operators"}
DECIDED_BY_ROUNDING |= {"regression_error"}
EVEN_CONVOLUTION = compression.DilatedConvolution(D_MODEL, 3)


def public_functions() -> set[str]:
    """Functions and methods that the modules of the equations define."""
    found = set()
    for module in MODULES:
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value):
                found.add(name)
            elif inspect.isclass(value) and not hasattr(value, "_fields"):
                methods = inspect.getmembers(
                    value, lambda member: inspect.isfunction(member) or inspect.ismethod(member)
                )
                found |= {f"{name}.{method}" for method, _ in methods if method in vars(value) and method[0] != "_"}
    return found


def test_every_public_function_has_a_specimen_and_bad_inputs():
    assert public_functions() == set(SPECIMENS) | WITHOUT_TENSORS
    assert public_functions() - {name for name, *_ in BAD} == set()


def flat(result) -> list[torch.Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("name", SPECIMENS)
def test_types_and_memory_layouts_change_nothing(name):
    call, tensors, _, takes_bfloat16 = SPECIMENS[name]
    expected = flat(call(*tensors))
    turned = [torch.empty(tuple(t.shape[::-1]), dtype=t.dtype).permute(*range(t.ndim)[::-1]).copy_(t) for t in tensors]
    spread = [torch.stack([t, torch.full_like(t, NAN)], dim=-1)[..., 0] for t in tensors]
    for layout in (turned, spread, [t.clone().requires_grad_() for t in tensors]):
        assert_close(flat(call(*layout)), expected, rtol=1e-12, atol=1e-14)
    with torch.inference_mode():
        assert_close(flat(call(*tensors)), expected, rtol=0, atol=0)
    for dtype, tolerance in ((torch.float32, 2e-3), (torch.bfloat16, 0.15)):
        if dtype != torch.bfloat16 or takes_bfloat16:
            for one, other in zip(flat(call(*(t.to(dtype) for t in tensors))), expected, strict=True):
                assert one.isfinite().all()
                if name not in DECIDED_BY_ROUNDING:
                    assert_close(
                        one.double(), other.double(), rtol=tolerance, atol=tolerance * other.abs().max().item()
                    )


@pytest.mark.parametrize("name", SPECIMENS)
def test_gradients_are_finite(name):
    call, tensors, *_ = SPECIMENS[name]
    inputs = [t.clone().requires_grad_() for t in tensors]
    results = [result for result in flat(call(*inputs)) if result.requires_grad]
    for gradient in torch.autograd.grad([r.sum() for r in results], inputs, allow_unused=True) if results else []:
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name, specimen in SPECIMENS.items() if specimen.rows])
def test_rows_are_read_alone_and_an_empty_batch_is_empty(name):
    call, tensors, rows, _ = SPECIMENS[name]
    expected = flat(call(*tensors))
    for row in range(BATCH):
        alone = call(*(t[row : row + 1] for t in tensors[:rows]), *tensors[rows:])
        for one, other in zip(flat(alone), expected, strict=True):
            assert_close(one, other[row : row + 1], rtol=1e-10, atol=1e-12)
    for one, other in zip(flat(call(*(t[:0] for t in tensors[:rows]), *tensors[rows:])), expected, strict=True):
        assert one.shape == (0, *other.shape[1:])
    if name in ("contracted_positions", "ridge_operator", "ridge_solve", "update_operators", "provenance", "most_used"):
        return  # they refuse NaN, look it up, or have more than it in a row
    broken = [t.clone() for t in tensors[:rows]]
    for t in broken:
        t[0] = NAN
    for one, other in zip(flat(call(*broken, *tensors[rows:])), expected, strict=True):
        assert one[0].isnan().all(), "NaN may not become a number"
        assert_close(one[1:], other[1:], rtol=1e-10, atol=1e-12)


# --- bad inputs -------------------------------------------------------------------------------------------------------

ONE = torch.ones(1, dtype=torch.float64)
TWINS = GaussianBasis(torch.tensor([0.5, 0.5]).double(), torch.tensor([0.1, 0.1]).double())
Q, K, V = numbers(BATCH, HEAD, QUERY, D_HEAD), numbers(BATCH, HEAD, BASIS, D_HEAD), numbers(BATCH, HEAD, BASIS, D_HEAD)
B = numbers(BATCH, BASIS, D_MODEL)
DENSITY = attention.Density(HEADS, HEADS + 0.1)
ROWS = OPERATORS._replace(past=OPERATORS.past.expand(3, -1, -1), new=OPERATORS.new.expand(3, -1, -1))

BAD = [
    ("gaussian_density", lambda: basis.gaussian_density(ONE, ONE, 0 * ONE), "variance must be > 0, got 0.0"),
    ("gaussian_density", lambda: basis.gaussian_density(ONE, ONE, -ONE), "variance must be > 0, got -1.0"),
    ("gaussian_mass", lambda: basis.gaussian_mass(0 * ONE, 0 * ONE, 0.0, 1.0), "variance must be > 0, got 0.0"),
    ("gaussian_mass", lambda: basis.gaussian_mass(ONE, ONE, 1.0, 0.0), "upper - lower must be >= 0, got -1.0"),
    ("gaussian_mass", lambda: basis.gaussian_mass(ONE, ONE, ONE, 0 * ONE), "upper - lower must be >= 0, got -1.0"),
    ("GaussianBasis.grid", lambda: GaussianBasis.grid(3, (1e-200,)), "every width in sigmas must be > 0"),
    ("GaussianBasis.grid", lambda: GaussianBasis.grid(3, (1e-30,)), "sigmas must have a square that torch.float32"),
    ("GaussianBasis.grid", lambda: GaussianBasis.grid(3, (1e30,)), "sigmas must have a square that torch.float32"),
    ("GaussianBasis.grid", lambda: GaussianBasis(ONE, INF * ONE), "sigmas must have a square"),
    ("GaussianBasis.grid", lambda: GaussianBasis(NAN * ONE, ONE), "centers must be finite"),
    ("validate_grid", lambda: basis.validate_grid(3, (-0.1,)), "every width in sigmas must be > 0, got -0.1"),
    ("GaussianBasis.to", lambda: GaussianBasis.grid(3, (1e-9,)).to(torch.float16), "every width in sigmas must be"),
    ("GaussianBasis.evaluate", lambda: seven().evaluate(torch.ones(2, dtype=torch.int64)), "t must be a tensor of"),
    ("GaussianBasis.expectation", lambda: seven().expectation(ONE, 0 * ONE), "sigma_sq must be > 0, got 0.0"),
    ("GaussianBasis.expectation", lambda: seven().expectation(ONE, -ONE), "sigma_sq must be > 0, got -1.0"),
    ("GaussianBasis.expectation", lambda: seven().expectation(99 * ONE, ONE, unit_interval=True),
     "mass in .* that mu and sigma_sq leave must be > 0"),
    ("GaussianBasis.integrals", lambda: GaussianBasis(ONE, -ONE).integrals(), "every width in sigmas must be > 0"),
    ("GaussianBasis.inner_products", lambda: seven().inner_products(GaussianBasis(ONE, 0 * ONE)), "width in sigmas"),
    ("GaussianBasis.stretched", lambda: seven().stretched(0.0), "tau must be > 0, got 0.0"),
    ("GaussianBasis.stretched", lambda: seven().stretched(1e-300), "width in sigmas must have a square"),
    ("positions", lambda: signal.positions(0), "length must be at least 1 token"),
    ("padding_positions", lambda: signal.padding_positions(0), "length must be at least 1 token"),
    ("padding_positions", lambda: signal.padding_positions(3, shift=NAN), r"shift must be in \[0, 0.5\], got nan"),
    ("padding_positions", lambda: signal.padding_positions(3, shift=5.0), r"shift must be in \[0, 0.5\], got 5.0"),
    ("ridge_operator", lambda: signal.ridge_operator(seven(), NAN * NEW, 1.0), "positions must be finite"),
    ("ridge_operator", lambda: signal.ridge_operator(seven(), INF * NEW, 1.0), "positions must be finite"),
    ("ridge_operator", lambda: signal.ridge_operator(seven(), NEW, INF), "ridge must be >= 0, got inf"),
    ("ridge_operator", lambda: signal.ridge_operator(TWINS, NEW, 0.0), "no unique solution with ridge=0.0"),
    ("ridge_operator", lambda: signal.ridge_operator(TWINS, NEW, 1e-30), "no unique solution with ridge=1e-30"),
    ("ridge_solve", lambda: signal.ridge_solve(torch.ones(3, 4), torch.ones(3, 1), 1.0), "gram must be square"),
    ("ridge_solve", lambda: signal.ridge_solve(NAN * torch.eye(3), torch.ones(3, 1), 0.0), "gram must be finite"),
    ("ridge_solve", lambda: signal.ridge_solve(torch.eye(3).bfloat16(), torch.ones(3, 1).bfloat16(), 1.0),
     "gram must be in float32 or float64, got torch.bfloat16"),
    ("ridge_solve", lambda: signal.ridge_solve(-torch.eye(3), torch.ones(3, 1), 0.5), "no unique solution"),
    ("fit", lambda: signal.fit(OLD, numbers(5, BASIS)), "operator must have the axes"),
    ("read", lambda: signal.read(B, GaussianBasis.grid(3, (0.1,)), T), "one row per basis function"),
    ("effective_degrees_of_freedom", lambda: signal.effective_degrees_of_freedom(TWINS, NEW, 0.0), "no unique"),
    ("regression_error", lambda: signal.regression_error(OLD, seven(), NEW, -1.0), "ridge must be >= 0, got -1.0"),
    ("validate_tau", lambda: contraction.validate_tau(NAN), r"tau must be in \(0, 1\), got nan"),
    ("scaled_tau", lambda: contraction.scaled_tau(0, 1), "num_past must be at least 1"),
    ("contracted_positions", lambda: contraction.contracted_positions(T, T, 1.0), r"tau must be in \(0, 1\), got 1.0"),
    ("update_operators", lambda: contraction.update_operators(TWINS, T, T, 0.5, 0.0), "no unique solution"),
    ("update", lambda: contraction.update(B, OLD, PAST[:, None].expand(-1, BASIS), ROWS),
     "samples and operators must be one set for all rows, or one for each of the 2"),
    ("update", lambda: contraction.update(B, OLD[:, :4], numbers(SAMPLE, BASIS), OPERATORS),
     "operators.new must have the axes .* with pos = 4, got pos = 6"),
    ("update", lambda: contraction.update(B, OLD, numbers(4, BASIS), OPERATORS),
     "operators.past must have the axes .* with sample = 4, got sample = 13"),
    ("update", lambda: contraction.update(B.float(), OLD, numbers(SAMPLE, BASIS), OPERATORS),
     "must be of one type, got coefficients in torch.float32, x in torch.float64"),
    ("age_map", lambda: contraction.age_map(T, 5, [contraction.Update(0, 0.5)]), "updates must write at least one"),
    ("age_map", lambda: contraction.age_map(T, 5, [contraction.Update(3, 0.5, T[:0])]), "and its locations hold"),
    ("linear_recurrence", lambda: recurrence.linear_recurrence(numbers(SAMPLE, BASIS), ROWS), "operators must be one"),
    ("linear_recurrence", lambda: recurrence.linear_recurrence(numbers(4, BASIS), OPERATORS), "operators.past must"),
    ("exact_recurrence", lambda: recurrence.exact_recurrence(TWINS, NEW, 0.5, 0.0), "no unique solution"),
    ("exact_recurrence", lambda: recurrence.exact_recurrence(seven(), NEW, 1e-300, 1.0), "width in sigmas"),
    ("recur", lambda: recurrence.recur(RECURRENCE, B[:, :5], OLD), "coefficients must have .* = 7, got .* = 5"),
    ("recur", lambda: recurrence.recur(RECURRENCE, B, OLD[:, :4]), "x must have the axes .* pos = 6, got pos = 4"),
    ("recur", lambda: recurrence.recur(RECURRENCE, B.float(), OLD.float()), "must be of one type, got"),
    ("retained_mass", lambda: recurrence.retained_mass(TWINS, RECURRENCE, 2), "basis must have the 7 .*, got 2"),
    ("retained_energy", lambda: recurrence.retained_energy(TWINS, RECURRENCE, 2), "basis must have the 7"),
    ("retained_mass", lambda: recurrence.retained_mass(seven(), RECURRENCE._replace(write=0 * RECURRENCE.write), 2),
     "recurrence.write must write something"),
    ("half_life", lambda: recurrence.half_life(T[:0]), "retained must hold the share at age 0"),
    ("half_life", lambda: recurrence.half_life(NAN * T), "retained must be finite"),
    ("attention_histogram", lambda: sticky.attention_histogram(HEADS, 0 * HEADS, 3), "sigma_sq must be > 0, got 0.0"),
    ("attention_histogram", lambda: sticky.attention_histogram(HEADS, HEADS, 0), "num_bins must be at least 1"),
    ("sample_locations", lambda: sticky.sample_locations(-numbers(2, 3), 5), "probabilities must be >= 0, got -"),
    ("sample_locations", lambda: sticky.sample_locations(numbers(2, 0), 5), "probabilities must hold at least"),
    ("provenance", lambda: sticky.provenance(numbers(2, 5) + 1, numbers(2, 3)), "locations must be in .*, got 1."),
    ("provenance", lambda: sticky.provenance(numbers(2, 5), numbers(2, 0)), "probabilities must hold at least"),
    ("scores", lambda: attention.scores(Q[..., :0], K[..., :0]), "query must have at least one component"),
    ("scores", lambda: attention.scores(Q.float(), K), "must be of one type, got query in torch.float32"),
    ("collapsed_keys", lambda: attention.collapsed_keys(B, numbers(D_MODEL, D_MODEL), numbers(2, BASIS), 0), "num_h"),
    ("collapsed_logits", lambda: attention.collapsed_logits(Q[..., :0], K[..., :0]), "query must have"),
    ("density", lambda: attention.density(HEADS, HEADS, 0.0), "sigma_sq_min must be > 0 and finite, got 0.0"),
    ("density", lambda: attention.density(HEADS, HEADS, NAN), "sigma_sq_min must be > 0 and finite, got nan"),
    ("expected_value", lambda: attention.expected_value(numbers(BATCH, HEAD, QUERY, 3), V), "values must have"),
    ("continuous_read", lambda: attention.continuous_read(DENSITY, V[:, :1], seven()), "values must have the axes"),
    ("continuous_read", lambda: attention.continuous_read(DENSITY._replace(sigma_sq=-HEADS), V, seven()), "sigma"),
    ("continuous_read", lambda: attention.continuous_read(DENSITY._replace(mu=HEADS[:1]), V, seven()),
     "density.sigma_sq must have the axes .* with batch = 1, got batch = 2"),
    ("kl_regularizer", lambda: attention.kl_regularizer(0 * HEADS, 0.05), "sigma_sq must be > 0, got 0.0"),
    ("kl_regularizer", lambda: attention.kl_regularizer(HEADS.float(), 1e-30), "sigma_0 must be > 0 with a square"),
    ("kl_regularizer", lambda: attention.kl_regularizer(HEADS, 1e300), "sigma_0 must be > 0 with a square"),
    ("discrete_attention", lambda: attention.discrete_attention(Q, K, V[:, :, :3]), "values must have the axes"),
    ("mean_pool", lambda: compression.mean_pool(OLD, 0), "whole groups of rate=0"),
    ("mean_pool", lambda: compression.mean_pool(OLD, 3.0), "whole groups of rate=3.0"),
    ("max_pool", lambda: compression.max_pool(OLD, 4), "whole groups of rate=4"),
    ("most_used", lambda: compression.most_used(OLD, OLD[..., 0], -3), "whole groups of rate=-3"),
    ("Convolution.forward", lambda: compression.Convolution(D_MODEL, 0), "d_model and rate must be at least 1, got 33"),
    ("Convolution.forward", lambda: compression.Convolution(4, 3)(OLD), "old must have the axes .* with d_model = 4"),
    ("Convolution.forward", lambda: compression.Convolution(D_MODEL, 3)(OLD), "module's weights, must be of one type"),
    ("DilatedConvolution.forward", lambda: compression.DilatedConvolution(0, 3), "d_model and rate must be at least 1"),
    ("DilatedConvolution.forward", lambda: compression.DilatedConvolution(4, 3)(OLD), "old must have the axes"),
    ("content_attention", lambda: compression.content_attention(HIDDEN, WEIGHT.expand(2, -1, -1), 0), "num_heads"),
    ("content_attention", lambda: compression.content_attention(HIDDEN, OLD, 3), "keys_values twice as wide, got 3"),
    ("attention_reconstruction_loss", lambda: compression.attention_reconstruction_loss(HIDDEN, OLD, OLD, WEIGHT, 2),
     r"num_heads must be a divisor of d_model \(33\)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call", "message"), BAD, ids=[f"{name}: {message[:40]}" for name, _, message in BAD])
def test_bad_inputs_are_named(name, call, message, without_type_checker):
    with pytest.raises(ValueError, match=message):
        call()


# --- the right numbers at the edges -----------------------------------------------------------------------------------

float64 = lambda *values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
SIGMA = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)
TAU = st.sampled_from([1e-9, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-9]) | st.floats(0.01, 0.99)


@given(mean=st.floats(-3, 4), sigma=SIGMA, low=st.floats(-1, 1), length=st.floats(1e-6, 2))
def test_mass_keeps_its_digits_at_every_width(mean, sigma, low, length):
    expected = oracles.gaussian_mass(mean, sigma, low, low + length)
    assume(expected > 1e-60)  # further out the quadrature sees nothing
    actual = basis.gaussian_mass(float64(mean), float64(sigma**2), low, low + length).item()
    assert math.isclose(actual, expected, rel_tol=1e-8 + 1e-15 * max(1, abs(mean - low) / sigma) ** 2 / length)
    narrow = basis.gaussian_mass(torch.tensor([mean]), torch.tensor([sigma**2]), low, low + length).item()
    if expected > 1e-30 and abs(mean - low) < 3 * sigma and length > 0.01:
        assert math.isclose(narrow, expected, rel_tol=1e-3)


@given(mu=st.floats(-2, 3), sigma=st.floats(-4, 6).map(lambda e: 10.0**e), width=st.sampled_from([1e-3, 0.1, 3.0]))
@pytest.mark.parametrize("unit_interval", [False, True])
def test_expectations_of_narrow_wide_and_distant_densities(mu, sigma, width, unit_interval):
    functions = GaussianBasis(float64(-0.1, 0.0, 0.5, 1.0), float64(width, width, width, width))
    if unit_interval:
        assume(oracles.gaussian_mass(mu, sigma, 0, 1) > 1e-40)
    actual = functions.expectation(float64(mu), float64(sigma**2), unit_interval=unit_interval)[0]
    centers, sigmas = functions.centers.numpy(), functions.sigmas.numpy()
    expected = oracles.expectation_by_quadrature(mu, sigma**2, centers, sigmas, unit_interval)
    assert_allclose(actual, expected, rtol=1e-6, atol=1e-9 * expected.max() + 1e-60)


@given(mu=st.floats(-1, 2), sigma=st.floats(-4, 6).map(lambda e: 10.0**e), num_bins=st.integers(1, 12))
def test_histograms_of_narrow_wide_and_distant_densities(mu, sigma, num_bins):
    assume(oracles.gaussian_mass(mu, sigma, 0, 1) > 1e-200)
    one = torch.full((1, 1, 1), mu, dtype=torch.float64)
    expected = oracles.histogram_by_quadrature(one.numpy(), np.full((1, 1, 1), sigma**2), num_bins)
    assert_allclose(sticky.attention_histogram(one, torch.full_like(one, sigma**2), num_bins), expected, atol=1e-7)
    narrow = sticky.attention_histogram(one.float(), torch.full_like(one, sigma**2).float(), num_bins)
    assert narrow.isfinite().all() and abs(narrow.sum().item() - 1) < 1e-5
    if sigma > 10:  # so wide that every bin gets the same
        assert_allclose(narrow, 1 / num_bins, rtol=0.05)


@pytest.mark.parametrize("sigma", [1e3, 1e5, 1e12])
def test_a_head_that_looks_everywhere_looks_evenly(sigma):
    wide = torch.full((1, 1, 1), sigma**2)
    assert_allclose(sticky.attention_histogram(0 * wide + 0.5, wide, 4), 0.25, rtol=1e-4)
    read = seven(torch.float32).expectation(0 * wide + 0.5, wide, unit_interval=True)
    assert_allclose(read.flatten(), seven(torch.float32).integrals(), rtol=1e-3)


@given(
    num_basis=st.integers(1, 9), sigma=st.sampled_from([1e-3, 0.1, 10.0]), num_pos=st.integers(1, 20),
    ridge=st.sampled_from([0.0, 1e-12, 1e-6, 1.0, 1e6]), dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_a_fit_is_least_squares_or_refused(num_basis, sigma, num_pos, ridge, dtype):
    functions, t = GaussianBasis.grid(num_basis, (sigma,), dtype=torch.float64), signal.positions(num_pos, dtype=dtype)
    values = oracles.basis_values(t.numpy(), functions.centers.numpy(), functions.sigmas.numpy())
    try:
        operator = signal.ridge_operator(functions, t, ridge)
    except ValueError as error:
        assert "no unique solution" in str(error)
        assert np.linalg.cond(values.T @ values + ridge * np.eye(num_basis)) > 1e12
        return
    expected = oracles.ridge_operator_by_lstsq(values, ridge)
    condition = np.linalg.cond(values.T @ values + ridge * np.eye(num_basis))
    scale = np.abs(expected).max()
    assert_allclose(
        operator, expected, atol=1e-30 + scale * max(1e-5 if dtype == torch.float32 else 0.0, 1e-13 * condition)
    )


@given(tau=TAU, num_past=st.integers(1, 9), num_new=st.integers(1, 9), num_basis=st.integers(1, 5))
def test_an_update_is_a_refit_at_every_share(tau, num_past, num_new, num_basis):
    functions = GaussianBasis.grid(num_basis, (0.2,), dtype=torch.float64)
    past, new = signal.positions(num_past), signal.positions(num_new)
    before, x = numbers(1, num_basis, 2) - 0.5, numbers(1, num_new, 2) - 0.5
    operators = contraction.update_operators(functions, past, new, tau, 0.1)
    after = contraction.update(before, x, functions.evaluate(past), operators)
    expected = oracles.update_by_refit(
        before.numpy(), x.numpy(), functions.centers.numpy(), functions.sigmas.numpy(), tau, past.numpy(),
        tau * past.numpy(), tau + (1 - tau) * new.numpy(), 0.1,
    )  # fmt: skip
    assert_allclose(after, expected, rtol=1e-9, atol=1e-11)
    transition, write = recurrence.exact_recurrence(functions, new, tau, 0.1)
    assert transition.isfinite().all() and write.isfinite().all()


@given(
    t=st.floats(0, 1), taus=st.lists(TAU, max_size=9), lengths=st.lists(st.integers(1, 50), min_size=10, max_size=10)
)
def test_ages_are_followed_back_at_every_share(t, taus, lengths):
    lengths = lengths[: len(taus) + 1]
    updates = [contraction.Update(new, tau) for new, tau in zip(lengths[1:], taus, strict=True)]
    token, age = contraction.age_map(float64(t), lengths[0], updates)
    assert math.isclose(token.item(), oracles.age_of(t, taus, lengths), rel_tol=1e-9, abs_tol=1e-6)
    assert age.item() in range(len(taus) + 1)


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 1.0, 1e300]), min_size=1, max_size=9),
    count=st.integers(1, 30), method=st.sampled_from(["stratified", "iid", "left_edge"]),
)  # fmt: skip
def test_locations_are_sorted_and_where_attention_was(weights, count, method):
    rows = float64(weights, [1.0] * len(weights), [NAN] * len(weights), [INF] * len(weights))
    where = sticky.sample_locations(rows, count, torch.Generator().manual_seed(0), method)
    assert ((where >= 0) & (where <= 1)).all() and (where.diff() >= 0).all()
    bins = sticky.provenance(where, rows).bin[0]
    if max(weights) > 0:
        assert all(weights[place] > 0 for place in bins.tolist())


@given(shape=st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 3)), rate=st.integers(1, 4))
def test_compressions_of_any_size_are_loops_over_groups(shape, rate):
    batch, groups, d_model = shape
    old, usage = numbers(batch, groups * rate, d_model), numbers(batch, groups * rate)
    parts = [old[:, start : start + rate] for start in range(0, groups * rate, rate)]
    for function, summary in ((compression.mean_pool, torch.mean), (compression.max_pool, torch.amax)):
        expected = torch.stack([summary(part, dim=1) for part in parts], dim=1) if parts else old
        assert_close(function(old, rate), expected)
    kept = compression.most_used(old, usage, rate)
    for row in range(batch):
        best = sorted(sorted(range(groups * rate), key=lambda place, row=row: -usage[row, place].item())[:groups])
        assert torch.equal(kept[row], old[row, best])
    for kind in (compression.Convolution, compression.DilatedConvolution):
        assert kind(d_model, rate)(old.float()).shape == (batch, groups, d_model)


@given(logit=st.floats(-1e4, 1e4), smallest=st.sampled_from([1e-300, 1e-6, 1.0]), narrow=st.booleans())
def test_densities_are_never_without_width(logit, smallest, narrow):
    dtype = torch.float16 if narrow else torch.float64
    mu, sigma_sq = attention.density(*torch.full((2, 1, 1, 1), logit, dtype=dtype), smallest)
    assert 0 <= mu.item() <= 1 and 0 < sigma_sq.item() < INF
    if not narrow:
        assert math.isclose(sigma_sq.item(), max(np.logaddexp(0, logit), smallest), rel_tol=1e-12)


@given(energy=st.floats(-37, 37), num_pos=st.integers(1, 30))
def test_the_lost_share_does_not_depend_on_the_size_of_the_signal(energy, num_pos):
    x, t = numbers(2, num_pos, 3).float() - 0.5, signal.positions(num_pos)
    expected = signal.regression_error(x, seven(), t, 0.1)
    assert_close(signal.regression_error(10.0**energy * x, seven(), t, 0.1), expected, rtol=1e-3, atol=1e-6)
    assert signal.regression_error(0 * x, seven(), t, 0.1).tolist() == [0.0, 0.0]


# --- memories ---------------------------------------------------------------------------------------------------------

PRESETS = {name: getattr(MemoryConfig, name) for name in ("paper", "released", "best")}
CONFIGS = {name: preset(num_basis=BASIS - 1) for name, preset in PRESETS.items()}
CONFIGS |= {f"one {name}": preset(num_basis=1, sigmas=(0.3,), num_samples=1) for name, preset in PRESETS.items()}
SAMPLED = {"contraction": "sampled", "num_samples": 5, "num_bins": 3}
CONFIGS |= {
    f"sticky {how} {place}": MemoryConfig.best(num_basis=6, **SAMPLED, sticky=how, placement=place)
    for how in ("stratified", "iid", "left_edge") for place in ("address", "even")
}  # fmt: skip
CONFIGS |= {"sampled": MemoryConfig.best(num_basis=BASIS - 1, **SAMPLED)}
CONFIGS |= {"little past": MemoryConfig(num_basis=6, tau=1e-9), "little new": MemoryConfig(num_basis=6, tau=1 - 1e-9)}
CONFIGS |= {"needles": MemoryConfig(num_basis=6, sigmas=(1e-6,)), "blankets": MemoryConfig(num_basis=6, sigmas=(1e6,))}


@pytest.mark.parametrize("name", CONFIGS)
@given(lengths=st.lists(st.sampled_from([1, 2, 7, 60]), min_size=1, max_size=4), queries=st.integers(0, 3))
def test_a_memory_of_any_kind_reads_numbers(name, lengths, queries):
    layer = LongTermMemory(6, 2, CONFIGS[name])
    state, generator = layer.empty(2), torch.Generator().manual_seed(0)
    for number, length in enumerate(lengths, start=1):
        new, query = (torch.randn(2, size, 6, generator=generator) for size in (length, queries))
        z, state, reading = layer(query, new, state, generator=generator)
        assert z.shape == (2, queries, 6) and z.isfinite().all()
        assert all(part.isfinite().all() for part in (*state, *reading))
        assert state.num_tokens.tolist() == [sum(lengths[:number])] * 2
    assert layer(query[:0], new[:0], memory.MemoryState(*(part[:0] for part in state)))[0].shape == (0, queries, 6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_memory_in_another_type_than_its_input_is_refused(dtype, without_type_checker):
    layer, x = LongTermMemory(6, 2, CONFIGS["best"]), torch.ones(2, 3, 6, dtype=dtype)
    with pytest.raises(ValueError, match=f"module's weights, must be of one type, got query in {dtype}"):
        layer(x, x)
    layer = LongTermMemory(6, 2, CONFIGS["paper"])
    with pytest.raises(
        ValueError, match=f"LongTermMemory.write: all tensors, .* must be of one type, got new in {dtype}"
    ):
        layer.write(x, layer.empty(2))


COUNTS = [
    (torch.tensor([-1, 3]), "must be >= 0, got -1"),
    (torch.tensor([1.0, 3.0]), "must be counts, got torch.float32"),
]


@pytest.mark.parametrize(("counts", "message"), COUNTS)
def test_counts_that_are_none_are_refused(counts, message, without_type_checker):
    layer = LongTermMemory(6, 2, CONFIGS["paper"])
    with pytest.raises(ValueError, match=f"state.num_tokens {message}"):
        layer.write(torch.ones(2, 3, 6), layer.empty(2)._replace(num_tokens=counts))


def test_padding_that_fits_into_no_memory_is_refused():
    layer = LongTermMemory(6, 2, MemoryConfig(num_basis=6, contraction="exact", tau=1 - 1e-9))
    state = layer.write(torch.ones(1, 3, 6), layer.empty(1))
    with pytest.raises(ValueError, match=r"tau=0.999999999 pads with more than 262,144 zeros.*: choose a smaller tau"):
        layer.write(torch.ones(1, 3, 6), state)


def test_more_than_there_is_does_not_leave_a_compressed_memory():
    layer = CompressedMemory(6, CompressedMemoryConfig(length=3, rate=2))
    with pytest.raises(ValueError, match="num_leaving must be >= 0, got -1"):
        layer.append(torch.ones(2, 1, 6), layer.empty(2), -1)
    with pytest.raises(ValueError, match="batch = 2, got batch = 3"):
        layer.write(torch.ones(2, 4, 6), layer.empty(3))
    assert isinstance(layer.write(torch.ones(0, 4, 6), layer.empty(0)), CompressedState)


def test_a_rate_that_is_no_whole_number_spoils_nothing(without_type_checker):
    with pytest.raises(ValueError, match=r"whole groups of rate=2\.0"):
        compression.mean_pool(OLD, 2.0)
    assert compression.mean_pool(OLD, 2).shape == (BATCH, 3, D_MODEL)


def test_nothing_to_compare_costs_nothing():
    loss = compression.attention_reconstruction_loss(HIDDEN[:, :0], OLD, OLD[:, ::3], WEIGHT, HEAD)
    assert loss.item() == 0


def test_checks_of_values_leave_vmap_alone():
    doubled = torch.vmap(lambda t: basis.gaussian_density(t, 0 * t, 1 + 0 * t))(T)
    assert_close(doubled, basis.gaussian_density(T, 0 * T, 1 + 0 * T))


@pytest.mark.parametrize(("shares", "age"), [([0.5, 0.4], 0.0), ([0.3], 0.0), ([1.0, 0.5, 0.5], 1.0), ([0.6], INF)])
def test_what_is_halved_at_once_or_never(shares, age):
    assert recurrence.half_life(torch.tensor(shares)) == age


def test_what_is_infinitely_far_is_infinitely_far():
    far = attention.kl_regularizer(torch.tensor([1e38, 1e-38]), 0.05)
    assert far[0] == INF and 30 < far[1] < INF
