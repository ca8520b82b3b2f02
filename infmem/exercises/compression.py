"""Exercises of notebook 07: a pool, what leaves in whole groups, how far back it reaches, and what a loss may train."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from infmem.compression import attention_reconstruction_loss, content_attention, max_pool, mean_pool
from infmem.exercises.base import Exercise
from infmem.memory import CompressedMemoryConfig
from infmem.models import CompressiveTransformer, CompressiveTransformerConfig


def _states(generator: torch.Generator) -> list[tuple]:
    return [(torch.randn(2, groups * rate, 3, generator=generator), rate) for groups, rate in ((5, 3), (2, 4))]


def _leaving(num_remembered: int, memory_length: int, rate: int) -> int:
    sizes = {"d_model": 2, "num_heads": 1, "num_layers": 1, "d_ff": 1, "vocab_size": 1}
    memory = CompressedMemoryConfig(length=1, rate=rate)
    model = CompressiveTransformer(CompressiveTransformerConfig(**sizes, memory_length=memory_length, memory=memory))
    return model.num_leaving(num_remembered)


def _reach(num_layers: int, memory_length: int, length: int, rate: int) -> int:
    memory = CompressedMemoryConfig(length=length, rate=rate)
    return num_layers * CompressiveTransformerConfig(memory_length=memory_length, memory=memory).reach


def _learning(generator: torch.Generator) -> list[tuple]:
    """Queries, old states, compressed states and the weights of keys and values: all of them could be trained."""
    return [
        tuple(torch.randn(rows, size, generator=generator) for rows in (*numbers, 2 * size))
        for numbers, size in [((5, 7, 3), 6), ((3, 4, 2), 4)]
    ]


def _loss(query: Tensor, old: Tensor, compressed: Tensor, weight: Tensor) -> Tensor:
    return attention_reconstruction_loss(query[None], old[None], compressed[None], weight, num_heads=1)


def _without(*detached: int, total: Callable = functional.mse_loss) -> Callable:
    """The loss with these arguments detached (0: query, 1: old, 2: compressed, 3: weight)."""

    def loss(*arguments: Tensor) -> Tensor:
        query, old, compressed, weight = (
            argument.detach() if number in detached else argument for number, argument in enumerate(arguments)
        )
        wanted, found = (
            content_attention(query[None], functional.linear(states[None], weight), 1) for states in (old, compressed)
        )
        return total(found, wanted)

    return loss


EXERCISES = {
    "pool": Exercise(
        library="infmem.compression.mean_pool",
        gradients=True,
        reference=mean_pool,
        cases=_states,
        mistakes={
            "you averaged states that lie apart: a group is `rate` states that follow one another": lambda old, rate: (
                old.unflatten(1, (rate, -1)).mean(1)
            ),
            "that is the sum: divide by the rate": lambda old, rate: rate * mean_pool(old, rate),
            "that is the largest: take the mean": max_pool,
        },
    ),
    "whole_groups": Exercise(
        library="infmem.models.CompressiveTransformer.num_leaving",
        reference=_leaving,
        cases=lambda generator: [(11, 4, 3), (12, 4, 5), (9, 7, 4), (2, 7, 3), (6, 4, 2)],
        mistakes={
            "a rest of less than a group leaves too: it has to wait": lambda num_remembered, memory_length, rate: max(
                0, num_remembered - memory_length
            ),
            "those are the groups: count the states in them": lambda num_remembered, memory_length, rate: (
                _leaving(num_remembered, memory_length, rate) // rate
            ),
            "there may be fewer than the memory holds: then none leaves, and not a negative number": (
                lambda num_remembered, memory_length, rate: (num_remembered - memory_length) // rate * rate
            ),
            "that is rounded up to whole groups: a group that is not full has to wait": (
                lambda num_remembered, memory_length, rate: (
                    (max(0, num_remembered - memory_length) + rate - 1) // rate * rate
                )
            ),
        },
    ),
    "compressive_range": Exercise(
        library="infmem.models.CompressiveTransformerConfig.reach",
        reference=_reach,
        cases=lambda generator: [(3, 64, 32, 4), (2, 5, 7, 1), (5, 0, 11, 3)],
        mistakes={
            "those are the states in memory: each compressed one was made from c": lambda layers, fine, coarse, rate: (
                layers * (fine + coarse)
            ),
            "that is one layer: each has memories of its own": lambda layers, fine, coarse, rate: _reach(
                1, fine, coarse, rate
            ),
            "only the compressed states stand for c tokens each, the short-term memory is not compressed": (
                lambda layers, fine, coarse, rate: layers * rate * (fine + coarse)
            ),
        },
    ),
    "reconstruction": Exercise(
        library="infmem.compression.attention_reconstruction_loss",
        reference=_loss,
        gradients=True,
        cases=_learning,
        mistakes={
            "it trains everything: detach all but the compressed states": _without(),
            "it also trains the keys and values: detach their weight": _without(0, 1),
            "it also trains the queries: detach them": _without(1, 3),
            "it also trains the queries and the weight: detach both": _without(1),
            "it also changes the old states: detach them": _without(0, 3),
            "nothing learns from it: the compressed states must keep their gradient": _without(0, 1, 2, 3),
            "the scores are not scaled: divide by the root of d": lambda query, old, compressed, weight: _loss(
                query * query.shape[-1] ** 0.5, old, compressed, weight
            ),
            "that is the sum of the squares: take their mean": _without(
                0, 1, 3, total=lambda found, wanted: (found - wanted).square().sum()
            ),
            "that compares the states: compare what attention reads from them": lambda query, old, compressed, weight: (
                (compressed - old[: len(compressed)].detach()).square().mean()
            ),
        },
    ),
}
