"""Exercises of notebook 07: a pool, what leaves in whole groups, how far back it reaches, and what a loss may train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from infmem.compression import attention_reconstruction_loss, content_attention, max_pool, mean_pool
from infmem.exercises.base import Exercise, _agree
from infmem.memory import CompressedMemoryConfig
from infmem.models import CompressiveTransformer, CompressiveTransformerConfig


@dataclass(frozen=True)
class GradientExercise(Exercise):
    """An exercise whose answer must also let gradient through to the right arguments, and to no other.

    Example:
        >>> x, y = (torch.ones(3, requires_grad=True) for _ in range(2))
        >>> exercise = GradientExercise(reference=lambda x, y: x @ y.detach(), cases=lambda generator: [(x, y)])
        >>> exercise.examine(lambda x, y: x.detach() @ y).message
        'the value is right, but gradient reaches the wrong arguments: number 2, not number 1'
    """

    def _complaint(self, given: Any, wanted: Any, arguments: tuple) -> str | None:
        complaint = super()._complaint(given, wanted, arguments)
        if complaint:
            return complaint
        goal, found = _gradients(wanted, arguments), _gradients(given, arguments)
        if self._alike(found, goal):
            return None
        for hint, wrong in self.mistakes.items():
            answer = wrong(*(each.clone() if isinstance(each, Tensor) else each for each in arguments))
            if _agree(answer, wanted, self.tolerance) and self._alike(found, _gradients(answer, arguments)):
                return hint
        return (
            f"the value is right, but gradient reaches the wrong arguments: {_numbered(found)}, not {_numbered(goal)}"
        )

    def _alike(self, found: Sequence, goal: Sequence) -> bool:
        return all(
            (a is None) == (b is None) and (a is None or _agree(a, b, self.tolerance))
            for a, b in zip(found, goal, strict=True)
        )


def _gradients(answer: Any, arguments: tuple) -> list[Tensor | None]:
    """Of an answer with respect to each argument; None where it does not depend on it."""
    if not isinstance(answer, Tensor) or not answer.requires_grad:
        return [None] * len(arguments)
    learning = [each for each in arguments if isinstance(each, Tensor) and each.requires_grad]
    gradients = iter(torch.autograd.grad(answer.sum(), learning, allow_unused=True, retain_graph=True))
    return [next(gradients) if isinstance(each, Tensor) and each.requires_grad else None for each in arguments]


def _numbered(gradients: Sequence) -> str:
    reached = [str(number) for number, gradient in enumerate(gradients, start=1) if gradient is not None]
    return f"number {' and '.join(reached)}" if reached else "none"


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
        tuple(torch.randn(rows, size, generator=generator, requires_grad=True) for rows in (*numbers, 2 * size))
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
        reference=mean_pool,
        cases=_states,
        mistakes={
            "those are every c-th states: a group is c that follow one another, (group rate)": lambda old, rate: (
                old.unflatten(1, (rate, -1)).mean(1)
            ),
            "that is the sum: divide by the rate": lambda old, rate: rate * mean_pool(old, rate),
            "that is the largest: take the mean": max_pool,
        },
    ),
    "whole_groups": Exercise(
        reference=_leaving,
        cases=lambda generator: [(11, 4, 3), (12, 4, 5), (9, 7, 4), (2, 7, 3), (6, 4, 2)],
        mistakes={
            "a rest of less than a group leaves too: it has to wait": lambda num_remembered, memory_length, rate: max(
                0, num_remembered - memory_length
            ),
            "those are the groups: how many hidden states are in them?": lambda num_remembered, memory_length, rate: (
                _leaving(num_remembered, memory_length, rate) // rate
            ),
            "there may be fewer than the memory holds: then none leaves, and not a negative number": (
                lambda num_remembered, memory_length, rate: (num_remembered - memory_length) // rate * rate
            ),
        },
    ),
    "compressive_range": Exercise(
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
    "reconstruction": GradientExercise(
        reference=_loss,
        cases=_learning,
        mistakes={
            "the value is right, but it trains everything: detach all but the compressed states": _without(),
            "the value is right, but it also trains the keys and values: detach their weight": _without(0, 1),
            "the value is right, but it also trains the queries: detach them": _without(1, 3),
            "the value is right, but it also changes the old states: detach them": _without(0, 3),
            "the value is right, but nothing learns from it: the compressed states must keep their gradient": _without(
                0, 1, 2, 3
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
