"""Exercises of notebook 04: where everything goes, the share of the past, and the matrix of the recurrence."""

import torch

from infmem.contraction import contracted_positions, scaled_tau
from infmem.exercises.base import Exercise
from infmem.signal import positions


def _transition(samples, operator_past):
    """A of `infmem.recurrence.linear_recurrence`."""
    return operator_past.mT @ samples


def _places(generator: torch.Generator) -> list[tuple]:
    return [(positions(7), positions(5), 0.7), (positions(3), positions(11), 0.2)]


def _matrices(generator: torch.Generator) -> list[tuple]:
    return [tuple(torch.randn(2, 7, 5, generator=generator, dtype=torch.float64))]


def _uncapped(num_past, num_new, tau_max):
    return num_past / (num_past + num_new)


EXERCISES = {
    "contracted_positions": Exercise(
        reference=contracted_positions,
        cases=_places,
        mistakes={
            "the new tokens begin at 0: shift them by tau, so that they follow the past": lambda past, new, tau: (
                torch.cat([tau * past, (1 - tau) * new])
            ),
            "the new tokens are scaled by tau, but what is left for them is 1 - tau": lambda past, new, tau: torch.cat(
                [tau * past, tau + tau * new]
            ),
            "the past stays where it was: multiply its positions by tau": lambda past, new, tau: torch.cat(
                [past, tau + (1 - tau) * new]
            ),
        },
    ),
    "scaled_tau": Exercise(
        reference=scaled_tau,
        cases=lambda generator: [(300, 100, 0.9), (50, 70, 0.9), (9000, 10, 0.9)],
        mistakes={
            "this is the share of the new tokens: the past gets the rest": lambda num_past, num_new, tau_max: min(
                num_new / (num_past + num_new), tau_max
            ),
            "the limit is missing: take the smaller of the share and tau_max": _uncapped,
            "the larger of share and limit is taken: the limit is an upper one, use min": lambda *arguments: max(
                _uncapped(*arguments), arguments[-1]
            ),
        },
    ),
    "transition": Exercise(
        reference=_transition,
        cases=_matrices,
        mistakes={
            "this is the transpose of A: first the old signal is sampled, then it is fitted": lambda samples, past: (
                samples.mT @ past
            ),
            "the operator is used twice and the samples not at all: A holds both": lambda samples, past: past.mT @ past,
        },
    ),
}
