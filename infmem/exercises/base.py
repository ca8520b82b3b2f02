"""An exercise: what to write, what it must agree with, and what went wrong if it does not."""

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
    """

    reference: Callable
    cases: Callable[[torch.Generator], Sequence[tuple]]
    mistakes: dict[str, Callable] = field(default_factory=dict)
    tolerance: float = 1e-4

    def examine(self, attempt: Callable) -> Verdict:
        """Compare an attempt with the reference: does it run, are its shapes right, are its values?"""
        for arguments in self.cases(torch.Generator().manual_seed(0)):
            wanted = self.reference(*_copies(arguments))
            try:
                given = attempt(*_copies(arguments))
            except NotImplementedError:
                return Verdict(None, "not attempted yet: replace the last line by your own and run the cell again")
            except Exception as error:  # whatever a learner's code raises is told, not thrown
                message = f"it stopped with {type(error).__name__}: {error} (called with {_describe(arguments)})"
                return Verdict(False, message)
            complaint = self._complaint(given, wanted, arguments)
            if complaint:
                return Verdict(False, complaint)
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
        if isinstance(wanted, Tensor) and given.shape != wanted.shape:
            return f"the shape must be {tuple(wanted.shape)}, but is {tuple(given.shape)} {called}"
        return f"the shape is right, but the values are not {called}"


def _agree(given: Any, wanted: Any, tolerance: float) -> bool:
    try:
        given, wanted = torch.as_tensor(given).double(), torch.as_tensor(wanted).double()
    except (TypeError, ValueError, RuntimeError):
        return False
    if given.shape != wanted.shape or not bool(torch.isfinite(given).all()):
        return False
    scale = wanted.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return bool(((given - wanted).abs() <= tolerance * scale).all())


def _copies(arguments: tuple) -> tuple:
    """Arguments of their own, so that an attempt that writes into them spoils nothing."""
    return tuple(argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments)


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
