"""An exercise: what to write, what it must agree with, and what went wrong if it does not."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Verdict(NamedTuple):
    """What is said of an attempt.

    Args:
        passed: whether it does what it should; None if it was not attempted.
        message: one sentence.
    """

    passed: bool | None
    message: str


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    Args:
        reference: the library's function, which does what is asked for.
        cases: makes the arguments that both are called with; axes have different sizes, so that mix-ups show.
        mistakes: wrong functions that people write, by the sentence that helps them.
        tolerance: largest difference, relative to the largest value of the answer.

    What is wrong is told in one sentence: a planted mistake by its own, anything else by type, shape and values.
    """

    reference: Callable
    cases: Callable[[torch.Generator], Sequence[tuple]]
    mistakes: dict[str, Callable] = field(default_factory=dict)
    tolerance: float = 1e-4

    def examine(self, attempt: Callable) -> Verdict:
        """Compare an attempt with the reference: does it run, are its shapes right, are its values?"""
        for arguments in self.cases(torch.Generator().manual_seed(0)):
            wanted, lent = self.reference(*_copies(arguments)), _copies(arguments)
            try:
                given = attempt(*lent)
            except NotImplementedError:
                return Verdict(None, "not attempted yet: replace the last line by your own and run the cell again")
            except Exception as error:  # whatever a learner's code raises is told, not thrown
                said = " ".join(str(error).split())  # PyTorch's own messages may take several lines
                return Verdict(
                    False, f"it stopped with {type(error).__name__}: {said} (called with {_describe(arguments)})"
                )
            complaint = self._complaint(given, wanted, arguments)
            if complaint:
                return Verdict(False, complaint)
            if not all(map(_unchanged, arguments, lent)):
                return Verdict(False, "the answer is right, but it changes what it was given: work on a copy")
        return Verdict(True, "right")

    def _complaint(self, given: Any, wanted: Any, arguments: tuple) -> str | None:
        if given is None:
            return "it gives nothing back: end it with `return`"
        if isinstance(wanted, Tensor) and not isinstance(given, Tensor):
            return f"it must give back a tensor, but gives a {type(given).__name__}"
        if _agree(given, wanted, self.tolerance):
            return None
        for hint, wrong in self.mistakes.items():  # before the shape: a known mistake has more to say than its shape
            if _agree(given, wrong(*_copies(arguments)), self.tolerance):
                return hint
        called = f"(called with {_describe(arguments)})"
        numbers, goal = _numbers(given), _numbers(wanted)
        if numbers is None:
            return f"it must give back numbers, but gives a {type(given).__name__} {called}"
        if numbers.shape != goal.shape:
            return f"the shape must be {tuple(goal.shape)}, but is {tuple(numbers.shape)} {called}"
        if not bool(torch.isfinite(numbers).all()):
            return f"the shape is right, but there is NaN or infinity in it {called}"
        return f"the shape is right, but the values are not {called}"


def _numbers(value: Any) -> Tensor | None:
    """A value as a float64 tensor, or None if it is not made of real numbers."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if tensor.is_complex() else tensor.detach().double()


def _agree(given: Any, wanted: Any, tolerance: float) -> bool:
    given, wanted = _numbers(given), _numbers(wanted)
    if given is None or wanted is None or given.shape != wanted.shape or not bool(torch.isfinite(given).all()):
        return False
    if wanted.numel() == 0:
        return True
    scale = wanted.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return bool(((given - wanted).abs() <= tolerance * scale).all())


def _copies(arguments: tuple) -> tuple:
    """Arguments of their own, so that an attempt that writes into them spoils nothing."""
    return tuple(
        argument.clone() if isinstance(argument, Tensor) else copy.deepcopy(argument) for argument in arguments
    )


def _unchanged(before: Any, after: Any) -> bool:
    """Whether a tensor, or a list or dictionary of numbers and tensors, is still what it was."""
    if isinstance(before, Tensor):
        return before.shape == after.shape and bool(torch.equal(before, after))
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(_unchanged, before, after))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_unchanged(value, after[name]) for name, value in before.items())
    if isinstance(before, int | float | str):
        return before == after
    return True


def _describe(arguments: tuple) -> str:
    """The arguments in short: shapes of tensors, numbers as they are."""
    parts = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            parts.append(f"a tensor of shape {tuple(argument.shape)}")
        else:
            parts.append(
                repr(argument)
                if isinstance(argument, int | float | str | bool | None)
                else "a " + type(argument).__name__
            )
    return ", ".join(parts)
