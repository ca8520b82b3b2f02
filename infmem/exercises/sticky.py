"""Exercises of notebook 05: the histogram, a floor under it, one draw from each stratum, and the locations."""

import torch

from infmem.basis import gaussian_density, gaussian_mass
from infmem.exercises.base import Exercise
from infmem.sticky import attention_histogram


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
    masses[0, 3] = 0  # no attention at all
    return [(masses / masses.sum(-1, keepdim=True), 0.2)]


def _histogram(mu, sigma_sq, num_bins):
    """`infmem.sticky.attention_histogram` of one sequence."""
    return attention_histogram(mu[None], sigma_sq[None], num_bins)[0]


def _histogram_of(masses):
    """All heads and queries together, normalised."""
    total = masses.sum((0, 1))
    return total / total.sum()


def _masses(mu, sigma_sq, num_bins, shift=0.0):
    edges = torch.linspace(0, 1, num_bins + 1, dtype=mu.dtype) + shift / num_bins
    return gaussian_mass(mu[..., None], sigma_sq[..., None], edges[:-1], edges[1:])


def _middles(mu, sigma_sq, num_bins):
    middles = (torch.arange(num_bins, dtype=mu.dtype) + 0.5) / num_bins
    return gaussian_density(middles, mu[..., None], sigma_sq[..., None])


def _attention(generator: torch.Generator) -> list[tuple]:
    mu, sigma_sq = torch.rand(2, 2, 3, generator=generator, dtype=torch.float64)
    return [(mu, 0.01 + 0.1 * sigma_sq, 5), (mu[:, :2], 0.002 + 0.05 * sigma_sq[:, :2], 7)]


def _locations(probabilities, u):
    """The locations of `infmem.sticky.sample_locations` for these draws."""
    above = probabilities.cumsum(-1)
    found = torch.searchsorted(above, u, right=True).clamp(max=len(probabilities) - 1)
    return (found + 1 - (above[found] - u) / probabilities[found]) / len(probabilities)


def _locations_from(probabilities, u, limit, share=True):
    """The locations with another lower limit of each bin, or without dividing by its probability."""
    above = probabilities.cumsum(-1)
    found = torch.searchsorted(above, u, right=True).clamp(max=len(probabilities) - 1)
    into = u - limit(above, found)
    return (found + (into / probabilities[found] if share else into)) / len(probabilities)


def _histograms_and_draws(generator: torch.Generator) -> list[tuple]:
    cases = []
    for num_bins, num_samples in ((5, 7), (3, 11)):
        masses = 0.05 + torch.rand(num_bins, generator=generator, dtype=torch.float64)
        u = (
            torch.arange(num_samples) + torch.rand(num_samples, generator=generator, dtype=torch.float64)
        ) / num_samples
        cases.append((masses / masses.sum(), u))
    return cases


EXERCISES = {
    "histogram": Exercise(
        reference=_histogram,
        library="infmem.sticky.attention_histogram",
        cases=_attention,
        mistakes={
            "the masses are not normalised: divide by their sum over the bins": lambda mu, sigma_sq, num_bins: _masses(
                mu, sigma_sq, num_bins
            ).sum((0, 1)),
            "the sum runs over the heads alone: all queries belong into the same histogram": (
                lambda mu, sigma_sq, num_bins: (
                    _masses(mu, sigma_sq, num_bins).sum(0)
                    / _masses(mu, sigma_sq, num_bins).sum(0).sum(-1, keepdim=True)
                )
            ),
            "sigma_sq is a variance, and it is used as a standard deviation: take its root": (
                lambda mu, sigma_sq, num_bins: _histogram(mu, sigma_sq**2, num_bins)
            ),
            "that is the density in the middle of each bin: what counts is the mass between its edges": (
                lambda mu, sigma_sq, num_bins: _histogram_of(_middles(mu, sigma_sq, num_bins))
            ),
            "the bins are off by half a step: the first begins at 0": lambda mu, sigma_sq, num_bins: _histogram_of(
                _masses(mu, sigma_sq, num_bins, shift=-0.5)
            ),
            "n bins have n + 1 edges": lambda mu, sigma_sq, num_bins: _histogram(mu, sigma_sq, num_bins - 1),
            "each density is normalised by itself: add the masses first, and divide by their sum at the end": (
                lambda mu, sigma_sq, num_bins: _histogram_of(
                    _masses(mu, sigma_sq, num_bins) / _masses(mu, sigma_sq, num_bins).sum(-1, keepdim=True)
                )
            ),
            "that is the mean, which sums to less than 1 since densities reach out of [0, 1]: divide by the sum": (
                lambda mu, sigma_sq, num_bins: _masses(mu, sigma_sq, num_bins).mean((0, 1))
            ),
        },
    ),
    "locations": Exercise(
        reference=_locations,
        library="infmem.sticky.sample_locations",
        cases=_histograms_and_draws,
        mistakes={
            "those are the left edges of the bins: go on into the bin, as far as u lies between its limits": (
                lambda p, u: torch.searchsorted(p.cumsum(-1), u, right=True).to(u.dtype) / len(p)
            ),
            "those are the numbers of the bins: divide by how many there are, and go on into the bin": (
                lambda p, u: torch.searchsorted(p.cumsum(-1), u, right=True).to(u.dtype)
            ),
            "those are positions in units of a bin: divide by the number of bins": lambda p, u: (
                len(p) * _locations(p, u)
            ),
            "the histogram is not used at all: u must go through its distribution function": lambda p, u: u,
            "it goes into the bin from its right edge: at the lower limit the location is the left edge": (
                lambda p, u: (
                    (2 * torch.searchsorted(p.cumsum(-1), u, right=True).to(u.dtype) + 1 - len(p) * _locations(p, u))
                    / len(p)
                )
            ),
            "that is measured from the right limit of the bin, c_k: subtract the left one, c_(k-1)": (
                lambda p, u: _locations_from(p, u, lambda above, found: above[found])
            ),
            "for bin 0 the index k - 1 is -1, the last entry: but the sum before the first bin is 0": (
                lambda p, u: _locations_from(p, u, lambda above, found: above[found - 1])
            ),
            "how far u is into its bin is not a share yet: divide by the probability of the bin": lambda p, u: (
                _locations_from(p, u, lambda above, found: above[found] - p[found], share=False)
            ),
        },
    ),
    "strata": Exercise(
        library="infmem.sticky.sample_locations",
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
            "where the strata begin is not divided by their number: stratum i begins at i / M": lambda u: (
                torch.arange(len(u), dtype=u.dtype) + u / len(u)
            ),
            "the draws are not divided by their number: a stratum is 1 / M wide": lambda u: (
                torch.arange(len(u), dtype=u.dtype) / len(u) + u
            ),
        },
    ),
    "floor": Exercise(
        library="infmem.sticky.attention_histogram",
        reference=_floor,
        cases=_histograms,
        mistakes={
            "the rows no longer sum to 1: what the floor gets must be taken from the rest": lambda p, share: (
                p + share / p.shape[-1]
            ),
            "the two shares are swapped: `share` is what is spread evenly": lambda p, share: _floor(p, 1 - share),
            "divide by the number of bins, not of rows": lambda p, share: (1 - share) * p + share / len(p),
            "every bin gets all of the share: divide it by the number of bins": lambda p, share: (
                (1 - share) * p + share
            ),
            "that lifts the low bins only: all of a row is multiplied by 1 - share, and every bin gets the same": (
                lambda p, share: p.clamp(min=share / p.shape[-1])
            ),
        },
    ),
}
