"""What the kernels share: tiles of matrices whose columns are contiguous, and tensors laid out for them."""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from torch import Tensor


def kernel(function: Callable) -> Any:
    """As `triton.jit`, of the function itself: Triton can't compile what a checker of annotations wraps around it."""
    return triton.jit(inspect.unwrap(function))


@kernel
def load_tile(start, stride, rows, num_rows, columns, num_columns):
    """A tile of a matrix whose columns are contiguous; zeros outside of the matrix."""
    exists = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    return tl.load(start + rows[:, None] * stride + columns[None, :], mask=exists, other=0.0)


@kernel
def store_tile(tile, start, stride, rows, num_rows, columns, num_columns):
    """Write a tile of a matrix whose columns are contiguous; nothing outside of the matrix."""
    exists = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    tl.store(start + rows[:, None] * stride + columns[None, :], tile, mask=exists)


def strides(tensor: Tensor) -> tuple[int, int, int]:
    """Of all axes but the channels."""
    return tensor.stride(0), tensor.stride(1), tensor.stride(2)


def contiguous_channels(tensor: Tensor) -> Tensor:
    """The same values with contiguous channels: a copy only where they are not."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def like_rows(tensor: Tensor, queries: Tensor | None = None) -> Tensor:
    """Room for as many positions, or one for each query, with heads side by side as projections want them."""
    batch, head, pos, d_head = tensor.shape
    return tensor.new_empty(batch, pos if queries is None else queries.shape[2], head, d_head).transpose(1, 2)
