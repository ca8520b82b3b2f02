r"""The Compressive Transformer: a Transformer-XL that keeps a coarse copy of what leaves its memory."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from infmem.compression import attention_reconstruction_loss
from infmem.memory import CompressedMemory, CompressedMemoryConfig, CompressedState
from infmem.models.long_term import LongTermTransformer
from infmem.models.transformer_xl import LayerOutput, TransformerXLConfig
from infmem.validation import require


@dataclass(frozen=True)
class CompressiveTransformerConfig(TransformerXLConfig):
    """A Compressive Transformer.

    Args:
        memory_length: hidden states in each layer's short-term memory.
        memory: the compressed memory.
    """

    memory_length: int = 128
    memory: CompressedMemoryConfig = field(default_factory=CompressedMemoryConfig)

    def __post_init__(self):
        super().__post_init__()
        require(
            isinstance(self.memory, CompressedMemoryConfig),
            f"memory must be a CompressedMemoryConfig, got {type(self.memory).__name__}",
        )

    @property
    def reach(self) -> int:
        """The hidden states that a layer remembers, and those that its compressed memory was made from."""
        return self.memory_length + self.memory.rate * self.memory.length


class CompressiveTransformer(LongTermTransformer):
    r"""The Compressive Transformer (Rae et al. 2020): two first-in-first-out memories, a fine and a coarse one.

    Equation:
        Layer l attends over $[cm^l, m^l, h^l]$, with relative positions that go on counting through the compressed
        memory as if each of its states were one token. The oldest hidden states leave $m^l$ in whole groups of c, and
        $f_c$ of them joins $cm^l$.

    Args:
        config: sizes and memory.

    Source: Rae et al. 2020 (arXiv 1911.05507), section 3.

    Differs from the paper: what leaves is compressed when the next segment is read, and compared by that segment's
        queries, the first ones that meet it in compressed form. A rest of fewer than c hidden states waits in the
        short-term memory, so that none is dropped or counted twice.

    Example:
        >>> memory = CompressedMemoryConfig(length=4, rate=3)
        >>> config = CompressiveTransformerConfig(d_model=12, num_heads=3, num_layers=2, memory_length=5, memory=memory)
        >>> model, state = CompressiveTransformer(config), None
        >>> for segment in torch.zeros(4, 2, 5, dtype=torch.int64):
        ...     logits, state = model(segment, state)
        >>> logits.shape, state.short_term[0].shape, state.long_term[0].compressed.shape
        (torch.Size([2, 5, 22]), torch.Size([2, 11, 12]), torch.Size([2, 3, 12]))
    """

    def __init__(self, config: CompressiveTransformerConfig):
        require(
            isinstance(config, CompressiveTransformerConfig),
            f"config must be a CompressiveTransformerConfig, got {type(config).__name__}",
        )
        super().__init__(config.narrowed(TransformerXLConfig))
        self.config = config
        self.long_term_memories = nn.ModuleList(
            CompressedMemory(config.d_model, config.memory) for _ in range(config.num_layers)
        )

    @property
    def depends_on_attention(self) -> bool:
        """Whether what is written depends on where the segment before has looked."""
        return self.config.memory.compression == "most_used"

    def state_bytes(self, batch: int, segment_length: int | None = None) -> int:
        """Largest number of bytes that a state takes, however much was read.

        Beside the memories and the last segment's overflow it holds the hidden states that wait until their group is
        whole, and what `most_used` counts.

        Args:
            batch: number of rows.
            segment_length: tokens per segment; None takes the length of the short-term memory.
        """
        segment = self.memory_length if segment_length is None else segment_length
        rate = self.config.memory.rate
        waiting = max((number * segment - self.memory_length) % rate for number in range(rate))
        counted = self.memory_length + segment + waiting if self.depends_on_attention else 0
        numbers = batch * self.config.num_layers * (waiting * self.d_model + counted)
        return super().state_bytes(batch, segment_length) + numbers * self.embedding.weight.element_size()

    def num_leaving(self, num_remembered: int) -> int:
        """How many of the oldest hidden states leave: whole groups only."""
        return super().num_leaving(num_remembered) // self.config.memory.rate * self.config.memory.rate

    def _write(
        self,
        layer: int,
        hidden: Tensor,
        leaving: Tensor,
        memory: CompressedState,
        generator: torch.Generator | None,
    ) -> tuple[CompressedState, Tensor]:
        long_term, loss = self.long_term_memories[layer], self.config.memory.loss
        if loss == "none" or not self.config.memory.is_learned:
            return super()._write(layer, hidden, leaving, memory, generator)
        compressed = long_term.compress(leaving.detach(), memory.usage)
        written = long_term.append(compressed.detach(), memory, leaving.shape[1])
        if not torch.is_grad_enabled():
            return written, hidden.new_zeros(())
        if loss == "auto_encoding":
            rebuilt = long_term.decode(compressed)
            return written, functional.mse_loss(rebuilt, leaving.detach())
        attention = self.blocks[layer].attention
        query = functional.linear(hidden.detach(), attention.query.weight.detach())
        weight = attention.key_value.weight
        return written, attention_reconstruction_loss(query, leaving, compressed, weight, attention.num_heads)

    def layer(
        self,
        layer: int,
        hidden: Tensor,
        recent: Tensor,
        memory: CompressedState | None = None,
        num_seen: Tensor | None = None,
    ) -> LayerOutput:
        """Pass hidden states through one layer, which also attends to its compressed memory."""
        if memory is None:
            return super().layer(layer, hidden, recent, memory, num_seen)
        remembered, num_recent = torch.cat([memory.compressed, recent], dim=1), recent.shape[1]
        if num_seen is not None:  # what has left was compressed
            num_left = (num_seen - num_recent).clamp(min=0)
            num_seen = num_seen.clamp(max=num_recent) + num_left // self.config.memory.rate
        if self.depends_on_attention:
            memory = self._used(layer, hidden, remembered, memory, num_seen)
        return super().layer(layer, hidden, remembered, memory, num_seen)

    def _used(
        self, layer: int, hidden: Tensor, remembered: Tensor, memory: CompressedState, num_seen: Tensor | None
    ) -> CompressedState:
        """The memory with the attention of this segment added to its usage, which then also covers the segment."""
        with torch.no_grad():
            attention = self.blocks[layer].attention
            weights = attention.weights(hidden, remembered, self.content_bias, self.position_bias, num_seen)
            got = weights.mean(dim=(1, 2))[:, memory.compressed.shape[1] : remembered.shape[1]]
            usage = torch.cat([memory.usage + got, got.new_zeros(hidden.shape[:2])], dim=1)
        return memory._replace(usage=usage.to(memory.usage.dtype))
