r"""Relative attention in one GPU kernel: content scores, position scores, causality, softmax and read.

PyTorch's fused attention takes the term of positions as a bias. Before that the term has to be shifted from distances
to keys and masked, which writes and reads [batch, head, query_pos, key_pos] again and again. Here it is read where it
was computed, by distance, block by block, and only where a query may look; its gradient is written there too.

Equal to `RelativeAttention._read` with `relative_shift` and the causal mask.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from infmem.kernels.tiles import contiguous_channels, kernel, like_rows, load_tile, store_tile, strides

LOG2_E = tl.constexpr(1.4426950408889634)

# Queries and keys of a block, warps and pipeline stages: of the forward pass, of the backward pass, and of the query's
# gradient. Chosen by timing on an H100 at heads of 64, segments of 1,024 and as much memory.
FORWARD = {"block_query": 64, "block_key": 64, "num_warps": 4, "num_stages": 2}
BACKWARD = {"block_query": 64, "block_key": 64, "num_warps": 4, "num_stages": 1}
BACKWARD_QUERY = {"block_query": 64, "block_key": 64, "num_warps": 4, "num_stages": 3}


@kernel
def _forward_kernel(
    query, keys, values, by_distance, output, log_sum_exp,
    query_batch, query_head, query_row, keys_batch, keys_head, keys_row, values_batch, values_head, values_row,
    distance_batch, distance_head, output_batch, output_head, output_row,
    num_heads, num_queries, num_keys, shifted_start, shifted_row, scale,
    d_head: tl.constexpr, block_d: tl.constexpr, block_query: tl.constexpr, block_key: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    queries = tl.program_id(0) * block_query + tl.arange(0, block_query)
    channels = tl.arange(0, block_d)
    q = load_tile(query + batch * query_batch + head * query_head, query_row, queries, num_queries, channels, d_head)
    newest = num_keys - num_queries + queries  # the last key that each query may look at
    # Seen with rows one shorter, the scores by distance are scores by key, from here on (see `relative_shift`).
    shifted = batch * distance_batch + head * distance_head + shifted_start
    largest = tl.full([block_query], float("-inf"), tl.float32)
    total = tl.zeros([block_query], tl.float32)
    read = tl.zeros([block_query, block_d], tl.float32)
    end = tl.minimum(num_keys, num_keys - num_queries + (tl.program_id(0) + 1) * block_query)
    for start in range(0, end, block_key):
        columns = start + tl.arange(0, block_key)
        k = load_tile(keys + batch * keys_batch + head * keys_head, keys_row, columns, num_keys, channels, d_head)
        visible = columns[None, :] <= newest[:, None]
        positions = load_tile(by_distance + shifted, shifted_row, queries, num_queries, columns, num_keys)
        scores = tl.dot(q, tl.trans(k), input_precision=precision) * scale + positions.to(tl.float32)
        scores = tl.where(visible, scores * LOG2_E, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        shrink = tl.exp2(largest - new_largest)
        weights = tl.exp2(scores - new_largest[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        v = load_tile(
            values + batch * values_batch + head * values_head, values_row, columns, num_keys, channels, d_head
        )
        read = read * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=precision)
        largest = new_largest
    read = (read / total[:, None]).to(output.dtype.element_ty)
    start_of_head = output + batch * output_batch + head * output_head
    store_tile(read, start_of_head, output_row, queries, num_queries, channels, d_head)
    tl.store(log_sum_exp + row * num_queries + queries, largest + tl.log2(total), mask=queries < num_queries)


@kernel
def _backward_kernel(
    query, keys, values, by_distance, log_sum_exp, grad_output, mean_grad, grad_keys, grad_values, grad_by_distance,
    query_batch, query_head, query_row, keys_batch, keys_head, keys_row, values_batch, values_head, values_row,
    distance_batch, distance_head, output_batch, output_head, output_row, grad_batch, grad_head, grad_row,
    num_heads, num_queries, num_keys, shifted_start, shifted_row, scale,
    d_head: tl.constexpr, block_d: tl.constexpr, block_query: tl.constexpr, block_key: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys and values, and of all scores that look at them."""
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    columns = tl.program_id(0) * block_key + tl.arange(0, block_key)
    channels, num_past = tl.arange(0, block_d), num_keys - num_queries
    k = load_tile(keys + batch * keys_batch + head * keys_head, keys_row, columns, num_keys, channels, d_head)
    v = load_tile(values + batch * values_batch + head * values_head, values_row, columns, num_keys, channels, d_head)
    grad_k = tl.zeros([block_key, block_d], tl.float32)
    grad_v = tl.zeros([block_key, block_d], tl.float32)
    shifted = batch * distance_batch + head * distance_head + shifted_start
    first = tl.maximum(0, tl.program_id(0) * block_key - num_past) // block_query * block_query
    for start in range(0, first, block_query):  # queries before these keys
        queries = start + tl.arange(0, block_query)
        zeros = tl.zeros([block_query, block_key], grad_by_distance.dtype.element_ty)
        store_tile(zeros, grad_by_distance + shifted, shifted_row, queries, num_queries, columns, num_keys)
    for start in range(first, num_queries, block_query):
        queries = start + tl.arange(0, block_query)
        q = load_tile(
            query + batch * query_batch + head * query_head, query_row, queries, num_queries, channels, d_head
        )
        grad = load_tile(
            grad_output + batch * output_batch + head * output_head, output_row, queries, num_queries, channels, d_head
        )
        lse = tl.load(log_sum_exp + row * num_queries + queries, mask=queries < num_queries, other=0.0)
        mean = tl.load(mean_grad + row * num_queries + queries, mask=queries < num_queries, other=0.0)
        visible = (columns[None, :] <= (num_past + queries)[:, None]) & (queries < num_queries)[:, None]
        positions = load_tile(by_distance + shifted, shifted_row, queries, num_queries, columns, num_keys)
        scores = tl.dot(q, tl.trans(k), input_precision=precision) * scale + positions.to(tl.float32)
        weights = tl.exp2(tl.where(visible, scores * LOG2_E - lse[:, None], float("-inf")))
        grad_v += tl.dot(tl.trans(weights.to(grad.dtype)), grad, input_precision=precision)
        grad_weights = tl.dot(grad, tl.trans(v), input_precision=precision)
        grad_scores = (weights * (grad_weights - mean[:, None])).to(grad_by_distance.dtype.element_ty)
        store_tile(grad_scores, grad_by_distance + shifted, shifted_row, queries, num_queries, columns, num_keys)
        grad_k += tl.dot(tl.trans(grad_scores.to(q.dtype)), q, input_precision=precision)
    store_tile(
        (grad_k * scale).to(grad_keys.dtype.element_ty),
        grad_keys + batch * grad_batch + head * grad_head,
        grad_row,
        columns,
        num_keys,
        channels,
        d_head,
    )
    store_tile(
        grad_v.to(grad_values.dtype.element_ty),
        grad_values + batch * grad_batch + head * grad_head,
        grad_row,
        columns,
        num_keys,
        channels,
        d_head,
    )


