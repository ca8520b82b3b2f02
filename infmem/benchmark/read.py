"""How long a read of the memory takes in each of its forms: as the paper writes it, collapsed, compiled, in one kernel.

All forms give the same numbers; how far each is from the first is measured too.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from infmem.attention import Density, continuous_read, expected_value
from infmem.basis import GaussianBasis
from infmem.benchmark.timing import device_rates, floor_milliseconds, measure, tensor_float_32
from infmem.cost import Cost, ReadSizes, collapsed_densities, expected_read, projection
from infmem.fast import compile_function
from infmem.kernels import fits
from infmem.memory import LongTermMemory, MemoryConfig

Pass = Literal["forward", "forward and backward"]
PASSES: tuple[Pass, ...] = ("forward", "forward and backward")
# The kernel makes products of float32 numbers as PyTorch is asked to make its own: exactly, or rounded to TF32.
ROUNDED = "kernel, TF32"


def benchmark_read(
    device: torch.device,
    sizes: ReadSizes,
    memory: MemoryConfig,
    *,
    calls: int = 50,
    compiled: bool = True,
    rates: Cost | None = None,
) -> Iterator[dict]:
    """Time the read of a memory, forward and with its gradients.

    Args:
        device: where to read.
        sizes: of queries and memory.
        memory: the long-term memory; its `num_basis` is that of `sizes`.
        calls: how many are timed.
        compiled: whether the compiled forms are timed too; they take some seconds to compile.
        rates: what the device does in a second at its best; None measures it.

    Yields:
        A row for each form and pass. A read begins with the queries (values and densities are computed too) or with the
        densities (what the kernel does). `milliseconds` and the others are those of `timing.measure`;
        `floor_milliseconds` is what the device can't go below, counted by `infmem.cost`; `difference` how far the
        result, or with gradients the worst of them, is from the first form's, relative to its largest number.
    """
    rates = device_rates(device) if rates is None else rates
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = LongTermMemory(sizes.d_model, sizes.num_heads, memory).to(device)
    for begins, (forms, inputs) in _reads(module, sizes, compiled).items():
        for name in PASSES:
            expected = None
            for form, function in forms.items():
                call = partial(called, function, inputs, name)
                call = tensor_float_32()(call) if form == ROUNDED else call
                result = [tensor.clone() for tensor in call()]
                expected = result if expected is None else expected
                yield {
                    "begins_with": begins,
                    "form": form,
                    "pass": name,
                    **measure(call, device, calls),
                    "floor_milliseconds": floor_milliseconds(_cost(begins, sizes, name), rates),
                    "difference": max(map(_difference, result, expected)),
                }


def _reads(
    module: LongTermMemory, sizes: ReadSizes, compiled: bool
) -> dict[str, tuple[dict[str, Callable[..., Tensor]], tuple[Tensor, ...]]]:
    """All forms of both reads, by their names, and what they are called with."""
    basis, like = module.basis, module.to_mu.weight
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(sizes.batch, sizes.query_pos, sizes.d_model, generator=generator)
    coefficients = torch.randn(sizes.batch, sizes.num_basis, sizes.d_model, generator=generator)
    mu, sigma = torch.rand(2, sizes.batch, sizes.num_heads, sizes.query_pos, generator=generator)
    values = torch.randn(sizes.batch, sizes.num_heads, sizes.num_basis, sizes.d_head, generator=generator)
    from_queries = [query, coefficients]
    from_densities = [mu, (0.01 + 0.2 * sigma) ** 2, values]
    for inputs in (from_queries, from_densities):
        inputs[:] = [tensor.to(like.device).requires_grad_() for tensor in inputs]
    unit = module.config.interval == "unit"
    queries = {
        "textbook": partial(read_queries, module, basis, textbook=True),
        "collapsed": partial(read_queries, module, basis),
    }
    densities = {"written out": partial(read_densities, basis, unit)}
    if compiled:
        queries["collapsed, compiled"] = compile_function(queries["collapsed"])
        densities["compiled"] = compile_function(densities["written out"])
    if fits(values.to(like.device)):
        queries["collapsed, kernel"] = partial(read_queries, module, basis, kernel=True)
        densities["kernel"] = densities[ROUNDED] = partial(read_densities, basis, unit, kernel=True)
        if compiled:
            queries["collapsed, kernel, compiled"] = compile_function(queries["collapsed, kernel"])
    parameters = (module.value.weight, module.key.weight, module.to_mu.weight, module.to_sigma_sq.weight)
    return {"queries": (queries, (*from_queries, *parameters)), "densities": (densities, tuple(from_densities))}


def read_queries(
    module: LongTermMemory,
    basis: GaussianBasis,
    query: Tensor,
    coefficients: Tensor,
    *weights: Tensor,
    textbook: bool = False,
    kernel: bool = False,
) -> Tensor:
    """What every head reads for projected queries: densities, values, read, without the projection of the result.

    The weights are those of the module, named once more so that their gradients are asked for.
    """
    values = rearrange(
        module.value(coefficients), "batch basis (head d_head) -> batch head basis d_head", head=module.num_heads
    )
    density = module._density(query, coefficients, module.key.weight, textbook)
    return read_densities(basis, module.config.interval == "unit", *density, values, kernel=kernel)


def read_densities(
    basis: GaussianBasis, unit_interval: bool, mu: Tensor, sigma_sq: Tensor, values: Tensor, *, kernel: bool = False
) -> Tensor:
    """What every head reads under its density; on a GPU without the kernel, unless it is asked for."""
    density = Density(mu, sigma_sq)
    if kernel:
        return continuous_read(density, values, basis, unit_interval=unit_interval)
    return expected_value(basis.expectation(*density, unit_interval=unit_interval), values)


def called(function: Callable[..., Tensor], inputs: Sequence[Tensor], name: Pass) -> tuple[Tensor, ...]:
    """The result, or the gradients of its sum of squares."""
    if name == "forward":
        with torch.no_grad():
            return (function(*inputs),)
    result = function(*inputs)
    return torch.autograd.grad(result, inputs, result.detach())


def _difference(result: Tensor, expected: Tensor) -> float:
    return ((result - expected).abs().max() / expected.abs().max()).item()


def _cost(begins: str, sizes: ReadSizes, name: Pass) -> Cost:
    """Of the cheapest way: densities from collapsed keys."""
    backward = name != "forward"
    read = expected_read(sizes, backward=backward)
    if begins == "densities":
        return read
    products = projection(sizes, sizes.num_basis).plus(collapsed_densities(sizes))
    return read.plus(Cost(products.products * (3 if backward else 1)))
