"""Exercises of notebook 01: the ridge operator, and how much of a token is kept."""

import torch

from infmem.basis import GaussianBasis
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


EXERCISES = {
    "kept": Exercise(
        reference=_kept,
        cases=_designs_with_operators,
        mistakes={
            "that is one number for each basis function: sum over the functions, and keep the tokens": lambda f, g: (
                f * g
            ).sum(0),
            "that is the whole smoother, every token's pull on every other: take its diagonal": lambda f, g: f @ g.mT,
        },
    ),
    "ridge": Exercise(
        reference=_operator,
        cases=_designs,
        mistakes={
            "the ridge is missing: add it to the diagonal before you solve": lambda f, ridge: _operator(f, 1e-12),
            "the ridge is added everywhere, but belongs on the diagonal only: use torch.eye": lambda f, ridge: (
                torch.linalg.solve(f.mT @ f + ridge, f.mT).mT
            ),
        },
    ),
}
