"""Tasks to train and test on, each with what a training has to know of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from infmem.tasks import recall, sorting
from infmem.validation import require

TaskName = Literal["sorting", "recall"]


@dataclass(frozen=True)
class Task:
    """What a training has to know of a task.

    Args:
        vocab_size: number of tokens.
        shortest: smallest length that a sequence may have.
        sample: draws tokens and targets: `sample(batch, length, generator)`.
        first_answer: the first position that may have a target, at a given length.
    """

    vocab_size: int
    shortest: int
    sample: Callable[[int, int, torch.Generator], tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]]
    first_answer: Callable[[int], int]


TASKS: dict[TaskName, Task] = {
    "sorting": Task(sorting.VOCAB_SIZE, 1, sorting.sample, sorting.first_answer),
    "recall": Task(recall.VOCAB_SIZE, recall.SHORTEST, recall.sample, recall.first_answer),
}


def find_task(name: TaskName) -> Task:
    """A task by its name.

    Raises:
        ValueError: if there is none of that name.

    Example:
        >>> find_task("sorting").first_answer(1000)
        1000
    """
    require(name in TASKS, f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]
