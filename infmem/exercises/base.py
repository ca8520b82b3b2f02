"""An exercise: what to write, what it must agree with, and what went wrong if it does not."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from infmem.exercises.comparison import (
    agree,
    copies,
    describe,
    first_difference,
    gradients,
    learning,
    names,
    numbers,
    reach,
    same_gradients,
    unchanged,
)
from infmem.exercises.guard import TimeUp, no_exit, time_limit

SECONDS = 10.0  # that an answer may take for one set of arguments


class Verdict(NamedTuple):
    """What is said of an attempt.

    Args:
        passed: whether it does what it should; None if it was not attempted.
        message: one sentence: what was expected, what came, and the likely cause if it is known.
        stage: where it failed: "run", "type", "shape", "dtype", "value" or "gradient"; empty if it did not.
        cause: the known mistake, if it is one.
    """

    passed: bool | None
    message: str
    stage: str = ""
    cause: str | None = None


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    Args:
        reference: the library's function, which does what is asked for.
        cases: makes the arguments that both are called with; axes have different sizes, so that mix-ups show.
        mistakes: wrong functions that people write, by the sentence that helps them.
        tolerance: largest difference, relative to the largest value of the answer.
        gradients: whether the answer must let gradient through to its arguments just as the reference does.
        library: dotted name of the function or module of the library that this is, or that does the same.

    An attempt is examined in stages: does it run, and are type, shape, dtype, values and gradient right? The first that
    is not is told, with the likely cause if it is a known mistake. Shapes must be equal: nothing is broadcast.
    """

    reference: Callable
    cases: Callable[[torch.Generator], Sequence[tuple]]
    mistakes: dict[str, Callable] = field(default_factory=dict)
    tolerance: float = 1e-4
    gradients: bool = False
    library: str = ""

    def arguments(self, seed: int = 0) -> list[tuple]:
        """What an attempt is called with; if gradients matter, every tensor of real numbers is to be differentiated."""
        cases = self.cases(torch.Generator().manual_seed(seed))
        if not self.gradients:
            return list(cases)
        return [tuple(map(learning, arguments)) for arguments in cases]

    def target(self, seed: int = 0) -> Any:
        """The right answer to the first case."""
        return self.reference(*copies(self.arguments(seed)[0]))

    def examine(self, attempt: Callable, seed: int = 0, seconds: float = SECONDS) -> Verdict:
        """Compare an attempt with the reference.

        Args:
            attempt: the function that was written.
            seed: of the arguments that are drawn.
            seconds: that it may take for each set of arguments.
        """
        for arguments in self.arguments(seed):
            wanted, lent = self.reference(*copies(arguments)), copies(arguments)
            parameters = names(attempt, len(arguments))
            called = f"(called with {describe(arguments, parameters)})"
            try:
                with time_limit(seconds), no_exit(), warnings.catch_warnings(action="ignore"):
                    given = attempt(*lent)
            except NotImplementedError:
                return Verdict(None, "not attempted yet: replace the last line by your own and run the cell again")
            except TimeUp:
                return Verdict(
                    False, f"it did not end within {seconds:g} seconds: is there an endless loop? {called}", "run"
                )
            except (Exception, SystemExit) as error:  # whatever a learner's code raises is told, not thrown
                said = " ".join(str(error).split())  # PyTorch's own messages may take several lines
                return Verdict(False, f"it stopped with {type(error).__name__}: {said} {called}", "run")
            stage, complaint = self._complaint(given, wanted, arguments, parameters)
            if complaint:
                cause = self._cause(given, wanted, arguments)
                complaint = complaint.replace("{called}", called)
                return Verdict(False, f"{complaint}; likely cause: {cause}" if cause else complaint, stage, cause)
            if not all(map(unchanged, arguments, lent)):
                return Verdict(False, "the answer is right, but it changes what it was given: work on a copy", "value")
        return Verdict(True, "right")

    def _complaint(
        self, given: Any, wanted: Any, arguments: tuple, parameters: Sequence[str]
    ) -> tuple[str, str | None]:
        """The first stage that fails, and what is wrong there; `{called}` stands for what it was called with."""
        if given is None:
            return "type", "it gives nothing back: end it with `return`"
        if isinstance(wanted, Tensor) and not isinstance(given, Tensor):
            return "type", f"it must give back a tensor, but gives a {type(given).__name__}"
        found, goal = numbers(given), numbers(wanted)
        if found is None:
            return "type", f"it must give back numbers, but gives a {type(given).__name__} {{called}}"
        if found.shape != goal.shape:
            return "shape", f"the shape must be {tuple(goal.shape)}, but is {tuple(found.shape)} {{called}}"
        if isinstance(wanted, Tensor) and given.dtype != wanted.dtype and _type_matters(wanted, arguments):
            return "dtype", f"the dtype must be {wanted.dtype}, but is {given.dtype} {{called}}"
        if not bool(torch.isfinite(found).all()):
            said = "the shape is right, but there is NaN or infinity in it" if goal.dim() else "it is NaN or infinity"
            return "value", f"{said} {{called}}"
        if not agree(given, wanted, self.tolerance):
            difference = first_difference(found, goal, self.tolerance)
            said = "the shape is right, but the values are not" if goal.dim() else "the number is not right"
            return "value", f"{said}: {difference} {{called}}"
        return "gradient", self._gradient_complaint(given, wanted, arguments, parameters)

    def _gradient_complaint(self, given: Any, wanted: Any, arguments: tuple, parameters: Sequence[str]) -> str | None:
        goal, found = gradients(wanted, arguments), gradients(given, arguments)
        reached, meant = (
            [name for name, gradient in zip(parameters, each, strict=True) if gradient is not None]
            for each in (found, goal)
        )
        if reached != meant:
            return f"the value is right, but {reach(meant, reached)}"
        for name, a, b in zip(parameters, found, goal, strict=True):
            if a is not None and not agree(a, b, 10 * self.tolerance):
                difference = first_difference(a.double(), b.double(), 10 * self.tolerance)
                return f"the value is right, but the gradient of {name} is not: {difference} (is a part detached?)"
        return None

    def _cause(self, given: Any, wanted: Any, arguments: tuple) -> str | None:
        """The known mistake that gives the same answer: the same values, or the same gradients of right values."""
        right = agree(given, wanted, self.tolerance)
        found = gradients(given, arguments)
        for hint, wrong in self.mistakes.items():
            answer = wrong(*copies(arguments))
            if not agree(given, answer, self.tolerance):
                continue
            if not right or same_gradients(found, gradients(answer, arguments), self.tolerance):
                return hint
        return None


def _type_matters(wanted: Tensor, arguments: tuple) -> bool:
    """Whole numbers and booleans must be such; real numbers must have the type of the arguments, if they have it."""
    given = [each.dtype for each in arguments if isinstance(each, Tensor)]
    return not wanted.is_floating_point() or wanted.dtype in given
