r"""The continuous read in one GPU kernel: the weights of the basis functions are made, used and forgotten.

Every query of every head weighs N basis functions. Written out, these weights are the largest tensor of the model,
[batch, head, query_pos, basis]. Here a block of them lives in registers only, and the backward pass makes them again.

Equal to `attention.continuous_read`.
"""

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from infmem.basis import GaussianBasis
from infmem.kernels.tiles import contiguous_channels, kernel, like_rows, load_tile, store_tile, strides

LOG2_E = tl.constexpr(math.log2(math.e))
SQRT_HALF = tl.constexpr(math.sqrt(0.5))
DENSITY_AT_0 = tl.constexpr(1 / math.sqrt(2 * math.pi))

# Queries and basis functions of a block, warps and pipeline stages: of the forward pass, of the gradient of the
# densities, and of the gradient of the values.
FORWARD = {"block_query": 128, "block_basis": 32, "num_warps": 4, "num_stages": 3}
BACKWARD_DENSITY = {"block_query": 64, "block_basis": 32, "num_warps": 4, "num_stages": 3}
BACKWARD_VALUES = {"block_query": 64, "block_basis": 32, "num_warps": 4, "num_stages": 3}


@kernel
def _standard_density(t):
    """The normal density of mean 0 and variance 1."""
    return tl.exp2(t * t * (-0.5 * LOG2_E)) * DENSITY_AT_0


@kernel
def _mass_inside(below, above, variance):
    """Mass of Gaussians in [0, 1], from the mean's distances to both ends: for means inside nothing cancels."""
    scale = tl.rsqrt(variance) * SQRT_HALF
    return 0.5 * (tl.erf(below * scale) + tl.erf(above * scale))


@kernel
def _slopes_of_mass(below, above, variance):
    """Derivatives of the mass in [0, 1] by mean and variance."""
    scale = tl.rsqrt(variance)
    below, above = below * scale, above * scale
    at_0, at_1 = _standard_density(below), _standard_density(above)
    return (at_0 - at_1) * scale, -0.5 * (above * at_1 + below * at_0) * scale * scale


@kernel
def _load_densities(mu, sigma_sq, row, queries, num_queries):
    """Mean and variance of a block of queries."""
    exists = queries < num_queries
    means = tl.load(mu + row * num_queries + queries, mask=exists, other=0.5)
    return means, tl.load(sigma_sq + row * num_queries + queries, mask=exists, other=1.0)


@kernel
def _load_functions(centers, sigmas, functions, num_basis):
    """Centre and variance of a block of basis functions."""
    exists = functions < num_basis
    sigma = tl.load(sigmas + functions, mask=exists, other=1.0)
    return tl.load(centers + functions, mask=exists, other=0.5), sigma * sigma


@kernel
def _product(mu, sigma_sq, center, width_sq):
    """Expectation of functions under densities over the whole line, its scaled distance, and the precision."""
    scale = tl.rsqrt(sigma_sq + width_sq)
    distance = (mu - center) * scale
    return _standard_density(distance) * scale, distance, scale


@kernel
def _third(mu, sigma_sq, center, width_sq, scale):
    """The normalised product of density and function: its mean's distances from 0 and from 1, and its variance."""
    precision = scale * scale
    below = (mu * width_sq + center * sigma_sq) * precision
    above = ((1 - mu) * width_sq + (1 - center) * sigma_sq) * precision  # not 1 - below, which loses digits
    return below, above, sigma_sq * width_sq * precision


@kernel
def _weights(
    mu, sigma_sq, center, width_sq, start, num_before, first_behind, unit_interval: tl.constexpr, block: tl.constexpr
):
    """Expectation of a block of functions under each density, but for the mass of the density itself."""
    weights, _, scale = _product(mu, sigma_sq, center, width_sq)
    if unit_interval:
        if (start < num_before) | (start + block > first_behind):  # others have no mass beyond an end
            below, above, variance = _third(mu, sigma_sq, center, width_sq, scale)
            weights = weights * _mass_inside(below, above, variance)
    return weights


