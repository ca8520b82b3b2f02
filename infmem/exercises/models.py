"""Exercises of notebooks 06 and 08: recurrence and relative positions, then the pieces of the infinite-former."""

from collections.abc import Callable

import torch
from torch.nn import functional

from infmem.exercises.base import Exercise
from infmem.memory import MemoryConfig
from infmem.models import InfiniteFormer, InfiniteFormerConfig
from infmem.models.layers import relative_shift
from infmem.models.transformer_xl import remember
from infmem.tasks.sorting import first_visible

FLOAT_BYTES, COUNT_BYTES = 4, 8


def _memories(generator: torch.Generator) -> list[tuple]:
    sizes = [(7, 5, 9), (2, 5, 3), (0, 5, 11)]
    return [
        (torch.randn(2, past, 3, generator=generator), torch.randn(2, new, 3, generator=generator), length)
        for past, new, length in sizes
    ]


def _shifted(by_distance: torch.Tensor) -> torch.Tensor:
    """Scores by key for one head, with 0 for keys after the query."""
    queries, keys = by_distance.shape[0], by_distance.shape[1] - 1
    return relative_shift(by_distance[None, None])[0, 0].tril(keys - queries)


def _shifted_by(by_distance: torch.Tensor, offset: int, sign: int) -> torch.Tensor:
    """The shift with a wrong distance: `offset` is added, and `sign` turns it round."""
    queries, keys = by_distance.shape[0], by_distance.shape[1] - 1
    scores = torch.zeros(queries, keys, dtype=by_distance.dtype)
    for i in range(queries):
        for j in range(keys - queries + i + 1):
            distance = (keys - queries + i - j) if sign > 0 else j
            scores[i, j] = by_distance[i, (keys - distance + offset) % (keys + 1)]
    return scores


def _looked_up(by_distance: torch.Tensor, columns: Callable) -> torch.Tensor:
    """The scores in these columns, `columns(i, j, queries, keys)`, those beyond the last one read from the last."""
    queries, keys = by_distance.shape[0], by_distance.shape[1] - 1
    i, j = torch.arange(queries)[:, None], torch.arange(keys)
    return by_distance.gather(1, columns(i, j, queries, keys).clamp(0, keys))


