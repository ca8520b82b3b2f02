"""Exercises of notebooks 02 and 03: reading under a Gaussian, and how a memory chooses it."""

import math

import torch

from infmem.attention import (
    Density,
    collapsed_keys,
    collapsed_logits,
    continuous_read,
    density,
    discrete_attention,
    kl_regularizer,
)
from infmem.basis import GaussianBasis, gaussian_density, gaussian_mass
from infmem.exercises.base import Exercise


def _expectation(mu, sigma_sq, centers, sigmas):
    return GaussianBasis(centers, sigmas).expectation(mu, sigma_sq)


def _reads(generator: torch.Generator) -> list[tuple]:
    centers, sigmas = torch.linspace(0, 1, 5), torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1])
    return [
        (torch.tensor(0.3), torch.tensor(0.04), centers, sigmas),
        (torch.tensor(0.9), torch.tensor(0.7), centers, sigmas),
    ]


def _mass(mu, sigma_sq):
    return gaussian_mass(mu, sigma_sq, 0.0, 1.0)


def _densities(generator: torch.Generator) -> list[tuple]:
    return [(torch.rand(7, generator=generator), 0.01 + torch.rand(7, generator=generator))]


def _slope(mu, sigma_sq, center, sigma):
    return torch.func.grad(lambda mean: gaussian_density(mean, center, sigma_sq + sigma**2))(mu)


def _slopes(generator: torch.Generator) -> list[tuple]:
    numbers = [(0.3, 0.04, 0.5, 0.1), (0.8, 0.09, 0.25, 0.2)]
    return [tuple(torch.tensor(number, dtype=torch.float64) for number in case) for case in numbers]


def _variances(generator: torch.Generator) -> list[tuple]:
    return [(0.01 + torch.rand(7, generator=generator), 0.3)]


def _one_key(coefficients, key_weight, map_weight):
    """The collapsed key of a memory with one row, one head and one map."""
    return collapsed_keys(coefficients[None], key_weight, map_weight[None], num_heads=1)[0, 0, 0]


def _memories(generator: torch.Generator) -> list[tuple]:
    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [(normal(11, 7), normal(5, 7), normal(11))]


def _gaussian(scores, mu_weight, mu_bias, sigma_sq_weight, sigma_sq_bias):
    """Mean and variance from the scores of some queries, "query_pos basis", stacked in front."""
    logits = scores @ mu_weight + mu_bias, scores @ sigma_sq_weight + sigma_sq_bias
    return torch.stack([part[0, 0] for part in density(*(logit[None, None] for logit in logits))])


def _scores(generator: torch.Generator) -> list[tuple]:
    scores, to_mu, to_sigma_sq = (torch.randn(shape, generator=generator) for shape in [(5, 11), 11, 11])
    return [(scores, to_mu, torch.tensor(0.5), to_sigma_sq, torch.tensor(-1.0))]


def _weigh(query, keys, values):
    """Softmax attention of one head of one sequence."""
    return discrete_attention(*(each[None, None] for each in (query, keys, values)))[0]


def _queries(generator: torch.Generator) -> list[tuple]:
    sizes = [(5, 7, 3), (3, 2, 4)]
    return [
        tuple(torch.randn(rows, size, generator=generator) for rows in (queries, keys, keys))
        for queries, keys, size in sizes
    ]


def _read_memory(query, coefficients, key_weight, value_weight, to_mu, to_sigma_sq, centers, sigmas):
    """`infmem.LongTermMemory.read` for one head, without biases and output map."""
    keys = collapsed_keys(coefficients[None], key_weight, torch.stack([to_mu, to_sigma_sq]), num_heads=1)
    where = density(*collapsed_logits(query[None, None], keys))
    return _read_under(where, coefficients, value_weight, centers, sigmas)


def _read_with_widths(query, coefficients, key_weight, value_weight, to_mu, to_sigma_sq, centers, sigmas):
    """The read with the widths of the bumps taken for variances."""
    return _read_memory(query, coefficients, key_weight, value_weight, to_mu, to_sigma_sq, centers, sigmas.sqrt())


def _normalised_read(query, coefficients, key_weight, value_weight, to_mu, to_sigma_sq, centers, sigmas):
    """The read with weights that are divided by their sum."""
    scores = query @ (coefficients @ key_weight.mT).mT / math.sqrt(query.shape[-1])
    where = density(*((scores @ to)[None, None] for to in (to_mu, to_sigma_sq)))
    weights = gaussian_density(where.mu[0, 0, :, None], centers, where.sigma_sq[0, 0, :, None] + sigmas**2)
    return weights / weights.sum(-1, keepdim=True) @ (coefficients @ value_weight.mT)


