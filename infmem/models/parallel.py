r"""Many segments at once: the same states as reading them one after another, in far fewer and larger operations.

What a layer remembers of a segment is the segment's input to that layer, not its output. So the first layer's memories
are known for every segment as soon as the tokens are, then the second layer's, and so on: each layer can treat all
segments as one large batch. Only the update of a long-term memory walks from segment to segment, and it is one small
product each. The last layer need not run at all, since no memory holds its output.
"""

from itertools import groupby, pairwise

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from infmem.memory import CompressedState, MemoryState
from infmem.models.long_term import LongTermTransformer
from infmem.models.transformer_xl import ModelState, TransformerXL
from infmem.validation import checked, require

LongTermState = MemoryState | CompressedState

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
        generator: randomness of a sticky long-term memory. A memory that depends on attention, as that one does, is
            read segment by segment.

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
        if isinstance(model, LongTermTransformer) and model.depends_on_attention:
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
        long_term=tuple(type(parts[0])(*map(torch.cat, zip(*parts, strict=True))) for parts in long_term),
        auxiliary_loss=states[0].auxiliary_loss,
    )


def _memorize_by_layer(model: TransformerXL, tokens: Tensor, segment_length: int) -> ModelState:
    num_segments, has_long_term = tokens.shape[1] // segment_length, isinstance(model, LongTermTransformer)
    starts = [segment * segment_length for segment in range(num_segments)]
    left = [model.num_leaving(start) for start in starts]  # before each segment, from the short-term memory
    kept_from = left[-1] if has_long_term else model.num_leaving(tokens.shape[1])
    hidden, short_term, long_term = model.embed(tokens), [], []
    for layer in range(model.config.num_layers):
        short_term.append(hidden[:, kept_from:].clone())
        memories = _written_memories(model, layer, hidden, left) if has_long_term else [None] * num_segments
        long_term += memories[-1:] if has_long_term else []
        if layer == model.config.num_layers - 1:
            break
        # While memories fill, segments have memories of different sizes; after that they are all alike.
        sizes = [_sizes(*segment) for segment in zip(starts, left, memories, strict=True)]
        groups = [list(group) for _, group in groupby(range(num_segments), sizes.__getitem__)]
        hidden = torch.cat(
            [_read_group(model, layer, hidden, segment_length, left, group, memories) for group in groups], dim=1
        )
    return ModelState(tuple(short_term), tuple(long_term), hidden.new_zeros(()))


def _written_memories(model: LongTermTransformer, layer: int, hidden: Tensor, left: list[int]) -> list[LongTermState]:
    """A layer's long-term memory as each segment finds it."""
    memory = model.long_term_memories[layer]
    states = [memory.empty(len(hidden))]
    for begin, end in pairwise(left):
        states.append(memory.write(hidden[:, begin:end], states[-1]) if end > begin else states[-1])
    return states


def _sizes(start: int, left: int, memory: LongTermState | None) -> tuple[int, bool, list[torch.Size]]:
    """Segments of equal sizes can be read as one batch: short-term memory, whether anything was written, long-term."""
    return start - left, left > 0, [part.shape for part in memory or ()]


def _read_group(
    model: TransformerXL,
    layer: int,
    hidden: Tensor,
    segment_length: int,
    left: list[int],
    group: list[int],
    memories: list[LongTermState | None],
) -> Tensor:
    """One layer over consecutive segments whose memories have equal sizes, folded into the batch."""
    num_recent = group[0] * segment_length - left[group[0]]
    reach = hidden[:, left[group[0]] : (group[-1] + 1) * segment_length]
    windows = rearrange(
        reach.unfold(1, num_recent + segment_length, segment_length),
        "batch segment d_model window -> (batch segment) window d_model",
    )
    memory = None if memories[0] is None else _fold([memories[segment] for segment in group])
    output = model.layer(layer, windows[:, num_recent:], windows[:, :num_recent], memory).hidden
    return rearrange(output, "(batch segment) pos d_model -> batch (segment pos) d_model", batch=len(hidden))


def _fold(memories: list[LongTermState]) -> LongTermState:
    """The long-term memories of several segments as one batch."""
    parts = [
        rearrange(torch.stack(part), "segment batch ... -> (batch segment) ...") for part in zip(*memories, strict=True)
    ]
    return type(memories[0])(*parts)
