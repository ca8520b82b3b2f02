"""Exercises of notebooks 00 and 09: the answer of the task, its metric, what a model sees, planning an experiment."""

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


def _needed(spread, half_width):
    return math.ceil((1.96 * spread / half_width) ** 2)


def _paired(scores, baseline):
    return _half_width(scores - baseline)


def _two_models(generator: torch.Generator) -> list[tuple]:
    hard = torch.rand(29, generator=generator, dtype=torch.float64)
    noise = 0.2 * torch.rand(2, 29, generator=generator, dtype=torch.float64)
    return [(hard + noise[0], hard + noise[1])]


EXERCISES = {
    "sequences_needed": Exercise(
        reference=_needed,
        library="infmem.evaluation",
        cases=lambda generator: [(0.11, 0.01), (0.3, 0.02), (0.25, 0.1), (0.25, 0.06125)],
        mistakes={
            "that is the root of it: the half width falls with the root of the number of sequences": (
                lambda spread, half_width: math.ceil(1.96 * spread / half_width)
            ),
            "the factor 1.96 of a 95 % interval is missing": lambda spread, half_width: math.ceil(
                (spread / half_width) ** 2
            ),
            "rounded down it is one too few: round up": lambda spread, half_width: math.floor(
                (1.96 * spread / half_width) ** 2
            ),
            "a sequence cannot be cut: give a whole number": lambda spread, half_width: (
                (1.96 * spread / half_width) ** 2
            ),
            "the square is rounded up before it is taken: square first, then round up": lambda spread, half_width: (
                math.ceil(1.96 * spread / half_width) ** 2
            ),
            "where the formula is already a whole number, that is one too many: use math.ceil": (
                lambda spread, half_width: int((1.96 * spread / half_width) ** 2) + 1
            ),
        },
    ),
    "paired_interval": Exercise(
        reference=_paired,
        library="infmem.evaluation",
        cases=_two_models,
        mistakes={
            "this treats both models as if they had seen different sequences: take the differences first": (
                lambda scores, baseline: 1.96 * torch.sqrt((scores.var() + baseline.var()) / len(scores))
            ),
            "that is how far the differences scatter: their mean is known better, by the root of their number": (
                lambda scores, baseline: 1.96 * (scores - baseline).std()
            ),
            "the two intervals are added: take one interval, of the differences": lambda scores, baseline: (
                _half_width(scores) + _half_width(baseline)
            ),
            "that is the difference itself: its half width was asked for": lambda scores, baseline: (
                scores.mean() - baseline.mean()
            ),
        },
    ),
    "sort_by_count": Exercise(
        library="infmem.tasks.sorting.sorted_symbols",
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
        library="infmem.tasks.sorting.reference_lines",
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
        library="infmem.tasks.sorting.accuracy",
        reference=accuracy,
        cases=_guesses,
        mistakes={
            "positions where nothing is asked count as wrong: divide by the number of targets that are not -100": (
                lambda logits, targets: (logits.argmax(-1) == targets).float().mean(-1)
            ),
            "that is how many are right: divide by how many were asked for": lambda logits, targets: (
                ((logits.argmax(-1) == targets) & (targets != IGNORE)).sum(-1).to(logits.dtype)
            ),
            "that is one number for the whole batch: give one for each sequence": lambda logits, targets: (
                (logits.argmax(-1) == targets)[targets != IGNORE].float().mean()
            ),
        },
    ),
    "first_seen": Exercise(
        library="infmem.tasks.sorting.first_visible",
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
        library="infmem.evaluation",
        reference=_half_width,
        cases=lambda generator: [(torch.rand(23, generator=generator, dtype=torch.float64),)],
        mistakes={
            "that is how far the sequences scatter: their mean is known better, by the root of their number": (
                lambda scores: 1.96 * scores.std()
            ),
            "the standard deviation of a sample has n - 1 in its denominator": lambda scores: (
                1.96 * scores.std(correction=0) / math.sqrt(len(scores))
            ),
            "that is the standard error: 95 % need 1.96 of it to each side": lambda scores: (
                scores.std() / math.sqrt(len(scores))
            ),
            "that is the whole width: give half of it": lambda scores: 2 * _half_width(scores),
            "it is divided by the number of sequences: divide by the root of it": lambda scores: (
                1.96 * scores.std() / len(scores)
            ),
        },
    ),
}
