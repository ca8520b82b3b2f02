"""Exercises of notebooks 00 and 09: the answer of the task, its metric, what a model can see, an interval."""

import math

import torch

from infmem.exercises.base import Exercise
from infmem.tasks.sorting import IGNORE, NUM_SYMBOLS, accuracy, first_visible, sorted_symbols


def _sorted(symbols):
    return sorted_symbols(symbols[None])[0]


def _sequences(generator: torch.Generator) -> list[tuple]:
    tied = torch.tensor([7, 3, 3, 11, 7, 0, 19, 11, 11])
    return [(tied,), (torch.randint(0, NUM_SYMBOLS, (61,), generator=generator),)]


def _guesses(generator: torch.Generator) -> list[tuple]:
    logits = torch.randn(3, 13, 5, generator=generator)
    targets = torch.randint(0, 5, (3, 13), generator=generator)
    targets[:, 6:] = logits[:, 6:].argmax(-1)  # so that every sequence has right answers, and
    targets[0, 6:9] = (targets[0, 6:9] + 1) % 5  # not equally many
    targets[:, :4] = IGNORE
    return [(logits, targets)]


def _first_seen(length, segment_length, num_layers, memory_length):
    return first_visible(length, segment_length, num_layers, memory_length)[0].item()


def _half_width(scores):
    return 1.96 * scores.std() / math.sqrt(len(scores))


EXERCISES = {
    "sort_by_count": Exercise(
        reference=_sorted,
        cases=_sequences,
        mistakes={
            "these are the counts: give the symbols, in the order of their counts": lambda s: (
                torch.bincount(s, minlength=NUM_SYMBOLS).sort(descending=True).values
            ),
            "the rarest symbol comes first: sort by decreasing count": lambda s: _sorted(s).flip(0),
            "ties are broken by the symbol's number: the symbol that occurred first must come first": lambda s: (
                torch.bincount(s, minlength=NUM_SYMBOLS).argsort(descending=True, stable=True)
            ),
        },
    ),
    "chance": Exercise(
        reference=lambda num_symbols: sum(1 / left for left in range(1, num_symbols + 1)) / num_symbols,
        cases=lambda generator: [(20,), (3,)],
        mistakes={
            "that guesses among all symbols: those that were given already cannot come again": lambda n: 1 / n,
            "that is how many answers are right: divide by the number of answers": lambda n: sum(
                1 / left for left in range(1, n + 1)
            ),
            "the last answer is asked for too, and cannot be missed: one symbol is left": lambda n: (
                sum(1 / left for left in range(2, n + 1)) / n
            ),
        },
    ),
    "teacher_forced": Exercise(
        reference=accuracy,
        cases=_guesses,
        mistakes={
            "positions where nothing is asked count as wrong: divide by the number of targets that are not -100": (
                lambda logits, targets: (logits.argmax(-1) == targets).float().mean(-1)
            ),
            "that is one number for the whole batch: give one for each sequence": lambda logits, targets: (
                (logits.argmax(-1) == targets)[targets != IGNORE].float().mean()
            ),
        },
    ),
    "first_seen": Exercise(
        reference=_first_seen,
        cases=lambda generator: [(396, 32, 2, 80), (1000, 128, 3, 200), (50, 32, 2, 80)],
        mistakes={
            "a hidden state in the memory saw the memory of its own segment: go back to that segment's start first": (
                lambda length, segment, layers, memory: max(0, length // segment * segment - layers * memory)
            ),
            "memory reaches back from the start of the answering segment, not from the separator": (
                lambda length, segment, layers, memory: max(0, length - layers * memory)
            ),
            "that is one layer: each further layer reaches as far back again": (
                lambda length, segment, layers, memory: max(0, length // segment * segment - memory)
            ),
        },
    ),
    "interval": Exercise(
        reference=_half_width,
        cases=lambda generator: [(torch.rand(23, generator=generator, dtype=torch.float64),)],
        mistakes={
            "that is how far the sequences scatter: their mean is known better, by the root of their number": (
                lambda scores: 1.96 * scores.std()
            ),
            "that is the standard error: 95 % need 1.96 of it to each side": lambda scores: (
                scores.std() / math.sqrt(len(scores))
            ),
            "that is the whole width: give half of it": lambda scores: 2 * _half_width(scores),
        },
    ),
}
