"""Bounded caches for tensors that depend on sizes alone, such as operators and masks."""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable)


def cached_tensors(maxsize: int) -> Callable[[Function], Function]:
    """Keep the results of the last `maxsize` different calls of a function whose arguments are hashable.

    The results are made as ordinary tensors even if the first call comes from `torch.inference_mode`: a tensor that is
    born there could never take part in training.

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
            with torch.inference_mode(False), torch.no_grad():
                return function(*args, **kwargs)

        return build

    return decorate