@kernel
def _backward_query_kernel(
    keys, grad_by_distance, grad_query,
    keys_batch, keys_head, keys_row, distance_batch, distance_head, grad_batch, grad_head, grad_row,
    num_heads, num_queries, num_keys, shifted_start, shifted_row, scale,
    d_head: tl.constexpr, block_d: tl.constexpr, block_query: tl.constexpr, block_key: tl.constexpr,
    block_unused: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of queries, from those of their scores; and zeros where no score looks."""
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    queries = tl.program_id(0) * block_query + tl.arange(0, block_query)
    channels, num_past = tl.arange(0, block_d), num_keys - num_queries
    shifted = batch * distance_batch + head * distance_head + shifted_start
    grad_q = tl.zeros([block_query, block_d], tl.float32)
    end = tl.minimum(num_keys, num_past + (tl.program_id(0) + 1) * block_query)
    for start in range(0, end, block_key):
        columns = start + tl.arange(0, block_key)
        grad_scores = load_tile(grad_by_distance + shifted, shifted_row, queries, num_queries, columns, num_keys)
        k = load_tile(keys + batch * keys_batch + head * keys_head, keys_row, columns, num_keys, channels, d_head)
        grad_q += tl.dot(grad_scores.to(k.dtype), k, input_precision=precision)
    store_tile(
        (grad_q * scale).to(grad_query.dtype.element_ty),
        grad_query + batch * grad_batch + head * grad_head,
        grad_row,
        queries,
        num_queries,
        channels,
        d_head,
    )
    # Distances beyond the oldest key, between the shifted rows, and what lies before the first of them.
    unused = tl.arange(0, block_unused)
    zeros = tl.zeros([block_query, block_unused], grad_by_distance.dtype.element_ty)
    pointers = grad_by_distance + shifted + queries[:, None] * shifted_row - 1 - unused[None, :]
    tl.store(pointers, zeros, mask=(queries < num_queries)[:, None] & (unused < shifted_row - num_keys)[None, :])
    before = grad_by_distance + batch * distance_batch + head * distance_head + queries
    tl.store(before, tl.zeros([block_query], grad_by_distance.dtype.element_ty), mask=queries < num_queries)


def _dense_rows(tensor: Tensor) -> Tensor:
    """The rows of each head one behind the other: heads may lie in any order."""
    dense = tensor.stride(-1) == 1 and tensor.stride(-2) == tensor.shape[-1]
    return tensor if dense else tensor.contiguous()


def _like(tensor: Tensor) -> Tensor:
    """Room for the gradient of `_dense_rows(tensor)`, laid out as it is."""
    tensor = _dense_rows(tensor)
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _common(query: Tensor, keys: Tensor, by_distance: Tensor) -> dict[str, int | float | str]:
    d_head = query.shape[3]
    return {
        "num_heads": query.shape[1],
        "num_queries": query.shape[2],
        "num_keys": keys.shape[2],
        "shifted_start": by_distance.shape[3] - 1 - (keys.shape[2] - query.shape[2]),
        "shifted_row": by_distance.shape[3] - 1,
        "scale": d_head**-0.5,
        "d_head": d_head,
        "block_d": max(16, triton.next_power_of_2(d_head)),
        "precision": "ieee" if query.dtype == torch.float32 else "tf32",  # only float32 products look at it
    }


@torch.library.custom_op("infmem::relative_attention", mutates_args=())
def _forward(query: Tensor, keys: Tensor, values: Tensor, by_distance: Tensor) -> tuple[Tensor, Tensor]:
    query, keys, values = map(contiguous_channels, (query, keys, values))
    output, by_distance = like_rows(query), _dense_rows(by_distance)
    log_sum_exp = query.new_empty(query.shape[:3], dtype=torch.float32)
    grid = (triton.cdiv(query.shape[2], FORWARD["block_query"]), query.shape[0] * query.shape[1])
    _forward_kernel[grid](
        query, keys, values, by_distance, output, log_sum_exp,
        *strides(query), *strides(keys), *strides(values), *strides(by_distance)[:2], *strides(output),
        **_common(query, keys, by_distance), **FORWARD,
    )  # fmt: skip
    return output, log_sum_exp


@_forward.register_fake
def _(query, keys, values, by_distance):
    return like_rows(query), query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.custom_op("infmem::relative_attention_backward", mutates_args=())
def _backward(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    by_distance: Tensor,
    output: Tensor,
    log_sum_exp: Tensor,
    grad_output: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    query, keys, values, grad_output = map(contiguous_channels, (query, keys, values, grad_output))
    by_distance = _dense_rows(by_distance)
    mean_grad = (output.float() * grad_output.float()).sum(-1).contiguous()
    grad_query, grad_keys, grad_values = like_rows(query), like_rows(keys), like_rows(keys)
    grad_by_distance, common = _like(by_distance), _common(query, keys, by_distance)
    rows = query.shape[0] * query.shape[1]
    _backward_kernel[triton.cdiv(keys.shape[2], BACKWARD["block_key"]), rows](
        query, keys, values, by_distance, log_sum_exp, grad_output, mean_grad, grad_keys, grad_values, grad_by_distance,
        *strides(query), *strides(keys), *strides(values), *strides(by_distance)[:2], *strides(grad_output),
        *strides(grad_keys),
        **common, **BACKWARD,
    )  # fmt: skip
    unused = triton.next_power_of_2(max(1, common["shifted_row"] - keys.shape[2]))
    _backward_query_kernel[triton.cdiv(query.shape[2], BACKWARD_QUERY["block_query"]), rows](
        keys, grad_by_distance, grad_query, *strides(keys), *strides(by_distance)[:2], *strides(grad_query),
        **common, **BACKWARD_QUERY, block_unused=unused,
    )  # fmt: skip
    return grad_query, grad_keys, grad_values, grad_by_distance


@_backward.register_fake
def _(query, keys, values, by_distance, output, log_sum_exp, grad_output):
    return like_rows(query), like_rows(keys), like_rows(keys), _like(by_distance)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx, grad_output: Tensor, grad_log_sum_exp: Tensor) -> tuple[Tensor, ...]:
    return _backward(*ctx.saved_tensors, grad_output)


_forward.register_autograd(_differentiate, setup_context=_save)


def relative_attention(
    query: Float[Tensor, "batch head query_pos d_head"],
    keys: Float[Tensor, "batch head key_pos d_head"],
    values: Float[Tensor, "batch head key_pos d_head"],
    by_distance: Float[Tensor, "batch head query_pos distance"],
) -> Float[Tensor, "batch head query_pos d_head"]:
    r"""Causal attention whose scores have a content term and a term of positions that is indexed by distance.

    Equation:
        $\mathrm{softmax}_j(q_i^\top k_j / \sqrt{d} + p_{i, \delta(i, j)})\, v_j$ over the keys that are not later than
        the query, where $\delta(i, j)$ is how many tokens key j lies back from query i.

    Args:
        query: queries with their content bias, the last of the keys' positions.
        keys: keys of memory and segment.
        values: their values.
        by_distance: the scaled position scores p, the largest distance first; more distances than there are keys, and
            the last is 0. What lies further back than the oldest key is not used.

    Returns:
        What every query reads, in float32 or bfloat16 as it came; sums are in float32.

    Source: ours; the blockwise softmax is that of Dao et al. 2022 (arXiv 2205.14135).
    """
    return _forward(query, keys, values, by_distance)[0]
