"""Exercises of notebook 13: what a language model's score is."""

import math

import torch

from infmem.exercises.base import Exercise


def _perplexity(nats, num_tokens):
    return (nats.sum() / num_tokens.sum()).exp()


def _bits_per_byte(nats, num_bytes):
    return nats.sum() / num_bytes.sum() / math.log(2)


def _documents(generator: torch.Generator) -> list[tuple]:
    """Documents of very different lengths, of which the short ones are harder."""
    counts = torch.tensor([3.0, 11.0, 101.0, 997.0, 41.0], dtype=torch.float64)
    means = 2 + 3 / counts.sqrt() + torch.rand(5, generator=generator, dtype=torch.float64)
    return [(means * counts, counts), (means[:2] * counts[:2], counts[:2])]


EXERCISES = {
    "perplexity": Exercise(
        reference=_perplexity,
        library="infmem.language.evaluation",
        cases=_documents,
        mistakes={
            "that is the mean of the documents' perplexities: a long document counts as much as a short one then": (
                lambda nats, num_tokens: (nats / num_tokens).exp().mean()
            ),
            "each document's mean counts the same: divide the sum over all by the number of all tokens": (
                lambda nats, num_tokens: (nats / num_tokens).mean().exp()
            ),
            "that is the mean cost in nats: a perplexity is e to its power": (
                lambda nats, num_tokens: nats.sum() / num_tokens.sum()
            ),
            "nats are to the base e, not to the base 2": lambda nats, num_tokens: 2 ** (nats.sum() / num_tokens.sum()),
        },
    ),
    "bits_per_byte": Exercise(
        reference=_bits_per_byte,
        library="infmem.language.evaluation",
        cases=_documents,
        mistakes={
            "those are nats: a bit is ln 2 nats": lambda nats, num_bytes: nats.sum() / num_bytes.sum(),
            "a nat is more than a bit, so divide by ln 2 and do not multiply": (
                lambda nats, num_bytes: nats.sum() / num_bytes.sum() * math.log(2)
            ),
            "each document's mean counts the same: divide the sum over all by all bytes": (
                lambda nats, num_bytes: (nats / num_bytes).mean() / math.log(2)
            ),
        },
    ),
}
