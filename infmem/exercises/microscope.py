"""Exercises of notebook 10: the matrix of all writes, and symbols decoded from a signal."""

import torch

from infmem.exercises.base import Exercise


def _extended(operator, transition, write):
    """G of all tokens after one more update B <- A B + C X, from G before it."""
    return torch.cat([operator @ transition.mT, write.mT])


def _shares(signal, embeddings):
    """Symbol shares of a signal made of embeddings times sqrt(d)."""
    return signal @ torch.linalg.pinv(embeddings * embeddings.shape[1] ** 0.5)


def _updates(generator: torch.Generator) -> list[tuple]:
    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [(random(5, 3), random(3, 3), random(3, 2)), (random(4, 7), random(7, 7), random(7, 4))]


def _signals(generator: torch.Generator) -> list[tuple]:
    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    cases = []
    for num_t, num_symbols, d_model in [(5, 3, 8), (2, 7, 11)]:
        embeddings = random(num_symbols, d_model)
        cases.append((random(num_t, num_symbols).softmax(-1) @ embeddings * d_model**0.5, embeddings))
    return cases


EXERCISES = {
    "extended_operator": Exercise(
        library="infmem.microscope.weights.token_operator",
        reference=_extended,
        cases=_updates,
        mistakes={
            "the old rows are as they were, but an update changes what the old tokens have left: multiply them by "
            "A transposed": lambda operator, transition, write: torch.cat([operator, write.mT]),
            "A is not symmetric: a row of G is a column of coefficients lying down, so it is multiplied by A "
            "transposed, from the right": lambda operator, transition, write: torch.cat(
                [operator @ transition, write.mT]
            ),
            "the new tokens come last: oldest first, as everywhere": lambda operator, transition, write: torch.cat(
                [write.mT, operator @ transition.mT]
            ),
        },
    ),
    "symbol_shares": Exercise(
        library="infmem.microscope.symbols.decode_symbols",
        reference=_shares,
        cases=_signals,
        mistakes={
            "the model multiplies embeddings by the square root of d before it writes them: so must you": (
                lambda signal, embeddings: signal @ torch.linalg.pinv(embeddings)
            ),
            "a softmax of inner products looks like shares, but is another question: solve the least squares problem": (
                lambda signal, embeddings: (signal @ embeddings.mT / embeddings.shape[1] ** 0.5).softmax(-1)
            ),
            "inner products with the embeddings count each symbol's look-alikes too: solve the least squares problem "
            "instead": lambda signal, embeddings: signal @ (embeddings * embeddings.shape[1] ** 0.5).mT,
        },
    ),
}
