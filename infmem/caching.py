"""Bounded caches for tensors that depend on sizes alone, such as operators and masks."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable)

_holders: list[list[Any]] = []


@contextmanager
def held_tensors() -> Iterator[list[Any]]:
    """Collect every result that a cache gives meanwhile: it lives as long as the list does, also if its cache drops it.

    Example:
        >>> @cached_tensors(maxsize=1)
        ... def ones(length: int) -> torch.Tensor:
        ...     return torch.ones(length)
        >>> with held_tensors() as held:
        ...     _ = ones(2), ones(3)
        >>> held
        [tensor([1., 1.]), tensor([1., 1., 1.])]
    """
    held: list[Any] = []
    _holders.append(held)
    try:
        yield held
    finally:
        _holders.remove(held)


def _full_precision() -> torch.autocast:
    """No mixed precision, on whatever device it may be on here."""
    return torch.autocast("cuda" if torch.is_autocast_enabled("cuda") else "cpu", enabled=False)


def cached_tensors(maxsize: int) -> Callable[[Function], Function]:
    """Keep the results of the last `maxsize` different calls of a function whose arguments are hashable.

    The results are made as ordinary tensors even if the first call comes from `torch.inference_mode`: a tensor that is
    born there could never take part in training. They are made in the precision that their arguments ask for even if
    the first call comes from mixed precision: else they would depend on who asked first.

    Args:
        maxsize: how many results to keep.

    Example:
        >>> @cached_tensors(maxsize=2)
        ... def ones(length: int) -> torch.Tensor:
        ...     return torch.ones(length)
        >>> ones(3) is ones(3)
        True
    """

    def decorate(function: Function) -> Function:
        @functools.lru_cache(maxsize)
        @functools.wraps(function)
        def build(*args, **kwargs):
            with torch.inference_mode(False), torch.no_grad(), _full_precision():
                return function(*args, **kwargs)

        @functools.wraps(function)
        def remembered(*args, **kwargs):
            if torch.compiler.is_compiling():  # what is built becomes a part of what is compiled
                with _full_precision():
                    return function(*args, **kwargs)
            result = build(*args, **kwargs)
            for held in _holders:
                held.append(result)
            return result

        remembered.cache_info = build.cache_info
        return remembered

    return decorate
