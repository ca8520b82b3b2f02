"""A compressed memory: its configuration, its state, and the module that writes it. Attention reads it as it is."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from infmem.compression import Convolution, DilatedConvolution, max_pool, mean_pool, most_used
from infmem.validation import check_fields, checked, require, require_at_most

CompressionName = Literal["mean_pool", "max_pool", "convolution", "dilated_convolution", "most_used"]
LossName = Literal["attention_reconstruction", "auto_encoding", "none"]


@dataclass(frozen=True)
class CompressedMemoryConfig:
    """A compressed memory, and how it is learned.

    Args:
        length: compressed hidden states that each layer keeps, >= 0.
        rate: how many hidden states become one, c >= 1.
        compression: the function that does it. `mean_pool` and `max_pool` summarise each group, `most_used` keeps the
            hidden states that were attended to most; `convolution` and `dilated_convolution` are learned.
        loss: what a learned function is trained with. `attention_reconstruction` asks that attention reads the same
            from the compressed states as from the old ones, `auto_encoding` that the old ones can be rebuilt; both
            train the function and nothing else, and nothing else trains it. `none` lets the model's own loss train it,
            through the reads of what was compressed last. Functions without weights have nothing to learn.

    Raises:
        ValueError: naming the field, its range and what came.
    """

    length: int = 128
    rate: int = 4
    compression: CompressionName = "convolution"
    loss: LossName = "attention_reconstruction"

    def __post_init__(self):
        check_fields(self)
        require(self.length >= 0, f"length must be >= 0, got {self.length}")
        require(self.rate >= 1, f"rate must be at least 1, got {self.rate}: it is how many hidden states become one")
        require_at_most(self, length=2**24, rate=2**12)

    @property
    def is_learned(self) -> bool:
        """Whether the compression has weights."""
        return self.compression in ("convolution", "dilated_convolution")


class CompressedState(NamedTuple):
    """What a layer keeps of hidden states that have left its short-term memory.

    Args:
        compressed: the compressed memory, oldest first.
        usage: for `most_used`, the attention that each hidden state of the short-term memory has got so far, summed
            over the segments that read it, mean over their positions and heads; empty for other functions.
    """

    compressed: Float[Tensor, "batch compressed_pos d_model"]
    usage: Float[Tensor, "batch mem_pos"]

    def detach(self) -> "CompressedState":
        """The same state, cut off from the graph that computed it."""
        return CompressedState(self.compressed.detach(), self.usage.detach())

    def reset(self, rows: Bool[Tensor, " batch"]) -> "CompressedState":
        """Forget what some rows have compressed; zeros take its place, which a model must not look at.

        Args:
            rows: True where a row begins anew.
        """
        rows = rearrange(rows.to(self.compressed.device), "batch -> batch 1")
        return CompressedState(
            self.compressed.masked_fill(rearrange(rows, "batch one -> batch one 1"), 0.0),
            self.usage.masked_fill(rows, 0.0),
        )


class CompressedMemory(nn.Module):
    """A first-in-first-out memory of compressed hidden states.

    Args:
        d_model: size of the vectors.
        config: every other choice.

    Source: Rae et al. 2020 (arXiv 1911.05507), section 3.

    Example:
        >>> memory = CompressedMemory(d_model=6, config=CompressedMemoryConfig(length=5, rate=2))
        >>> state = memory.write(torch.ones(3, 8, 6), memory.empty(batch=3))
        >>> memory.write(torch.ones(3, 4, 6), state).compressed.shape
        torch.Size([3, 5, 6])
    """

    def __init__(self, d_model: int, config: CompressedMemoryConfig):
        super().__init__()
        self.d_model, self.config = d_model, config
        learned = {"convolution": Convolution, "dilated_convolution": DilatedConvolution}
        self.function = learned[config.compression](d_model, config.rate) if config.is_learned else None
        decodes = config.is_learned and config.loss == "auto_encoding"
        self.decoder = nn.ConvTranspose1d(d_model, d_model, config.rate, stride=config.rate) if decodes else None
        self.register_buffer("like", torch.zeros(()), persistent=False)  # knows device and type where no weight does

    def empty(self, batch: int) -> CompressedState:
        """A memory to which nothing was written yet."""
        require(batch >= 0, f"batch must be >= 0, got {batch}")
        return CompressedState(self.like.new_zeros(batch, 0, self.d_model), self.like.new_zeros(batch, 0))

    def state_bytes(self, batch: int) -> int:
        """Largest number of bytes of a state's compressed memory.

        Example:
            >>> CompressedMemory(d_model=6, config=CompressedMemoryConfig(length=5, rate=2)).state_bytes(batch=1)
            120
        """
        return batch * self.config.length * self.d_model * self.like.element_size()

    @checked
    def compress(
        self, old: Float[Tensor, "batch pos d_model"], usage: Float[Tensor, "batch mem_pos"]
    ) -> Float[Tensor, "batch group d_model"]:
        """Every group of hidden states as one.

        Args:
            old: a whole number of groups, oldest first.
            usage: of the short-term memory, whose oldest they are.
        """
        if self.config.compression == "most_used":
            return most_used(old, usage[:, : old.shape[1]], self.config.rate)
        if self.function is None:
            return {"mean_pool": mean_pool, "max_pool": max_pool}[self.config.compression](old, self.config.rate)
        return self.function(old).to(old.dtype)  # a convolution in mixed precision gives bfloat16

    @checked
    def append(
        self, compressed: Float[Tensor, "batch group d_model"], state: CompressedState, num_leaving: int
    ) -> CompressedState:
        """Put compressed hidden states behind the others; the oldest of them leave for good.

        Args:
            compressed: what to put there.
            state: the memory before.
            num_leaving: how many hidden states it was made from: they leave the short-term memory and its usage.
        """
        require(num_leaving >= 0, f"num_leaving must be >= 0, got {num_leaving}")
        together = torch.cat([state.compressed, compressed], dim=1)
        kept = together[:, max(0, together.shape[1] - self.config.length) :]
        # A copy, not a view: a view would keep everything that it is cut from alive.
        return CompressedState(kept.clone(), state.usage[:, num_leaving:])

    def write(
        self,
        new: Float[Tensor, "batch pos d_model"],
        state: CompressedState,
        *,
        generator: torch.Generator | None = None,
    ) -> CompressedState:
        """Compress hidden states and put them behind the others.

        Args:
            new: a whole number of groups, oldest first.
            state: the memory before.
            generator: not used; a long-term memory may need one.
        """
        return self.append(self.compress(new, state.usage), state, new.shape[1])

    @checked
    def decode(self, compressed: Float[Tensor, "batch group d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """The hidden states as the auto-encoding loss rebuilds them."""
        require(self.decoder is not None, 'only a learned compression with loss="auto_encoding" has a decoder')
        if not compressed.shape[1]:
            return compressed  # nothing is rebuilt from nothing, which PyTorch's convolutions refuse
        channels_first = rearrange(compressed, "batch group d_model -> batch d_model group")
        return rearrange(self.decoder(channels_first), "batch d_model pos -> batch pos d_model")
