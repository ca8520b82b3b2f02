"""What all models with a long-term memory share: what leaves the short-term memory is written, not forgotten."""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from infmem.memory import CompressedState, MemoryState
from infmem.models.transformer_xl import ModelState, TransformerXL, on_device, remember
from infmem.validation import require


class LongTermTransformer(TransformerXL):
    """A Transformer-XL whose layers hand what leaves their short-term memory to a long-term memory.

    A model of this kind has one module a layer in `long_term_memories`, each with `empty(batch)`,
    `write(new, state, generator=...)` and `state_bytes(batch)`, and reads it in `layer`.

    Between two segments the state still holds what left with the last one. It is written at the start of the next call,
    so that whatever is learned in writing learns from what that segment reads.
    """

    @property
    def _longest_short_term(self) -> int | float:
        return math.inf  # the short-term memory, and the last segment's overflow, of any length

    @property
    @abstractmethod
    def depends_on_attention(self) -> bool:
        """Whether what is written depends on where the segment before has looked: then segments are read in order."""

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
        num_remembered = state.short_term[0].shape[1]
        num_leaving, num_seen = self.num_leaving(num_remembered), on_device(state.num_seen, hidden)
        is_foreign = self._is_foreign(state, num_remembered, num_leaving)
        short_term, long_term, auxiliary_loss = [], [], hidden.new_zeros(())
        for layer, (remembered, memory) in enumerate(zip(state.short_term, state.long_term, strict=True)):
            leaving, recent = remembered[:, :num_leaving], remembered[:, num_leaving:]
            if num_leaving:
                memory, loss = self._write(layer, hidden, leaving, memory, generator)
                memory = memory if is_foreign is None else memory.reset(is_foreign)
                auxiliary_loss = auxiliary_loss + loss
            short_term.append(remember(recent, hidden, recent.shape[1] + hidden.shape[1]))
            output = self.layer(layer, hidden, recent, memory, num_seen)
            hidden = output.hidden
            long_term.append(output.memory)
            auxiliary_loss = auxiliary_loss + output.auxiliary_loss
        return hidden, ModelState(tuple(short_term), tuple(long_term), auxiliary_loss, state.num_seen)

    def _is_foreign(self, state: ModelState, num_remembered: int, num_leaving: int) -> Tensor | None:
        """For each row, whether what leaves was read before the row was reset; None if that is true of none."""
        if state.num_seen is None or not num_leaving or bool((state.num_seen >= num_remembered).all()):
            return None
        is_foreign = state.num_seen <= num_remembered - num_leaving
        require(
            bool((is_foreign | (state.num_seen >= num_remembered)).all()),
            f"a row was reset in the middle of the {num_leaving} hidden states that leave the short-term memory "
            f"together: use segments whose length divides memory_length ({self.memory_length})",
        )
        return is_foreign

    def _write(
        self,
        layer: int,
        hidden: Tensor,
        leaving: Tensor,
        memory: MemoryState | CompressedState,
        generator: torch.Generator | None,
    ) -> tuple[MemoryState | CompressedState, Tensor]:
        """A layer's long-term memory after a write, and what the write adds to a training loss."""
        return self.long_term_memories[layer].write(leaving, memory, generator=generator), hidden.new_zeros(())
