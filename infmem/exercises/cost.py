"""Exercises of notebook 12: what a segment costs with a cache, and the gradient of values whose weights nobody kept."""

import torch
from torch import Tensor

from infmem.basis import GaussianBasis
from infmem.cost import ReadSizes, attention_step
from infmem.exercises.base import Exercise


def _segment_with_cache(length: int, num_past: int, d_model: int) -> int:
    """Operations of the projections and the attention of one segment of one sequence."""
    return attention_step(ReadSizes(1, length, 1, d_model), num_past + length).products


def _gradient_of_values(mu: Tensor, sigma_sq: Tensor, centers: Tensor, sigmas: Tensor, grad: Tensor) -> Tensor:
    """Of one head, by autograd."""
    weights = GaussianBasis(centers, sigmas).expectation(mu, sigma_sq)
    values = torch.zeros(len(centers), grad.shape[1], dtype=grad.dtype, requires_grad=True)
    return torch.autograd.grad(weights @ values, values, grad)[0]


def _weights(mu: Tensor, sigma_sq: Tensor, centers: Tensor, variances: Tensor) -> Tensor:
    variance = sigma_sq[:, None] + variances
    return torch.exp(-((mu[:, None] - centers) ** 2) / (2 * variance)) / (2 * torch.pi * variance) ** 0.5


def _heads(generator: torch.Generator) -> list[tuple]:
    mu, sigma_sq = torch.rand(2, 7, generator=generator, dtype=torch.float64)
    centers, sigmas = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    grad = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    return [(mu, 0.01 + sigma_sq, centers, 0.05 + sigmas, grad)]


EXERCISES = {
    "segment_with_cache": Exercise(
        reference=_segment_with_cache,
        library="infmem.cost.attention_step",
        cases=lambda generator: [(5, 700, 12), (1024, 0, 64)],
        mistakes={
            "these are multiplications alone: each comes with an addition, so twice as many": lambda *sizes: (
                _segment_with_cache(*sizes) // 2
            ),
            "a segment also looks at itself: there are num_past + length keys": lambda length, past, d: (
                8 * length * d**2 + 4 * length * past * d
            ),
            "there are four projections: query, key, value and output": lambda length, past, d: (
                6 * length * d**2 + 4 * length * (past + length) * d
            ),
            "attention is two products: the scores, and the mean of the values": lambda length, past, d: (
                8 * length * d**2 + 2 * length * (past + length) * d
            ),
        },
    ),
    "gradient_of_values": Exercise(
        reference=_gradient_of_values,
        library="infmem.attention.continuous_read",
        cases=_heads,
        mistakes={
            "the widths are standard deviations: square them before they are added to the variance": (
                lambda mu, sigma_sq, centers, sigmas, grad: _weights(mu, sigma_sq, centers, sigmas).mT @ grad
            ),
            "the weights are those of the functions alone: add the variance of the density": (
                lambda mu, sigma_sq, centers, sigmas, grad: _weights(mu, 0 * sigma_sq, centers, sigmas**2).mT @ grad
            ),
            "these are means over the queries: every query adds its part": (
                lambda mu, sigma_sq, centers, sigmas, grad: (
                    _weights(mu, sigma_sq, centers, sigmas**2).mT @ grad / len(mu)
                )
            ),
        },
    ),
}
