"""Exercises that check themselves: `check.ridge(your_function)`, or in one printed sentence `check("ridge", yours)`."""

import inspect
import pydoc
from collections.abc import Callable
from functools import partial

from IPython import get_ipython
from IPython.display import Markdown, display

from infmem.exercises import (
    attention,
    compression,
    contraction,
    cost,
    language,
    microscope,
    models,
    presets,
    signals,
    sorting,
    sticky,
)
from infmem.exercises.base import Exercise, Verdict
from infmem.exercises.guard import set_up
from infmem.teaching import show_source
from infmem.validation import require

GRADING_SEED = 1  # grading draws other numbers than those that a learner saw
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
    **language.EXERCISES,
}


class WrongAnswer(AssertionError):
    """An answer that is not right; in a notebook it is shown as its sentence alone."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback through this package."""
        return [f"{type(self).__name__}: {self}"]


def verdict(name: str, attempt: Callable, seed: int = 0) -> Verdict:
    """What is to be said of an attempt at an exercise.

    Raises:
        ValueError: if there is no exercise of that name.
    """
    return _exercise(name).examine(attempt, seed)


def solution(name: str) -> Markdown:
    """The right answer to an exercise: the library's own function, or one that does the same.

    Example:
        >>> print(solution("divergence").data.splitlines()[0])
        In the library: `infmem.attention.kl_regularizer`.
    """
    exercise = _exercise(name)
    parts = [f"In the library: `{exercise.library}`.", show_source(exercise.reference).data]
    own = pydoc.locate(exercise.library)
    if inspect.isfunction(own) and own is not exercise.reference:
        parts.insert(1, show_source(own).data)
        parts.insert(2, "For this exercise:")
    return Markdown("\n\n".join(parts))


class Check:
    """Say whether an answer is right, and if it is not, where and why.

    `check.NAME(function)` raises `WrongAnswer` if it is wrong. If it was not attempted, that is no error: the target is
    drawn. With `graded=True` other numbers are drawn, and an answer that was not attempted is wrong too.
    `check(NAME, function)` prints one sentence in every case, as the notebooks of the course do.

    Example:
        >>> def ridge(design, penalty):
        ...     raise NotImplementedError
        >>> check("ridge", ridge)
        Exercise ridge: not attempted yet: replace the last line by your own and run the cell again.
        >>> check.ridge(ridge)
        Exercise ridge: not attempted yet: replace the last line by your own and run the cell again.
        >>> check.ridge(lambda design, penalty: design)
        Traceback (most recent call last):
        infmem.exercises.WrongAnswer: Exercise ridge: the shape ...
    """

    def __call__(self, name: str, attempt: Callable) -> None:
        print(f"Exercise {name}: {verdict(name, attempt).message}.")

    def __getattr__(self, name: str) -> Callable:
        if name not in ALL:
            raise AttributeError(f"there is no exercise {name!r}: choose from {', '.join(ALL)}")
        return partial(self._insist, name)

    def __dir__(self) -> list[str]:
        return sorted(ALL)

    def _insist(self, name: str, attempt: Callable, *, graded: bool = False) -> None:
        passed, message, *_ = verdict(name, attempt, GRADING_SEED if graded else 0)
        sentence = f"Exercise {name}: {message}."
        if passed is False or (graded and not passed):
            raise WrongAnswer(sentence)
        print(sentence)
        if passed is None and get_ipython() is not None:
            from infmem.plots.exercises import draw_target

            display(draw_target(ALL[name].target()))


check = Check()


def _exercise(name: str) -> Exercise:
    require(name in ALL, f"there is no exercise {name!r}: choose from {', '.join(ALL)}")
    return ALL[name]


__all__ = ["ALL", "Exercise", "Verdict", "WrongAnswer", "check", "set_up", "solution", "verdict"]
