"""Does a model use its memory? Exchange it just before the answer, and see."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infmem.memory import MemoryState
from infmem.models.infinite_former import InfiniteFormer
from infmem.models.parallel import memorize
from infmem.models.transformer_xl import ModelState
from infmem.tasks import sorting
from infmem.validation import require


def settle(model: InfiniteFormer, state: ModelState, *, generator: torch.Generator | None = None) -> ModelState:
    """A state in which everything due is written to the long-term memory: what the next segment will read.

    A model writes what left its short-term memory at the start of the next call. To look at or exchange the memory that
    the next segment reads, write it now; the next call's result stays the same.

    Args:
        model: an infinite-former.
        state: of its last call.
        generator: randomness of a sticky long-term memory.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("infinite-former", preset("classroom")))
        >>> state = memorize(model, torch.zeros(1, 96, dtype=torch.int64), segment_length=32)
        >>> state.long_term[0].num_tokens, settle(model, state).long_term[0].num_tokens
        (tensor([32]), tensor([64]))
    """
    surplus = model.num_leaving(state.short_term[0].shape[1])
    if surplus == 0:
        return state
    with torch.no_grad():
        long_term = tuple(
            memory.write(recent[:, :surplus], old, generator=generator)
            for memory, recent, old in zip(model.long_term_memories, state.short_term, state.long_term, strict=True)
        )
    return state._replace(long_term=long_term, short_term=tuple(recent[:, surplus:] for recent in state.short_term))


@torch.no_grad()
def answer_accuracy(
    model: InfiniteFormer,
    tokens: Int[Tensor, "batch pos"],
    targets: Int[Tensor, "batch pos"],
    segment_length: int,
    memory: Literal["own", "empty", "other"] = "own",
    layers: Sequence[int] | None = None,
) -> Float[Tensor, " batch"]:
    """Teacher-forced accuracy when the long-term memory is exchanged just before the answer.

    Args:
        model: an infinite-former, not sticky.
        tokens: whole sequences.
        targets: what should come next; all that are asked for lie in the last segment.
        segment_length: tokens per segment.
        memory: what the answer reads: its `own` memory, an `empty` one, or that of the `other` sequence, one row up.
        layers: the layers whose memory is exchanged; None exchanges all.

    Raises:
        ValueError: if an answer is asked for before the last segment, or the word is unknown.

    Source: ours. An ablation at evaluation: the model was trained with its own memory.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("infinite-former", preset("classroom")))
        >>> tokens, targets = sorting.sample(2, 108, torch.Generator().manual_seed(0))
        >>> answer_accuracy(model, tokens, targets, segment_length=32, memory="empty").shape
        torch.Size([2])
    """
    require(memory in ("own", "empty", "other"), f"memory must be 'own', 'empty' or 'other', got {memory!r}")
    start = (tokens.shape[1] - 1) // segment_length * segment_length
    require(
        bool((targets[:, :start] == sorting.IGNORE).all()),
        f"all answers must lie in the last segment, which starts at token {start}: choose another length",
    )
    state = settle(model, memorize(model, tokens[:, :start], segment_length))
    long_term = list(state.long_term)
    for layer in range(len(long_term)) if layers is None else layers:
        if memory == "empty":
            long_term[layer] = model.long_term_memories[layer].empty(len(tokens))
        elif memory == "other":
            long_term[layer] = MemoryState(*(part.roll(1, dims=0) for part in long_term[layer]))
    logits, _ = model(tokens[:, start:], state._replace(long_term=tuple(long_term)))
    return sorting.accuracy(logits, targets[:, start:])
