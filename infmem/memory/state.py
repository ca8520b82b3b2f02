"""What a long-term memory has written so far: passed in, handed back, never hidden."""

from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from infmem.validation import require


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
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state._asdict().items()}, path)


def load_state(path: Path) -> MemoryState:
    """Read a state from a safetensors file, onto the CPU.

    Args:
        path: the file.

    Raises:
        ValueError: if the file is missing, cut off, or holds something else.
    """
    path = Path(path)
    require(path.is_file(), f"there is no state at {path}")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error
    require(
        set(tensors) == set(MemoryState._fields),
        f"{path} must hold {', '.join(MemoryState._fields)}, got {', '.join(sorted(tensors))}",
    )
    return MemoryState(**tensors)
