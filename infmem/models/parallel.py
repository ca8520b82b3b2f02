r"""Many segments at once: the same states as reading them one after another, in far fewer and larger operations.

What a layer remembers of a segment is the segment's input to that layer, not its output. So the first layer's memories
are known for every segment as soon as the tokens are, then the second layer's, and so on: each layer can treat all
segments as one large batch. Only the update of a long-term memory walks from segment to segment, and it is one small
product each. The last layer need not run at all, since no memory holds its output.
"""

from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from infmem.memory import MemoryState
from infmem.models.infinite_former import InfiniteFormer
from infmem.models.transformer_xl import ModelState, TransformerXL
from infmem.validation import checked, require

# Tokens whose hidden states are held at once: more than this many are read a few rows at a time.
MOST_TOKENS = 2**18


@checked
def memorize(
    model: TransformerXL,
    tokens: Int[Tensor, "batch pos"],
    segment_length: int,
    *,
    generator: torch.Generator | None = None,
) -> ModelState:
    """The state after reading whole segments from the start, without logits and without gradient.

    Args:
        model: any model of this package.
        tokens: a whole number of segments, possibly none.
        segment_length: tokens per segment.
        generator: randomness of a sticky long-term memory, which has to be read segment by segment.

    Returns:
        The state that `state = model(segment, state)[1]` for one segment after another gives, up to rounding; its
        auxiliary loss is 0, since no densities of the last layer are computed.

    Raises:
        ValueError: if the tokens are not a whole number of segments.

    Source: ours. It follows from the recurrence of Dai et al. 2019 (arXiv 1901.02860), which goes one layer down.

    Example:
        >>> from infmem import TransformerXL, TransformerXLConfig
        >>> model = TransformerXL(TransformerXLConfig(d_model=12, num_heads=3, num_layers=2, memory_length=7))
        >>> memorize(model, torch.zeros(2, 15, dtype=torch.int64), segment_length=5).short_term[1].shape
        torch.Size([2, 7, 12])
    """
    require(
        segment_length >= 1 and tokens.shape[1] % segment_length == 0,
        f"tokens must be a whole number of segments of segment_length={segment_length}, got {tokens.shape[1]} tokens",
    )
    with torch.no_grad():
        if tokens.shape[1] == 0:
            return model.empty(len(tokens))
        if isinstance(model, InfiniteFormer) and model.config.memory.sticky != "none":
            state = None
            for segment in tokens.split(segment_length, dim=1):
                state = model(segment, state, generator=generator)[1]
            return state
        rows = max(1, MOST_TOKENS // tokens.shape[1])
        return _join([_memorize_by_layer(model, part, segment_length) for part in tokens.split(rows)])


def _join(states: list[ModelState]) -> ModelState:
    """States of different rows as one."""
    if len(states) == 1:
        return states[0]
    short_term = zip(*(state.short_term for state in states), strict=True)
    long_term = zip(*(state.long_term for state in states), strict=True)
    return ModelState(
        short_term=tuple(torch.cat(parts) for parts in short_term),
        long_term=tuple(MemoryState(*map(torch.cat, zip(*parts, strict=True))) for parts in long_term),
        auxiliary_loss=states[0].auxiliary_loss,
    )


def _memorize_by_layer(model: TransformerXL, tokens: Tensor, segment_length: int) -> ModelState:
    num_segments, recent_length = tokens.shape[1] // segment_length, model.memory_length
    has_long_term = isinstance(model, InfiniteFormer)
    starts = [segment * segment_length for segment in range(num_segments)]
    written = [max(0, start - recent_length) for start in starts]
    kept_from = written[-1] if has_long_term else max(0, tokens.shape[1] - recent_length)
    hidden, short_term, long_term = model.embed(tokens), [], []
    for layer in range(model.config.num_layers):
        short_term.append(hidden[:, kept_from:].clone())
        memories = _written_memories(model, layer, hidden, written) if has_long_term else []
        long_term += memories[-1:]
        if layer == model.config.num_layers - 1:
            break
        # Segments whose short-term memory is not yet full each have one of their own length; the others share theirs.
        num_filling = sum(start <= recent_length for start in starts)
        groups = [(segment, segment + 1) for segment in range(num_filling)]
        groups += [(num_filling, num_segments)] if num_filling < num_segments else []
        hidden = torch.cat(
            [_read_group(model, layer, hidden, segment_length, group, memories[slice(*group)]) for group in groups],
            dim=1,
        )
    return ModelState(tuple(short_term), tuple(long_term), hidden.new_zeros(()))


def _written_memories(model: InfiniteFormer, layer: int, hidden: Tensor, written: list[int]) -> list[MemoryState]:
    """A layer's long-term memory as each segment finds it."""
    memory = model.long_term_memories[layer]
    states = [memory.empty(len(hidden))]
    for begin, end in pairwise(written):
        states.append(memory.write(hidden[:, begin:end], states[-1]) if end > begin else states[-1])
    return states


def _read_group(
    model: TransformerXL,
    layer: int,
    hidden: Tensor,
    segment_length: int,
    group: tuple[int, int],
    memories: list[MemoryState],
) -> Tensor:
    """One layer over consecutive segments that remember equally many hidden states, folded into the batch."""
    first, last = group
    num_recent = min(first * segment_length, model.memory_length)
    reach = hidden[:, first * segment_length - num_recent : last * segment_length]
    windows = rearrange(
        reach.unfold(1, num_recent + segment_length, segment_length),
        "batch segment d_model window -> (batch segment) window d_model",
    )
    memory = _fold(memories) if memories else None
    output = model.layer(layer, windows[:, num_recent:], windows[:, :num_recent], memory).hidden
    return rearrange(output, "(batch segment) pos d_model -> batch (segment pos) d_model", batch=len(hidden))


def _fold(memories: list[MemoryState]) -> MemoryState:
    """The long-term memories of several segments as one batch."""
    coefficients = torch.stack([memory.coefficients for memory in memories])
    num_tokens = torch.stack([memory.num_tokens for memory in memories])
    histogram = torch.stack([memory.histogram for memory in memories])
    return MemoryState(
        coefficients=rearrange(coefficients, "segment batch basis d_model -> (batch segment) basis d_model"),
        num_tokens=rearrange(num_tokens, "segment batch -> (batch segment)"),
        histogram=rearrange(histogram, "segment batch bin -> (batch segment) bin"),
    )
