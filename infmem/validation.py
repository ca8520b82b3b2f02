"""Checks at the borders: shapes, dtypes and devices straight from the annotations, values on request.

The jaxtyping annotation of a public function is the only place that says what shape a tensor must have. `checked` reads
it and turns a tensor that does not fit into a `ValueError` in plain words. The check looks at sizes only, never at the
numbers, so it costs microseconds and never waits for a GPU. Numbers that an equation is not defined for, such as a
variance of 0, are refused on the CPU (`require_values`); NaN comes out where NaN came in, and nowhere else.
"""

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless `condition` holds.

    Example:
        >>> require(2 > 1, "two must be larger than one")
    """
    if not condition:
        raise ValueError(message)


def require_finite(name: str, value: Tensor) -> None:
    """Raise `ValueError` if a tensor holds NaN or infinity. Reads the values, so on a GPU it waits for them.

    While a CUDA graph is recorded nothing can be read, and nothing is checked: the calls before the recording were.
    """
    if value.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    if not bool(torch.isfinite(value).all()):
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(
            f"{name} must be finite, got {bad} of {value.numel()} values that are NaN or infinite: "
            "look for a division by zero, a logarithm of zero or a learning rate that is too high"
        )


def require_values(name: str, value: Tensor, fits: Callable[[Tensor], Tensor], what: str) -> None:
    """Raise `ValueError` unless all values of a tensor fit; NaN passes, and comes out as NaN.

    Looked at on the CPU alone, where that costs microseconds: a GPU would be waited for.

    Args:
        name: of the tensor.
        value: the tensor.
        fits: says of each value whether it fits.
        what: the values must be.

    Example:
        >>> require_values("variance", torch.tensor([1.0, 0.0]), lambda value: value > 0, "> 0")
        Traceback (most recent call last):
        ValueError: variance must be > 0, got 0.0
    """
    if value.device.type != "cpu" or torch.compiler.is_compiling():
        return
    fitting = fits(value.detach())
    try:
        if bool(fitting.all()):
            return
    except RuntimeError:  # under `torch.vmap` there is no value that a decision could depend on
        return
    wrong = ~(fitting | value.detach().isnan())
    is_wrong = bool(wrong.any())
    require(not is_wrong, f"{name} must be {what}, got {value[wrong][0].item() if is_wrong else ''}")


def require_positive(name: str, value: Tensor) -> None:
    """Raise `ValueError` if a value of a tensor is 0 or less, as `require_values`."""
    require_values(name, value, lambda each: each > 0, "> 0")


def check_fields(config: Any) -> None:
    """Check every field of a dataclass that is a number, a truth value or a choice against its annotation.

    Raises:
        ValueError: naming the field, what it must be, and what came.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Sizes:
        ...     depth: int
        >>> check_fields(Sizes(depth=1.5))
        Traceback (most recent call last):
        ValueError: depth must be a whole number, got 1.5
    """
    for field in dataclasses.fields(config):
        name, value, hint = field.name, getattr(config, field.name), field.type
        if get_origin(hint) is Literal:
            require(value in get_args(hint), f"{name} must be one of {', '.join(get_args(hint))}, got {value!r}")
        elif hint is bool:
            require(isinstance(value, bool), f"{name} must be True or False, got {value!r}")
        elif hint is int:
            require(type(value) is int, f"{name} must be a whole number, got {value!r}")
            require(
                abs(value) < 2**63, f"{name} must be a number of sensible size, got one of {value.bit_length()} bits"
            )
        elif hint is float or (hint == float | None and value is not None):
            is_finite = type(value) in (int, float) and math.isfinite(value)
            require(is_finite, f"{name} must be a finite number, got {value!r}")


def require_at_most(config: Any, **most: int) -> None:
    """Raise `ValueError` if a size is so large that it can only be a mistake, before anything takes that much memory.

    Args:
        config: has the sizes.
        most: the largest of each, by name.

    Example:
        >>> from types import SimpleNamespace
        >>> require_at_most(SimpleNamespace(depth=10**9), depth=1000)
        Traceback (most recent call last):
        ValueError: depth must be at most 1,000, got 1,000,000,000: so large a size can only be a mistake
    """
    for name, largest in most.items():
        value = getattr(config, name)
        require(
            value <= largest,
            f"{name} must be at most {largest:,}, got {value:,}: so large a size can only be a mistake",
        )


class _TensorRule:
    """What one annotation such as `Float[Tensor, "batch pos d_model"]` asks of an argument."""

    def __init__(self, name: str, annotation: Any):
        self.name = name
        self.axes = annotation.dim_str.split()
        self.text = annotation.dim_str.strip()
        self.dtypes = set(annotation.dtypes)
        self.kind = annotation.__name__.split("[")[0].lower()
        self.variadic = [axis.startswith("*") for axis in self.axes].index(True) if "*" in self.text else None

    def named_sizes(self, shape: tuple[int, ...]) -> list[tuple[str, int | tuple[int, ...]]] | None:
        """Pair axis names with sizes; None if the number of axes does not fit."""
        if self.variadic is None:
            return list(zip(self.axes, shape, strict=True)) if len(shape) == len(self.axes) else None
        after = len(self.axes) - self.variadic - 1
        if len(shape) < len(self.axes) - 1:
            return None
        middle = shape[self.variadic : len(shape) - after]
        sizes = [*shape[: self.variadic], middle, *shape[len(shape) - after :]]
        return list(zip(self.axes, sizes, strict=True))

    def check(self, where: str, value: Any, sizes: dict[str, Any]) -> None:
        if not isinstance(value, Tensor):
            raise ValueError(f"{where}: {self.name} must be a tensor, got {type(value).__name__}")
        if str(value.dtype).removeprefix("torch.") not in self.dtypes:
            raise ValueError(
                f"{where}: {self.name} must be a tensor of type {self.kind}, got {value.dtype}: convert it"
            )
        named = self.named_sizes(tuple(value.shape))
        if named is None:
            raise ValueError(
                f'{where}: {self.name} must have the axes "{self.text}", '
                f"got {value.ndim} axes of sizes {tuple(value.shape)}"
            )
        for axis, size in named:
            expected = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            if size != expected:
                raise ValueError(
                    f'{where}: {self.name} must have the axes "{self.text}" with {axis} = {expected}, '
                    f"got {axis} = {size} in sizes {tuple(value.shape)}"
                )


def _tensor_annotation(annotation: Any) -> Any | None:
    """The jaxtyping part of an annotation, also inside `... | None`; None if there is none."""
    candidates = get_args(annotation) or (annotation,)
    found = [candidate for candidate in candidates if hasattr(candidate, "dim_str") and hasattr(candidate, "dtypes")]
    return found[0] if found else None


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the tensor arguments of a function against their jaxtyping annotations on every call.

    Axes of the same name must have the same size in all arguments, all tensors must share a device, and in a method an
    axis that is also an integer attribute of `self` (such as `d_model`) must have that value.

    Raises:
        ValueError: naming the function, the argument, what was expected and what came.

    Example:
        >>> from jaxtyping import Float
        >>> @checked
        ... def total(x: Float[Tensor, "pos d_model"], weight: Float[Tensor, " pos"]) -> Tensor:
        ...     return weight @ x
        >>> total(torch.ones(3, 5), torch.ones(3)).shape
        torch.Size([5])
        >>> total(torch.ones(3, 5), torch.ones(2))
        Traceback (most recent call last):
        ValueError: total: weight must have the axes "pos" with pos = 3, got pos = 2 in sizes (2,)
    """
    signature = inspect.signature(function)
    rules, is_method = [], "self" in signature.parameters
    for index, (name, parameter) in enumerate(signature.parameters.items()):
        annotation = _tensor_annotation(parameter.annotation)
        if annotation is not None:
            others = tuple({type(None), float} & set(get_args(parameter.annotation)))
            others += (int,) if float in others else ()
            rules.append((index, name, None, _TensorRule(name, annotation), others))
        if not is_method and hasattr(parameter.annotation, "_fields"):  # a method knows its own state
            for field, hint in get_type_hints(parameter.annotation).items():
                rules.append((index, name, field, _TensorRule(f"{name}.{field}", _tensor_annotation(hint)), ()))
    own_axes = sorted({axis for *_, rule, _ in rules for axis in rule.axes if axis.isidentifier()})
    where, missing = function.__qualname__, object()

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():  # what is compiled is called by functions that are checked
            return function(*args, **kwargs)
        sizes: dict[str, Any] = {}
        if is_method:
            sizes = {axis: value for axis in own_axes if isinstance(value := getattr(args[0], axis, None), int)}
        device = None
        types: dict[str, torch.dtype] = {}
        for index, name, field, rule, others in rules:
            value = args[index] if index < len(args) else kwargs.get(name, missing)
            if value is missing or isinstance(value, others):
                continue
            value = value if field is None else getattr(value, field, None)
            rule.check(where, value, sizes)
            types[rule.name] = value.dtype
            if device is None:
                device = value.device
            elif value.device != device:
                raise ValueError(
                    f"{where}: all tensors must be on one device, got {rule.name} on {value.device} and the "
                    f"ones before it on {device}: move it with `.to({str(device)!r})`"
                )
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            # Mixed types are refused where PyTorch refuses them: many a function, and mixed precision, converts.
            if not _MIXED_TYPES.search(str(error)):
                raise
            raise ValueError(
                f"{where}: all tensors, and a module's weights, must be of one type, got "
                f"{', '.join(f'{name} in {dtype}' for name, dtype in types.items())}: convert them with `.to(dtype)`"
            ) from error

    return wrapper


# What PyTorch says of operands of different types.
_MIXED_TYPES = re.compile(r"expected scalar type|same dtype|should be the same")