def _read_under(where, coefficients, value_weight, centers, sigmas):
    values = (coefficients @ value_weight.mT)[None, None]
    return continuous_read(where, values, GaussianBasis(centers, sigmas))[0]


def _read_wrongly(change):
    """The read of a memory with something else in place of each head's mean and variance."""

    def read(query, coefficients, key_weight, value_weight, to_mu, to_sigma_sq, centers, sigmas):
        keys = coefficients @ key_weight.mT
        scores = query @ keys.mT / math.sqrt(query.shape[-1])
        where = change(scores, (scores @ to_mu)[None, None], (scores @ to_sigma_sq)[None, None], query.shape[-1])
        return _read_under(where, coefficients, value_weight, centers, sigmas)

    return read


def _whole_memories(generator: torch.Generator) -> list[tuple]:
    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    widths = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1, 0.2, 0.1], dtype=torch.float64)
    centers = torch.linspace(0, 1, 7, dtype=torch.float64)
    return [(normal(2, 3), normal(7, 5), normal(3, 5), normal(3, 5), normal(7), normal(7), centers, widths)]


EXERCISES = {
    "weigh": Exercise(
        reference=_weigh,
        library="infmem.attention.discrete_attention",
        gradients=True,
        cases=_queries,
        mistakes={
            "the softmax runs over the queries: over the keys, the weights of each query sum to 1": (
                lambda query, keys, values: (query @ keys.mT / math.sqrt(query.shape[-1])).softmax(0) @ values
            ),
            "the scores are not scaled: divide by the root of d_head": lambda query, keys, values: (
                (query @ keys.mT).softmax(-1) @ values
            ),
            "the scores are divided by d_head: it must be its root": lambda query, keys, values: (
                (query @ keys.mT / query.shape[-1]).softmax(-1) @ values
            ),
            "the weights are not normalised: the softmax is missing": lambda query, keys, values: (
                query @ keys.mT / math.sqrt(query.shape[-1]) @ values
            ),
            "keys and values are swapped": lambda query, keys, values: _weigh(query, values, keys),
        },
    ),
    "read_memory": Exercise(
        reference=_read_memory,
        library="infmem.LongTermMemory.read",
        gradients=True,
        cases=_whole_memories,
        mistakes={
            "the scores are not scaled: divide by the root of d_head": _read_wrongly(
                lambda scores, mu, sigma_sq, d_head: density(mu * math.sqrt(d_head), sigma_sq * math.sqrt(d_head))
            ),
            "softplus gives the variance already: no square": _read_wrongly(
                lambda scores, mu, sigma_sq, d_head: Density(
                    torch.sigmoid(mu), torch.nn.functional.softplus(sigma_sq) ** 2
                )
            ),
            "the maps for mean and variance are swapped": _read_wrongly(
                lambda scores, mu, sigma_sq, d_head: density(sigma_sq, mu)
            ),
            "the widths are standard deviations: square sigmas before you add them to the variance": _read_with_widths,
            "the weights of a density need not sum to 1: do not divide them by their sum": _normalised_read,
            "where to look is detached: then no head can learn to look elsewhere": _read_wrongly(
                lambda scores, mu, sigma_sq, d_head: Density(*(each.detach() for each in density(mu, sigma_sq)))
            ),
        },
    ),
    "gaussian_read": Exercise(
        library="infmem.basis.GaussianBasis.expectation",
        gradients=True,
        reference=_expectation,
        cases=_reads,
        mistakes={
            "this is the value at mu, psi_j(mu): the density's own variance sigma_sq is missing": (
                lambda mu, sigma_sq, centers, sigmas: gaussian_density(mu, centers, sigmas**2)
            ),
            "variances add, but sigmas holds standard deviations: square them first": (
                lambda mu, sigma_sq, centers, sigmas: gaussian_density(mu, centers, sigma_sq + sigmas)
            ),
            "variances add, standard deviations do not: add sigma_sq and the square of each sigma": (
                lambda mu, sigma_sq, centers, sigmas: gaussian_density(mu, centers, (sigma_sq.sqrt() + sigmas) ** 2)
            ),
            "sigma_sq is a variance already: do not square it": lambda mu, sigma_sq, centers, sigmas: gaussian_density(
                mu, centers, sigma_sq**2 + sigmas**2
            ),
            "the factor in front of the exponential is missing, 1 / sqrt(2 pi variance)": (
                lambda mu, sigma_sq, centers, sigmas: torch.exp(-0.5 * (mu - centers) ** 2 / (sigma_sq + sigmas**2))
            ),
        },
    ),
    "mass_inside": Exercise(
        library="infmem.basis.gaussian_mass",
        gradients=True,
        reference=_mass,
        cases=_densities,
        mistakes={
            "this is all the mass below 1: take away what lies below 0": (
                lambda mu, sigma_sq: torch.special.ndtr((1 - mu) / sigma_sq.sqrt())
            ),
            "divide by the standard deviation, the root of sigma_sq": (
                lambda mu, sigma_sq: torch.special.ndtr((1 - mu) / sigma_sq) - torch.special.ndtr(-mu / sigma_sq)
            ),
            "erf is not the normal distribution function: that is (1 + erf(x / sqrt(2))) / 2": (
                lambda mu, sigma_sq: torch.erf((1 - mu) / sigma_sq.sqrt()) - torch.erf(-mu / sigma_sq.sqrt())
            ),
        },
    ),
    "slope_of_read": Exercise(
        library="infmem.basis.gaussian_density",
        reference=_slope,
        cases=_slopes,
        mistakes={
            "the sign is wrong: the read grows if mu moves towards the centre": (
                lambda mu, sigma_sq, center, sigma: -_slope(mu, sigma_sq, center, sigma)
            ),
            "the inner derivative is missing: multiply by (center - mu) / (sigma_sq + sigma ** 2)": (
                lambda mu, sigma_sq, center, sigma: gaussian_density(mu, center, sigma_sq + sigma**2)
            ),
            "the inner derivative has the variance in its denominator: divide by sigma_sq + sigma ** 2": (
                lambda mu, sigma_sq, center, sigma: (center - mu) * gaussian_density(mu, center, sigma_sq + sigma**2)
            ),
        },
    ),
    "gaussian_from_scores": Exercise(
        library="infmem.attention.density",
        gradients=True,
        reference=_gaussian,
        cases=_scores,
        mistakes={
            "both maps are affine: add their biases": lambda scores, w_mu, b_mu, w_sigma, b_sigma: _gaussian(
                scores, w_mu, 0.0, w_sigma, 0.0
            ),
            "softplus already gives the variance: no square": lambda scores, w_mu, b_mu, w_sigma, b_sigma: (
                _gaussian(scores, w_mu, b_mu, w_sigma, b_sigma) ** torch.tensor([1, 2])[:, None]
            ),
            "softplus belongs to the variance, sigmoid to the mean: they are swapped": (
                lambda scores, w_mu, b_mu, w_sigma, b_sigma: torch.stack(
                    [
                        torch.nn.functional.softplus(scores @ w_mu + b_mu),
                        torch.sigmoid(scores @ w_sigma + b_sigma),
                    ]
                )
            ),
        },
    ),
    "divergence": Exercise(
        library="infmem.attention.kl_regularizer",
        gradients=True,
        reference=kl_regularizer,
        cases=_variances,
        mistakes={
            "the factor one half is missing": lambda sigma_sq, sigma_0: 2 * kl_regularizer(sigma_sq, sigma_0),
            "the ratio is of variances: square sigma_0": lambda sigma_sq, sigma_0: kl_regularizer(
                sigma_sq, math.sqrt(sigma_0)
            ),
            "the ratio is upside down: it is sigma_sq / sigma_0 ** 2": lambda sigma_sq, sigma_0: kl_regularizer(
                sigma_0**2 / sigma_sq, 1.0
            ),
        },
    ),
    "one_key": Exercise(
        library="infmem.attention.collapsed_keys",
        gradients=True,
        reference=_one_key,
        cases=_memories,
        mistakes={
            "this is the average over the basis functions: weight them with the map instead": (
                lambda coefficients, key_weight, map_weight: key_weight @ coefficients.mean(0)
            ),
            "the keys still have to be made: multiply by key_weight": (
                lambda coefficients, key_weight, map_weight: coefficients.mT @ map_weight
            ),
            "the root of d_head belongs to the scores: leave it to the product with the query": (
                lambda coefficients, key_weight, map_weight: (
                    _one_key(coefficients, key_weight, map_weight) / math.sqrt(len(key_weight))
                )
            ),
        },
    ),
}
