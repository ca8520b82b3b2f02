"""Exercises of notebook 11: where the released code places a first segment, and the divergence with a mean in it."""

import torch
from torch.distributions import Normal, kl_divergence

from infmem.exercises.base import Exercise
from infmem.signal import padding_positions, positions


def _first_fit(length):
    """Tokens and zeros of a first fit under `positions="released"`, in order."""
    return torch.cat([positions(length, "midpoints"), padding_positions(length)]).sort().values


def _grid(length, first, last, num_points):
    return torch.linspace(first, last, num_points, dtype=torch.float64)


def _divergence(mu, sigma_sq, mu_0, sigma_0):
    return kl_divergence(Normal(mu, sigma_sq.sqrt()), Normal(mu_0, sigma_0))


def _densities(generator: torch.Generator) -> list[tuple]:
    mu, sigma_sq = torch.rand(2, 7, generator=generator, dtype=torch.float64)
    return [(mu, 0.01 + 0.1 * sigma_sq, 0.3, 0.05), (mu[:3], 0.2 + sigma_sq[:3], -1.0, 0.5)]


EXERCISES = {
    "first_fit": Exercise(
        library="infmem.signal.padding_positions",
        reference=_first_fit,
        cases=lambda generator: [(6,), (7,), (11,)],
        mistakes={
            "these are the tokens alone: the zeros on both sides are placed too": lambda n: positions(n, "midpoints"),
            "an odd number of tokens has 2 L - 1 places, and they start a whole spacing, 1/L, after -1/2": lambda n: (
                _grid(n, -0.5 + 1 / (2 * n), 1.5 - 1 / (2 * n), 2 * n)
            ),
            "the first place is not -1/2 itself, but half a spacing after it": lambda n: _grid(n, -0.5, 1.5, 2 * n),
            "these places end their share of the line, i/L: a first fit takes the midpoints": lambda n: _grid(
                n, -0.5 + 1 / n, 1.5, 2 * n
            ),
        },
    ),
    "kl_with_mean": Exercise(
        library="infmem.attention.kl_regularizer",
        reference=_divergence,
        cases=_densities,
        mistakes={
            "the two densities are swapped: the head's own comes first": lambda mu, sigma_sq, mu_0, sigma_0: (
                kl_divergence(Normal(mu_0, sigma_0), Normal(mu, sigma_sq.sqrt()))
            ),
            "the term with the means is missing": lambda mu, sigma_sq, mu_0, sigma_0: _divergence(
                mu, sigma_sq, mu, sigma_0
            ),
            "sigma_0 is a standard deviation: square it": lambda mu, sigma_sq, mu_0, sigma_0: _divergence(
                mu, sigma_sq, mu_0, sigma_0**0.5
            ),
            "the half belongs to the term with the means too": lambda mu, sigma_sq, mu_0, sigma_0: (
                _divergence(mu, sigma_sq, mu_0, sigma_0) + 0.5 * ((mu - mu_0) / sigma_0) ** 2
            ),
        },
    ),
}
