"""Exercises of notebook 01: the basis, the ridge operator, the signal, and how much of a token is kept."""

import torch

from infmem.basis import GaussianBasis, gaussian_density
from infmem.exercises.base import Exercise
from infmem.signal import positions


def _operator(design, ridge):
    """G of `infmem.signal.ridge_operator` from the values of the basis functions at the tokens, "pos basis"."""
    gram = design.mT @ design + ridge * torch.eye(design.shape[1], dtype=design.dtype)
    return torch.linalg.solve(gram, design.mT).mT


def _designs(generator: torch.Generator) -> list[tuple]:
    basis = GaussianBasis.grid(5, (0.15,), dtype=torch.float64)
    return [(basis.evaluate(positions(11)), 0.5), (basis.evaluate(positions(3)), 2.0)]


def _kept(design, operator):
    return (design * operator).sum(-1)


def _designs_with_operators(generator: torch.Generator) -> list[tuple]:
    return [(design, _operator(design, ridge)) for design, ridge in _designs(generator)]


def _centers(num_centers):
    return GaussianBasis.grid(num_centers, (1.0,), dtype=torch.float64).centers


def _grid(num_centers, shift, steps):
    """Places at an even distance: number i is at (i + shift) / steps."""
    return (torch.arange(num_centers, dtype=torch.float64) + shift) / steps


def _bumps(t, centers, sigmas):
    return GaussianBasis(centers, sigmas).evaluate(t)


def _places_and_bumps(generator: torch.Generator) -> list[tuple]:
    return [
        (torch.rand(7, generator=generator), torch.linspace(0, 1, 5), torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1])),
        (torch.rand(2, generator=generator), torch.tensor([0.0, 0.3, 1.0]), torch.tensor([0.05, 0.4, 0.6])),
    ]


def _signal_at(coefficients, design):
    """`infmem.signal.read` from the values of the basis functions, "query_pos basis"."""
    return design @ coefficients


def _signals(generator: torch.Generator) -> list[tuple]:
    sizes = [((7, 3), (11, 7)), ((5, 2), (3, 5))]
    return [tuple(torch.rand(shape, generator=generator) for shape in shapes) for shapes in sizes]


EXERCISES = {
    "centers": Exercise(
        reference=_centers,
        library="infmem.basis.GaussianBasis.grid",
        cases=lambda generator: [(5,), (8,)],
        mistakes={
            "the centres are off by half a step: the first is at 0 and the last at 1": lambda n: _grid(n, 0.5, n),
            "the last centre is not at 1: n centres have n - 1 steps between them": lambda n: _grid(n, 0, n),
            "those are the end points of n parts: the first centre is at 0": lambda n: _grid(n, 1, n),
        },
    ),
    "bumps": Exercise(
        reference=_bumps,
        library="infmem.basis.GaussianBasis.evaluate",
        gradients=True,
        cases=_places_and_bumps,
        mistakes={
            "sigmas holds standard deviations, and it is used as if it held variances: square it": (
                lambda t, centers, sigmas: gaussian_density(t[:, None], centers, sigmas)
            ),
            "the factor in front of the exponential is missing, 1 / (sigma sqrt(2 pi))": (
                lambda t, centers, sigmas: torch.exp(-0.5 * ((t[:, None] - centers) / sigmas) ** 2)
            ),
            "the factor one half in the exponent is missing": lambda t, centers, sigmas: (
                torch.exp(-(((t[:, None] - centers) / sigmas) ** 2)) / (sigmas * (2 * torch.pi) ** 0.5)
            ),
            "the axes are swapped: a row for each position, a column for each basis function": (
                lambda t, centers, sigmas: _bumps(t, centers, sigmas).mT
            ),
        },
    ),
    "signal_at": Exercise(
        reference=_signal_at,
        library="infmem.signal.read",
        gradients=True,
        cases=_signals,
        mistakes={
            "the axes are swapped: a row for each position, a column for each number of a token": (
                lambda coefficients, design: (design @ coefficients).mT
            ),
            "the weights are not to be normalised: a bump is a density, and its coefficient is small to match": (
                lambda coefficients, design: design / design.sum(-1, keepdim=True) @ coefficients
            ),
            "the coefficients are detached, so that nothing before the memory can learn": lambda coefficients, design: (
                design @ coefficients.detach()
            ),
        },
    ),
    "kept": Exercise(
        library="infmem.signal.effective_degrees_of_freedom",
        reference=_kept,
        cases=_designs_with_operators,
        mistakes={
            "that is one number for each basis function: sum over the functions, and keep the tokens": lambda f, g: (
                f * g
            ).sum(0),
            "that is their sum, the effective degrees of freedom: keep the tokens apart": lambda f, g: (f * g).sum(),
            "that is the whole smoother, every token's pull on every other: take its diagonal": lambda f, g: f @ g.mT,
        },
    ),
    "ridge": Exercise(
        library="infmem.signal.ridge_operator",
        gradients=True,
        reference=_operator,
        cases=_designs,
        mistakes={
            "that is G transposed: a row for each token, a column for each basis function": (
                lambda f, ridge: _operator(f, ridge).mT
            ),
            "the ridge is missing: add it to the diagonal before you solve": lambda f, ridge: _operator(f, 1e-12),
            "the ridge is added on the wrong side of the inverse: it belongs inside, to what is solved": (
                lambda f, ridge: f @ (torch.linalg.inv(f.mT @ f + 1e-9 * torch.eye(f.shape[1])) + ridge)
            ),
            "the ridge is added everywhere, but belongs on the diagonal only: use torch.eye": lambda f, ridge: (
                torch.linalg.solve(f.mT @ f + ridge, f.mT).mT
            ),
        },
    ),
}
