"""Exercises that check themselves: `check(name, your_function)` prints one sentence and never a traceback."""

from collections.abc import Callable

from infmem.exercises import (
    attention,
    compression,
    contraction,
    cost,
    microscope,
    models,
    presets,
    signals,
    sorting,
    sticky,
)
from infmem.exercises.base import Exercise, Verdict
from infmem.validation import require

ALL: dict[str, Exercise] = {
    **signals.EXERCISES,
    **attention.EXERCISES,
    **contraction.EXERCISES,
    **sticky.EXERCISES,
    **models.EXERCISES,
    **compression.EXERCISES,
    **presets.EXERCISES,
    **sorting.EXERCISES,
    **microscope.EXERCISES,
    **cost.EXERCISES,
}


def verdict(name: str, attempt: Callable) -> Verdict:
    """What is to be said of an attempt at an exercise.

    Raises:
        ValueError: if there is no exercise of that name.
    """
    require(name in ALL, f"there is no exercise {name!r}: choose from {', '.join(ALL)}")
    return ALL[name].examine(attempt)


def check(name: str, attempt: Callable) -> None:
    """Say in one sentence whether an attempt at an exercise is right, and if not, why.

    Args:
        name: of the exercise.
        attempt: the function that was written.

    Example:
        >>> def ridge(design, penalty):
        ...     raise NotImplementedError
        >>> check("ridge", ridge)
        Exercise ridge: not attempted yet: replace the last line by your own and run the cell again.
    """
    print(f"Exercise {name}: {verdict(name, attempt).message}.")


__all__ = ["ALL", "Exercise", "Verdict", "check", "verdict"]
