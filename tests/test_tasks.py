"""The table of tasks: what it says of each is what the task does."""

from typing import get_args

import pytest
import torch

from infmem.tasks import TASKS, TaskName, find_task
from infmem.tasks.sorting import IGNORE


def test_every_name_has_a_task() -> None:
    assert set(get_args(TaskName)) == set(TASKS)
    assert all(find_task(name) is TASKS[name] for name in TASKS)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("longer", [0, 1, 2, 101])
def test_samples_are_as_the_table_says(name: TaskName, longer: int, generator) -> None:
    task = find_task(name)
    length = task.shortest + longer
    tokens, targets = task.sample(7, length, generator)
    assert tokens.shape == targets.shape and len(tokens) == 7
    assert 0 <= tokens.min() and max(tokens.max(), targets.max()) < task.vocab_size
    assert (targets[:, : task.first_answer(length)] == IGNORE).all()
    assert (targets != IGNORE).any(dim=1).all(), "every sequence asks for something"
    with pytest.raises(ValueError, match=f"length must be at least {task.shortest} "):
        task.sample(7, task.shortest - 1, torch.Generator())


def test_an_unknown_task_is_named(without_type_checker) -> None:
    with pytest.raises(ValueError, match="task must be one of sorting, recall, got 'poetry'"):
        find_task("poetry")
