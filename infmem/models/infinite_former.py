r"""The infinite-former: a Transformer-XL whose forgotten hidden states enter an unbounded long-term memory.

Each layer has a short-term memory of the last hidden states, as in Transformer-XL. What leaves it is written to the
layer's long-term memory, and every position reads both: $Z = Z_{STM} + Z_{LTM}$.
"""

import dataclasses
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from infmem.memory import LongTermMemory, MemoryConfig, MemoryState
from infmem.models.transformer_xl import (
    LayerOutput,
    ModelState,
    TransformerXL,
    TransformerXLConfig,
    initialize,
    remember,
)
from infmem.validation import require


@dataclass(frozen=True)
class InfiniteFormerConfig(TransformerXLConfig):
    """An infinite-former.

    Args:
        memory_length: hidden states in each layer's short-term memory.
        memory: the long-term memory.
    """

    memory_length: int = 128
    memory: MemoryConfig = field(default_factory=MemoryConfig.best)

    def __post_init__(self):
        super().__post_init__()
        require(
            isinstance(self.memory, MemoryConfig), f"memory must be a MemoryConfig, got {type(self.memory).__name__}"
        )


class InfiniteFormer(TransformerXL):
    r"""The infinite-former (Martins et al. 2022).

    Equation:
        $h' = \mathrm{LayerNorm}(h + Z_{STM} + Z_{LTM})$ in every layer, with $Z_{STM}$ from relative attention over
        short-term memory and segment, $Z_{LTM}$ from the long-term memory of all that is older.

    Args:
        config: sizes and memory.

    Source: Martins et al. 2022 (arXiv 2109.00301).

    Differs from the paper: its choices are in `MemoryConfig`. The regulariser is averaged over heads and queries and
        summed over layers, as in the released code.

    Example:
        >>> memory = MemoryConfig.best(num_basis=8, num_samples=16)
        >>> config = InfiniteFormerConfig(d_model=12, num_heads=3, num_layers=2, memory_length=5, memory=memory)
        >>> model, state = InfiniteFormer(config), None
        >>> for segment in torch.zeros(4, 2, 5, dtype=torch.int64):
        ...     logits, state = model(segment, state)
        >>> logits.shape, state.long_term[0].num_tokens
        (torch.Size([2, 5, 22]), tensor([10, 10]))
    """

    def __init__(self, config: InfiniteFormerConfig):
        require(
            isinstance(config, InfiniteFormerConfig),
            f"config must be an InfiniteFormerConfig, got {type(config).__name__}",
        )
        sizes = {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(TransformerXLConfig)}
        super().__init__(TransformerXLConfig(**sizes))
        self.config = config
        self.long_term_memories = nn.ModuleList(
            LongTermMemory(config.d_model, config.num_heads, config.memory) for _ in range(config.num_layers)
        )
        self.long_term_memories.apply(initialize)

    @property
    def _longest_short_term(self) -> int | float:
        return math.inf  # the short-term memory, and the last segment's overflow, of any length

    def state_bytes(self, batch: int, segment_length: int | None = None) -> int:
        """Largest number of bytes that a state takes, however much was read.

        It holds the long-term and the short-term memory, and the last segment's overflow, which the next call writes.

        Args:
            batch: number of rows.
            segment_length: tokens per segment; None takes the length of the short-term memory.
        """
        overflow = self.memory_length if segment_length is None else segment_length
        hidden = batch * self.config.num_layers * overflow * self.d_model * self.embedding.weight.element_size()
        return super().state_bytes(batch) + hidden + sum(m.state_bytes(batch) for m in self.long_term_memories)

    def empty(self, batch: int) -> ModelState:
        """The state before the first segment."""
        return super().empty(batch)._replace(long_term=tuple(m.empty(batch) for m in self.long_term_memories))

    def _read_segment(
        self, hidden: Tensor, state: ModelState, generator: torch.Generator | None
    ) -> tuple[Tensor, ModelState]:
        # The state's short-term part may be longer than the short-term memory: the surplus is what left it with the
        # last segment. It is written here, at the start of the next call, so that the gate learns from what is read.
        surplus = max(0, state.short_term[0].shape[1] - self.memory_length)
        short_term, long_term, divergence = [], [], hidden.new_zeros(())
        for layer, (remembered, memory) in enumerate(zip(state.short_term, state.long_term, strict=True)):
            leaving, recent = remembered[:, :surplus], remembered[:, surplus:]
            if surplus:
                memory = self.long_term_memories[layer].write(leaving, memory, generator=generator)
            short_term.append(remember(recent, hidden, self.memory_length + hidden.shape[1]))
            output = self.layer(layer, hidden, recent, memory)
            hidden = output.hidden
            long_term.append(output.memory)
            divergence = divergence + output.divergence
        auxiliary_loss = self.config.memory.kl_weight * divergence
        return hidden, ModelState(tuple(short_term), tuple(long_term), auxiliary_loss)

    def layer(self, layer: int, hidden: Tensor, recent: Tensor, memory: MemoryState | None = None) -> LayerOutput:
        """Pass hidden states through one layer, which also reads its long-term memory once something was written."""
        if memory is None or not bool(memory.num_tokens.any()):
            return super().layer(layer, hidden, recent, memory)
        block = self.blocks[layer]
        attended = block.attention(hidden, recent, self.content_bias, self.position_bias)
        query = hidden if self.config.memory.own_query else attended.query
        read, memory, reading = self.long_term_memories[layer](query, None, memory)
        return LayerOutput(block.combine(hidden, attended.output + read), memory, reading.kl.mean())
