"""Exercises of notebook 04: where everything goes, the share of the past, the age map, the update, the recurrence."""

import torch

from infmem.contraction import Update, UpdateOperators, age_map, contracted_positions, scaled_tau, update
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


def _token_at(t, tau, num_past, num_new):
    """The age map after one update."""
    return age_map(t, num_past, [Update(num_new, tau)])[0]


def _moments(generator: torch.Generator) -> list[tuple]:
    t = torch.tensor([0.1, 0.25, 0.4, 0.6, 0.75, 0.9, 1.0], dtype=torch.float64)
    return [(t, 0.7, 60, 20), (t[1:6], 0.2, 11, 30)]


def _refit(coefficients, x, samples, operator_past, operator_new):
    """`infmem.contraction.update` for one sequence."""
    return update(coefficients[None], x[None], samples, UpdateOperators(operator_past, operator_new))[0]


def _updates(generator: torch.Generator) -> list[tuple]:
    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [(normal(7, 2), normal(3, 2), normal(5, 7), normal(5, 7), normal(3, 7))]


EXERCISES = {
    "token_at": Exercise(
        reference=_token_at,
        library="infmem.contraction.age_map",
        cases=_moments,
        mistakes={
            "tau and 1 - tau are swapped: tau is the share of the past": lambda t, tau, num_past, num_new: _token_at(
                t, 1 - tau, num_past, num_new
            ),
            "oldest and newest are swapped: the past lies on the left, from 0 to tau": (
                lambda t, tau, num_past, num_new: torch.where(
                    t > 1 - tau, num_past * (t - 1 + tau) / tau, num_past + num_new * t / (1 - tau)
                )
            ),
            "the new tokens are numbered from 0 again: the past was there before them": (
                lambda t, tau, num_past, num_new: torch.where(
                    t > tau, num_new * (t - tau) / (1 - tau), num_past * t / tau
                )
            ),
            "every token gets the same room here, as if tau were the share of the past among the tokens": (
                lambda t, tau, num_past, num_new: (num_past + num_new) * t
            ),
            "the new tokens had a line of their own: t was (t - tau) / (1 - tau) there": (
                lambda t, tau, num_past, num_new: torch.where(t > tau, num_past + num_new * t, num_past * t / tau)
            ),
            "the past was not squeezed yet then: t was t / tau there": lambda t, tau, num_past, num_new: torch.where(
                t > tau, num_past + num_new * (t - tau) / (1 - tau), num_past * t
            ),
        },
    ),
    "refit": Exercise(
        reference=_refit,
        library="infmem.contraction.update",
        gradients=True,
        cases=_updates,
        mistakes={
            "the past is forgotten: read the old signal at the samples and fit it again": (
                lambda coefficients, x, samples, operator_past, operator_new: operator_new.mT @ x
            ),
            "the new tokens are missing": lambda coefficients, x, samples, operator_past, operator_new: (
                operator_past.mT @ samples @ coefficients
            ),
            "the old coefficients are kept as they are: the old signal has to be read, moved and fitted again": (
                lambda coefficients, x, samples, operator_past, operator_new: coefficients + operator_new.mT @ x
            ),
            "the past is detached, so that what was written before cannot learn": (
                lambda coefficients, x, samples, operator_past, operator_new: _refit(
                    coefficients.detach(), x, samples, operator_past, operator_new
                )
            ),
        },
    ),
    "contracted_positions": Exercise(
        library="infmem.contraction.contracted_positions",
        reference=contracted_positions,
        cases=_places,
        mistakes={
            "the new tokens begin at 0: shift them by tau, so that they follow the past": lambda past, new, tau: (
                torch.cat([tau * past, (1 - tau) * new])
            ),
            "the new tokens are scaled by tau, but what is left for them is 1 - tau": lambda past, new, tau: torch.cat(
                [tau * past, tau + tau * new]
            ),
            "tau and 1 - tau are swapped: tau is the share of the past": lambda past, new, tau: contracted_positions(
                past, new, 1 - tau
            ),
            "the past stays where it was: multiply its positions by tau": lambda past, new, tau: torch.cat(
                [past, tau + (1 - tau) * new]
            ),
        },
    ),
    "scaled_tau": Exercise(
        library="infmem.contraction.scaled_tau",
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
        library="infmem.recurrence.linear_recurrence",
        reference=_transition,
        cases=_matrices,
        mistakes={
            "this is the transpose of A: first the old signal is sampled, then it is fitted": lambda samples, past: (
                samples.mT @ past
            ),
            "that has a row for each sample: contract the samples away, so that basis functions are left": (
                lambda samples, past: past @ samples.mT
            ),
            "the operator is used twice and the samples not at all: A holds both": lambda samples, past: past.mT @ past,
        },
    ),
}