def _first_seen(last: int, segment_length: int, num_layers: int, memory_length: int) -> int:
    """By the rule of thumb, back from the start of the last segment."""
    return max(0, last // segment_length * segment_length - num_layers * memory_length)


def _without_segments(last: int, segment_length: int, num_layers: int, memory_length: int) -> int:
    """By the rule of thumb, back from the last token itself."""
    return max(0, last - num_layers * memory_length)


def _state_bytes(num_layers: int, d_model: int, short_term: int, segment: int, num_basis: int, num_bins: int) -> int:
    memory = MemoryConfig.best(num_basis=num_basis, num_bins=num_bins)
    sizes = {"d_model": d_model, "num_layers": num_layers, "num_heads": 1, "d_ff": 2, "memory_length": short_term}
    return InfiniteFormer(InfiniteFormerConfig(**sizes, memory=memory)).state_bytes(1, segment)


def _joined(x: torch.Tensor, short: torch.Tensor, long: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x + short + long, x.shape[-1:])


EXERCISES = {
    "remember": Exercise(
        library="infmem.models.transformer_xl.remember",
        reference=remember,
        cases=_memories,
        mistakes={
            "it keeps the oldest hidden states: take the last ones": lambda memory, hidden, length: torch.cat(
                [memory, hidden], dim=1
            )[:, :length],
            "the old memory is forgotten: it stays as long as there is room": lambda memory, hidden, length: hidden[
                :, -length:
            ],
            "the order is wrong: the memory is older, so it comes first": lambda memory, hidden, length: torch.cat(
                [hidden, memory], dim=1
            )[:, -length:],
        },
    ),
    "shift": Exercise(
        library="infmem.models.layers.relative_shift",
        gradients=True,
        reference=_shifted,
        cases=lambda generator: [(torch.randn(*sizes, generator=generator),) for sizes in ((3, 6), (2, 3))],
        mistakes={
            "every score is one distance too far: column 0 is not used, so distance d is in column keys - d": (
                lambda by_distance: _shifted_by(by_distance, -1, 1)
            ),
            "all rows are moved alike: query i lies i positions later, so its row must move by i more": (
                lambda by_distance: by_distance[:, 1:]
            ),
            "the row of the query is not used: its position among the keys is keys - queries + i": (
                lambda by_distance: by_distance[:, 1:].tril(by_distance.shape[1] - 1 - by_distance.shape[0])
            ),
            "the distances run the wrong way round: distance 0 is the query itself": lambda by_distance: _shifted_by(
                by_distance, 0, -1
            ),
            "the columns run the other way round: distance d is in column keys - d, not in column d": lambda scores: (
                _looked_up(scores, lambda i, j, queries, keys: keys - queries + i - j).tril(
                    scores.shape[1] - 1 - len(scores)
                )
            ),
            "the distance is not i - j: query 0 is not at position 0, but at keys - queries": lambda scores: _looked_up(
                scores, lambda i, j, queries, keys: keys - i + j
            ).tril(),
            "too much is set to 0: query 0 is not at position 0, but at keys - queries, so .tril(keys - queries)": (
                lambda by_distance: _shifted(by_distance).tril()
            ),
            "keys after the query must be 0: .tril(keys - queries) does it": lambda by_distance: relative_shift(
                by_distance[None, None]
            )[0, 0],
            "keys after the query must be 0, but they have the score of distance 0: .tril(keys - queries)": (
                lambda scores: _looked_up(scores, lambda i, j, queries, keys: queries - i + j)
            ),
        },
    ),
    "receptive_field": Exercise(
        library="infmem.tasks.sorting.first_visible",
        reference=lambda last, segment_length, num_layers, memory_length: int(
            first_visible(last, segment_length, num_layers, memory_length)[0]
        ),
        cases=lambda generator: [(395, 32, 2, 80), (61, 16, 3, 24), (100, 7, 4, 5)],
        mistakes={
            "that is the rule of thumb, layers times memory: at each layer go to the start of the segment first": (
                _first_seen
            ),
            "the memory is used once only, but every layer has one": lambda last, segment, layers, memory: _first_seen(
                last, segment, 1, memory
            ),
            "the memory ends where the segment of the last token begins: go there first": _without_segments,
        },
    ),
    "join": Exercise(
        library="infmem.models.layers.Block",
        gradients=True,
        reference=_joined,
        cases=lambda generator: [tuple(torch.randn(2, 5, 7, generator=generator) for _ in range(3))],
        mistakes={
            "the long-term read is missing: both reads are added to x": lambda x, short, long: _joined(
                x, short, 0 * long
            ),
            "the residual x is missing: it is added before the normalisation": lambda x, short, long: _joined(
                0 * x, short, long
            ),
            "the variance has n in its denominator here, not n - 1: use layer_norm, or std(correction=0)": (
                lambda x, short, long: (
                    (x + short + long - (x + short + long).mean(-1, keepdim=True))
                    / (x + short + long).std(-1, keepdim=True)
                )
            ),
            "the normalisation comes last (post-norm), after everything is added": lambda x, short, long: (
                functional.layer_norm(x, x.shape[-1:]) + short + long
            ),
            "x is added after the normalisation: add all three, then normalise (post-norm)": (
                lambda x, short, long: x + _joined(0 * x, short, long)
            ),
            "each is normalised by itself: add all three, then normalise once": lambda x, short, long: sum(
                functional.layer_norm(each, each.shape[-1:]) for each in (x, short, long)
            ),
        },
    ),
    "leaving": Exercise(
        library="infmem.models.TransformerXL.num_leaving",
        reference=lambda remembered, memory_length: remembered[:, : max(0, remembered.shape[1] - memory_length)],
        cases=lambda generator: (
            [(torch.randn(2, size, 3, generator=generator), 4) for size in (9, 8, 4, 3, 2)]
            + [(torch.randn(2, 5, 3, generator=generator), 0)]
        ),
        mistakes={
            "those are the newest: what leaves is the oldest": lambda remembered, memory_length: remembered[
                :, min(memory_length, remembered.shape[1]) :
            ],
            "those stay: what leaves is the rest": lambda remembered, memory_length: remembered[:, -memory_length:],
            "a negative number in a slice counts from the end: if there is room left, none leaves": (
                lambda remembered, memory_length: remembered[:, : remembered.shape[1] - memory_length]
            ),
            "they are in reverse: the oldest comes first": lambda remembered, memory_length: remembered[
                :, : max(0, remembered.shape[1] - memory_length)
            ].flip(1),
            "with a memory_length of 0 the slice ends at -0, which is 0: count how many leave": (
                lambda remembered, memory_length: remembered[:, :-memory_length]
            ),
        },
    ),
    "state_size": Exercise(
        library="infmem.models.InfiniteFormer.state_bytes",
        reference=_state_bytes,
        cases=lambda generator: [(3, 10, 5, 7, 11, 13), (2, 64, 32, 32, 48, 128)],
        mistakes={
            "that is one layer only: every layer has its memories": lambda layers, *sizes: _state_bytes(1, *sizes),
            "the last segment's overflow is missing: it waits in the state for the next call": (
                lambda layers, d_model, short, segment, basis, bins: _state_bytes(
                    layers, d_model, short, 0, basis, bins
                )
            ),
            "those are numbers: a float32 has 4 bytes, the count of tokens 8": lambda layers, *sizes: (
                (_state_bytes(layers, *sizes) - layers * COUNT_BYTES) // FLOAT_BYTES + layers
            ),
        },
    ),
}
