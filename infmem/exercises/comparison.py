"""Comparing answers: numbers, gradients and arguments. Nothing is broadcast before it is compared."""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def numbers(value: Any) -> Tensor | None:
    """A value as a float64 tensor, or None if it is not made of real numbers."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if tensor.is_complex() else tensor.detach().double()


def agree(given: Any, wanted: Any, tolerance: float) -> bool:
    """Whether shapes are equal, and no number is further off than the tolerance times the largest wanted one.

    Example:
        >>> agree(torch.ones(3), [1.0, 1.0, 1.0], 1e-4), agree(torch.ones(1), torch.ones(3), 1e-4)
        (True, False)
    """
    given, wanted = numbers(given), numbers(wanted)
    if given is None or wanted is None or given.shape != wanted.shape or not bool(torch.isfinite(given).all()):
        return False
    return bool(_close(given, wanted, tolerance).all())


def _close(given: Tensor, wanted: Tensor, tolerance: float) -> Tensor:
    if wanted.numel() == 0:
        return torch.ones_like(wanted, dtype=torch.bool)
    scale = wanted.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return (given - wanted).abs() <= tolerance * scale


def first_difference(given: Tensor, wanted: Tensor, tolerance: float) -> str:
    """Where two tensors of one shape differ first: what was expected there, and what came.

    Example:
        >>> first_difference(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), 1e-4)
        'at [1] 2 was expected and 3 came (1 of 2 are right)'
    """
    right = _close(given, wanted, tolerance)
    if wanted.dim() == 0:
        return f"{wanted.item():.4g} was expected and {given.item():.4g} came"
    place = (~right).nonzero()[0].tolist()
    expected, came = wanted[tuple(place)].item(), given[tuple(place)].item()
    return (
        f"at {place} {expected:.4g} was expected and {came:.4g} came ({int(right.sum())} of {right.numel()} are right)"
    )


def gradients(answer: Any, arguments: tuple) -> list[Tensor | None]:
    """Of a weighted sum of the answer, by each argument; None where it does not depend on it."""
    learning = [each for each in arguments if _learns(each)]
    if not isinstance(answer, Tensor) or not answer.requires_grad or not learning:
        return [None] * len(arguments)
    weights = torch.linspace(1, 2, answer.numel(), dtype=answer.dtype).reshape(answer.shape)
    try:
        found = iter(torch.autograd.grad((weights * answer).sum(), learning, allow_unused=True, retain_graph=True))
    except RuntimeError:  # what was needed for it has been overwritten
        return [None] * len(arguments)
    by_argument = [next(found) if _learns(each) else None for each in arguments]
    return [None if each is None or not bool(each.any()) else each for each in by_argument]


def same_gradients(found: Sequence, goal: Sequence, tolerance: float) -> bool:
    return all(
        (a is None) == (b is None) and (a is None or agree(a, b, tolerance)) for a, b in zip(found, goal, strict=True)
    )


def learning(argument: Any) -> Any:
    """A tensor of real numbers as one that gradient is asked for; anything else as it is."""
    if isinstance(argument, Tensor) and argument.is_floating_point():
        return argument.detach().requires_grad_()
    return argument


def _learns(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.requires_grad


def copies(arguments: tuple) -> tuple:
    """Arguments of their own, so that an attempt that writes into them spoils nothing; gradient goes through."""
    return tuple(
        argument.clone() if isinstance(argument, Tensor) else copy.deepcopy(argument) for argument in arguments
    )


def unchanged(before: Any, after: Any) -> bool:
    """Whether a tensor, or a list or dictionary of numbers and tensors, is still what it was."""
    if isinstance(before, Tensor):
        return before.shape == after.shape and bool(torch.equal(before, after))
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(unchanged, before, after))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(unchanged(value, after[name]) for name, value in before.items())
    if isinstance(before, int | float | str):
        return before == after
    return True


def names(function: Callable, count: int) -> list[str]:
    """What a function calls its arguments, or their numbers where it does not say."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if len(parameters) == count and all(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters):
        return [each.name for each in parameters]
    return [f"argument {number}" for number in range(1, count + 1)]


def listed(words: Sequence[str]) -> str:
    """Words in a sentence.

    Example:
        >>> listed(["mu", "sigma_sq"]), listed([])
        ('mu and sigma_sq', 'none')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "none"


def reach(meant: Sequence[str], reached: Sequence[str]) -> str:
    """What gradient must reach, and what it reaches instead.

    Example:
        >>> reach(["compressed"], ["query", "compressed", "weight"])
        'gradient must reach compressed only, and it also reaches query and weight'
        >>> reach(["t", "mu"], ["t"])
        'gradient must reach t and mu, and it reaches t only (detach, .item() and torch.tensor(...) cut it off)'
    """
    more = [name for name in reached if name not in meant]
    if set(meant) <= set(reached):
        return f"gradient must reach {listed(meant)} only, and it also reaches {listed(more)}"
    only = " only" if reached and not more else ""
    cut = "(detach, .item() and torch.tensor(...) cut it off)"
    return f"gradient must reach {listed(meant)}, and it reaches {listed(reached)}{only} {cut}"


def describe(arguments: tuple, parameters: Sequence[str]) -> str:
    """The arguments in short, by name if they have one: shapes of tensors, numbers as they are.

    Example:
        >>> describe((torch.ones(2, 3), 0.5), ["query", "share"])
        'query (2, 3), share = 0.5'
        >>> describe((torch.ones(2, 3), 0.5), ["argument 1", "argument 2"])
        'a tensor of shape (2, 3), 0.5'
    """
    parts = []
    for argument, name in zip(arguments, parameters, strict=True):
        named = name.isidentifier()
        if isinstance(argument, Tensor) and argument.dim():
            shape = tuple(argument.shape)
            parts.append(f"{name} {shape}" if named else f"a tensor of shape {shape}")
            continue
        if isinstance(argument, Tensor):
            value = f"{argument.item():.4g}"
        elif isinstance(argument, int | float | str | bool | None):
            value = repr(argument)
        else:
            value = "a " + type(argument).__name__
        parts.append(f"{name} = {value}" if named else value)
    return ", ".join(parts)