@kernel
def _forward_kernel(
    mu, sigma_sq, values, centers, sigmas, output,
    values_batch, values_head, values_row, output_batch, output_head, output_row,
    num_heads, num_queries, num_basis, num_before, first_behind, num_blocks,
    unit_interval: tl.constexpr, d_head: tl.constexpr, block_d: tl.constexpr, precision: tl.constexpr,
    block_query: tl.constexpr, block_basis: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // num_blocks).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    queries = tl.program_id(0) % num_blocks * block_query + tl.arange(0, block_query)
    channels = tl.arange(0, block_d)
    m, s = _load_densities(mu, sigma_sq, row, queries, num_queries)
    read = tl.zeros([block_query, block_d], tl.float32)
    for start in range(0, num_basis, block_basis):
        functions = start + tl.arange(0, block_basis)
        c, w = _load_functions(centers, sigmas, functions, num_basis)
        v = load_tile(
            values + batch * values_batch + head * values_head, values_row, functions, num_basis, channels, d_head
        )
        weights = _weights(
            m[:, None], s[:, None], c[None, :], w[None, :], start, num_before, first_behind, unit_interval, block_basis
        )
        read += tl.dot(weights.to(v.dtype), v, input_precision=precision)
    if unit_interval:
        read = read / _mass_inside(m, 1 - m, s)[:, None]
    start_of_head = output + batch * output_batch + head * output_head
    read = read.to(output.dtype.element_ty)
    store_tile(read, start_of_head, output_row, queries, num_queries, channels, d_head)


@kernel
def _backward_density_kernel(
    mu, sigma_sq, values, centers, sigmas, grad_output, grad_mu, grad_sigma_sq,
    values_batch, values_head, values_row, output_batch, output_head, output_row,
    num_heads, num_queries, num_basis, num_before, first_behind, num_blocks,
    unit_interval: tl.constexpr, d_head: tl.constexpr, block_d: tl.constexpr, precision: tl.constexpr,
    block_query: tl.constexpr, block_basis: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // num_blocks).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    queries = tl.program_id(0) % num_blocks * block_query + tl.arange(0, block_query)
    channels = tl.arange(0, block_d)
    mean_rows, variance_rows = _load_densities(mu, sigma_sq, row, queries, num_queries)
    m, s = mean_rows[:, None], variance_rows[:, None]
    grad = load_tile(
        grad_output + batch * output_batch + head * output_head, output_row, queries, num_queries, channels, d_head
    )
    grad_m = tl.zeros([block_query], tl.float32)
    grad_s = tl.zeros([block_query], tl.float32)
    total = tl.zeros([block_query], tl.float32)
    for start in range(0, num_basis, block_basis):
        functions = start + tl.arange(0, block_basis)
        c, w = _load_functions(centers, sigmas, functions, num_basis)
        c, w = c[None, :], w[None, :]
        v = load_tile(
            values + batch * values_batch + head * values_head, values_row, functions, num_basis, channels, d_head
        )
        # Times the whole line's weight, so that every derivative below is a relative one.
        whole_line, distance, scale = _product(m, s, c, w)
        grad_weights = tl.dot(grad, tl.trans(v), input_precision=precision) * whole_line
        if unit_interval:
            if (start < num_before) | (start + block_basis > first_behind):
                below, above, variance = _third(m, s, c, w, scale)
                by_mean, by_variance = _slopes_of_mass(below, above, variance)
                share = w * scale * scale  # how far the third's mean follows the density's
                grad_m += tl.sum(grad_weights * by_mean * share, axis=1)
                slope = by_variance * share * share - by_mean * share * distance * scale
                grad_s += tl.sum(grad_weights * slope, axis=1)
                grad_weights = grad_weights * _mass_inside(below, above, variance)
        grad_m -= tl.sum(grad_weights * distance * scale, axis=1)
        grad_s += 0.5 * tl.sum(grad_weights * (distance * distance - 1) * scale * scale, axis=1)
        total += tl.sum(grad_weights, axis=1)
    if unit_interval:
        mass = _mass_inside(mean_rows, 1 - mean_rows, variance_rows)
        by_mean, by_variance = _slopes_of_mass(mean_rows, 1 - mean_rows, variance_rows)
        grad_m = (grad_m - total * by_mean / mass) / mass
        grad_s = (grad_s - total * by_variance / mass) / mass
    tl.store(grad_mu + row * num_queries + queries, grad_m, mask=queries < num_queries)
    tl.store(grad_sigma_sq + row * num_queries + queries, grad_s, mask=queries < num_queries)


@kernel
def _backward_values_kernel(
    mu, sigma_sq, centers, sigmas, grad_output, grad_values,
    values_batch, values_head, values_row, output_batch, output_head, output_row,
    num_heads, num_queries, num_basis, num_before, first_behind, num_blocks,
    unit_interval: tl.constexpr, d_head: tl.constexpr, block_d: tl.constexpr, precision: tl.constexpr,
    block_query: tl.constexpr, block_basis: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // num_blocks).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    first = tl.program_id(0) % num_blocks * block_basis
    functions = first + tl.arange(0, block_basis)
    channels = tl.arange(0, block_d)
    c, w = _load_functions(centers, sigmas, functions, num_basis)
    grad_v = tl.zeros([block_basis, block_d], tl.float32)
    for start in range(0, num_queries, block_query):
        queries = start + tl.arange(0, block_query)
        m, s = _load_densities(mu, sigma_sq, row, queries, num_queries)
        grad = load_tile(
            grad_output + batch * output_batch + head * output_head, output_row, queries, num_queries, channels, d_head
        )
        # Functions in rows, so that the product takes the weights as they are.
        weights = _weights(
            m[None, :], s[None, :], c[:, None], w[:, None], first, num_before, first_behind, unit_interval, block_basis
        )
        if unit_interval:
            weights = weights / _mass_inside(m, 1 - m, s)[None, :]
        grad_v += tl.dot(weights.to(grad.dtype), grad, input_precision=precision)
    start_of_head = grad_values + batch * values_batch + head * values_head
    grad_v = grad_v.to(grad_values.dtype.element_ty)
    store_tile(grad_v, start_of_head, values_row, functions, num_basis, channels, d_head)


def _common(mu: Tensor, values: Tensor, num_before: int, num_behind: int, unit_interval: bool) -> dict:
    d_head = values.shape[3]
    return {
        "num_heads": values.shape[1],
        "num_queries": mu.shape[2],
        "num_basis": values.shape[2],
        "num_before": num_before,
        "first_behind": values.shape[2] - num_behind,
        "unit_interval": unit_interval,
        "d_head": d_head,
        "block_d": max(16, triton.next_power_of_2(d_head)),
        "precision": _precision(values),
    }


def _precision(values: Tensor) -> str:
    """How products of float32 numbers are made: as exact as PyTorch is asked to make its own. Others do not care."""
    exact = values.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return "tf32x3" if exact else "tf32"


def _grid(num_items: int, block: int, values: Tensor) -> tuple[int, tuple[int]]:
    """Blocks of each head, and of all heads: one axis, since the others are limited to 65,535 blocks."""
    num_blocks = triton.cdiv(num_items, block)
    return num_blocks, (num_blocks * values.shape[0] * values.shape[1],)


@torch.library.custom_op("infmem::gaussian_read", mutates_args=())
def _forward(
    mu: Tensor,
    sigma_sq: Tensor,
    values: Tensor,
    centers: Tensor,
    sigmas: Tensor,
    num_before: int,
    num_behind: int,
    unit_interval: bool,
) -> Tensor:
    values = contiguous_channels(values)
    output = like_rows(values, mu)
    num_blocks, grid = _grid(mu.shape[2], FORWARD["block_query"], values)
    _forward_kernel[grid](
        mu.contiguous(), sigma_sq.contiguous(), values, centers, sigmas, output, *strides(values), *strides(output),
        num_blocks=num_blocks, **_common(mu, values, num_before, num_behind, unit_interval), **FORWARD,
    )  # fmt: skip
    return output


@_forward.register_fake
def _(mu, sigma_sq, values, centers, sigmas, num_before, num_behind, unit_interval):
    return like_rows(values, mu)


@torch.library.custom_op("infmem::gaussian_read_backward", mutates_args=())
def _backward(
    mu: Tensor,
    sigma_sq: Tensor,
    values: Tensor,
    centers: Tensor,
    sigmas: Tensor,
    grad_output: Tensor,
    num_before: int,
    num_behind: int,
    unit_interval: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    mu, sigma_sq = mu.contiguous(), sigma_sq.contiguous()
    values, grad_output = contiguous_channels(values), contiguous_channels(grad_output)
    grad_mu, grad_sigma_sq = torch.empty_like(mu), torch.empty_like(sigma_sq)
    grad_values = like_rows(values)
    common = _common(mu, values, num_before, num_behind, unit_interval)
    num_blocks, grid = _grid(mu.shape[2], BACKWARD_DENSITY["block_query"], values)
    _backward_density_kernel[grid](
        mu, sigma_sq, values, centers, sigmas, grad_output, grad_mu, grad_sigma_sq,
        *strides(values), *strides(grad_output), num_blocks=num_blocks, **common, **BACKWARD_DENSITY,
    )  # fmt: skip
    num_blocks, grid = _grid(values.shape[2], BACKWARD_VALUES["block_basis"], values)
    _backward_values_kernel[grid](
        mu, sigma_sq, centers, sigmas, grad_output, grad_values,
        *strides(grad_values), *strides(grad_output), num_blocks=num_blocks, **common, **BACKWARD_VALUES,
    )  # fmt: skip
    return grad_mu, grad_sigma_sq, grad_values


@_backward.register_fake
def _(mu, sigma_sq, values, centers, sigmas, grad_output, num_before, num_behind, unit_interval):
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape), like_rows(values)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.num_before, ctx.num_behind, ctx.unit_interval = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _backward(*ctx.saved_tensors, grad_output, ctx.num_before, ctx.num_behind, ctx.unit_interval)
    return *gradients, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def gaussian_read(
    mu: Float[Tensor, "batch head query_pos"],
    sigma_sq: Float[Tensor, "batch head query_pos"],
    values: Float[Tensor, "batch head basis d_head"],
    basis: GaussianBasis,
    *,
    unit_interval: bool = False,
) -> Float[Tensor, "batch query_pos head_d_head"]:
    r"""What each head reads under its Gaussian density.

    Equation:
        $z_{h,i} = V_h^\top \mathbb{E}_p[\psi(t)]$, with the expectations of `GaussianBasis.expectation`.

    Args:
        mu: means of the densities, float32; in [0, 1] where they live on the unit interval.
        sigma_sq: variances of the densities, float32, > 0.
        values: $V_h = B W_h^V$, in float32 or bfloat16; sums are in float32.
        basis: the basis functions, with centres in [0, 1].
        unit_interval: whether the densities live on [0, 1] only, instead of the whole line.

    Source: ours; nothing of size [batch, head, query_pos, basis] is kept, in the manner of Dao et al. 2022
        (arXiv 2205.14135), and without a softmax there is not even a maximum to carry along.
    """
    num_before, _, num_behind = basis.regions
    heads = _forward(mu, sigma_sq, values, basis.centers, basis.sigmas, num_before, num_behind, unit_interval)
    return heads.transpose(1, 2).flatten(2)
