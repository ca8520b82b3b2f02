"""What a long-term memory has written so far: passed in, handed back, never hidden."""

from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from safetensors.torch import save
from torch import Tensor

from infmem.checkpoint import read_tensors, write_bytes
from infmem.validation import require, require_finite


class MemoryState(NamedTuple):
    """What a long-term memory has written so far; a call returns a new one.

    Args:
        coefficients: B, the signal's coefficients. Zero where nothing was written.
        num_tokens: how many tokens each row has seen. It stays on the CPU, so that choosing the operators of an update
            never waits for a GPU.
        histogram: spread of the last attention over the bins, for sticky sampling.
    """

    coefficients: Float[Tensor, "batch basis d_model"]
    num_tokens: Int[Tensor, " batch"]
    histogram: Float[Tensor, "batch bin"]

    def detach(self) -> "MemoryState":
        """The same state, cut off from the graph that computed it."""
        return self._replace(coefficients=self.coefficients.detach())

    def to(self, device: torch.device | str) -> "MemoryState":
        """The same state with its signal on another device."""
        return self._replace(coefficients=self.coefficients.to(device), histogram=self.histogram.to(device))

    def reset(self, rows: Bool[Tensor, " batch"]) -> "MemoryState":
        """Empty some rows and leave the others alone: for documents that end at different times.

        Args:
            rows: True where a row is to be emptied; on the state's device.

        Example:
            >>> from infmem import LongTermMemory, MemoryConfig
            >>> config = MemoryConfig.best(num_basis=4, num_bins=5)
            >>> memory = LongTermMemory(d_model=6, num_heads=2, config=config)
            >>> state = memory.write(torch.ones(3, 7, 6), memory.empty(batch=3))
            >>> state.reset(torch.tensor([True, False, False])).num_tokens
            tensor([0, 7, 7])
        """
        require(
            rows.dtype == torch.bool and rows.shape == self.num_tokens.shape,
            f"rows must be {len(self.num_tokens)} booleans, one for each row of the batch, "
            f"got {rows.dtype} of sizes {tuple(rows.shape)}",
        )
        device_rows = rows.to(self.coefficients.device)
        return MemoryState(
            coefficients=self.coefficients.masked_fill(rearrange(device_rows, "batch -> batch 1 1"), 0.0),
            num_tokens=self.num_tokens.masked_fill(rows.cpu(), 0),
            histogram=self.histogram.masked_fill(
                rearrange(device_rows, "batch -> batch 1"), 1.0 / self.histogram.shape[-1]
            ),
        )


def save_state(state: MemoryState, path: Path) -> None:
    """Write a state to a safetensors file.

    Args:
        state: the state.
        path: the file.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state._asdict().items()}
    write_bytes(Path(path), save(tensors))


def load_state(path: Path) -> MemoryState:
    """Read a state from a safetensors file, onto the CPU.

    Args:
        path: the file.

    Raises:
        ValueError: if the file is missing, cut off, or holds something else or values that are not finite.
    """
    path = Path(path)
    require(path.is_file(), f"there is no state at {path}")
    tensors = read_tensors(path)[0]
    require(
        set(tensors) == set(MemoryState._fields),
        f"{path} must hold {', '.join(MemoryState._fields)}, got {', '.join(sorted(tensors))}",
    )
    coefficients, num_tokens, histogram = (tensors[name].clone() for name in MemoryState._fields)
    fits = (coefficients.ndim, num_tokens.ndim, histogram.ndim) == (3, 1, 2)
    require(
        fits and len(coefficients) == len(num_tokens) == len(histogram),
        f"{path} must hold the sizes (batch, basis, d_model), (batch) and (batch, bin), got "
        f"{', '.join(str(tuple(tensors[name].shape)) for name in MemoryState._fields)}",
    )
    require(
        coefficients.is_floating_point() and histogram.is_floating_point() and num_tokens.dtype == torch.int64,
        f"{path} must hold real numbers, counts in int64, and real numbers, got "
        f"{', '.join(str(tensors[name].dtype) for name in MemoryState._fields)}",
    )
    require_finite(f"coefficients in {path}", coefficients)
    require_finite(f"histogram in {path}", histogram)
    require(bool((num_tokens >= 0).all()), f"num_tokens in {path} must be >= 0, got {num_tokens.min().item()}")
    return MemoryState(coefficients, num_tokens, histogram)
