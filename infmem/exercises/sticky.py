"""Exercises of notebook 05: one draw from each stratum, and a floor under the histogram."""

import torch

from infmem.exercises.base import Exercise


def _strata(u):
    """The draws of `infmem.sticky.sample_locations` with the method `stratified`, before they meet the histogram."""
    return (torch.arange(len(u), dtype=u.dtype) + u) / len(u)


def _floor(probabilities, share):
    """A histogram of which a share is spread evenly."""
    return (1 - share) * probabilities + share / probabilities.shape[-1]


def _draws(generator: torch.Generator) -> list[tuple]:
    return [(torch.rand(count, generator=generator, dtype=torch.float64),) for count in (7, 11)]


def _histograms(generator: torch.Generator) -> list[tuple]:
    masses = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    return [(masses / masses.sum(-1, keepdim=True), 0.2)]


EXERCISES = {
    "strata": Exercise(
        reference=_strata,
        cases=_draws,
        mistakes={
            "all strata lie one too far: the first begins at 0, so count from 0": lambda u: _strata(u) + 1 / len(u),
            "the draws are only sorted, which leaves them independent: add the number of the stratum first": lambda u: (
                u.sort().values
            ),
            "nothing is random: each draw must fall anywhere in its own stratum": lambda u: _strata(
                torch.zeros_like(u)
            ),
        },
    ),
    "floor": Exercise(
        reference=_floor,
        cases=_histograms,
        mistakes={
            "the rows no longer sum to 1: what the floor gets must be taken from the rest": lambda p, share: (
                p + share / p.shape[-1]
            ),
            "the two shares are swapped: `share` is what is spread evenly": lambda p, share: _floor(p, 1 - share),
            "divide by the number of bins, not of rows": lambda p, share: (1 - share) * p + share / len(p),
        },
    ),
}
