"""Configurations as plain data: frozen dataclasses to dictionaries and back, strictly.

A file that lacks a field, has one too many or holds the wrong type is refused with a sentence, so that a model is never
built from half of a configuration.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from infmem.validation import require

Config = TypeVar("Config")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as a dictionary that JSON can hold; nested ones name their class.

    Example:
        >>> from infmem import MemoryConfig
        >>> to_dict(MemoryConfig.best(num_basis=4))["sigmas"]
        [0.16666666666666666]
    """
    entries = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = {"class": type(value).__name__} | to_dict(value)
        entries[field.name] = list(value) if isinstance(value, tuple) else value
    return entries


def from_dict(kind: type[Config], entries: Any) -> Config:
    """A configuration from a dictionary, with every field checked.

    Args:
        kind: the dataclass to make.
        entries: its fields; all of them, and nothing else.

    Raises:
        ValueError: naming what is missing, unknown or of the wrong type.

    Example:
        >>> from infmem import TransformerXLConfig
        >>> from_dict(TransformerXLConfig, to_dict(TransformerXLConfig(d_model=12))).d_model
        12
    """
    where = kind.__name__
    require(isinstance(entries, Mapping), f"{where} must be an object with named fields, got {type(entries).__name__}")
    hints = get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    unknown, missing = sorted(set(entries) - names - {"class"}), sorted(names - set(entries))
    require(not unknown, f"{where} has no field {', '.join(unknown)}: it was written by another version of infmem")
    require(not missing, f"{where} lacks {', '.join(missing)}: it was written by another version of infmem, or by hand")
    return kind(**{name: _value(f"{where}.{name}", hints[name], entries[name]) for name in names})


def parse_options(kind: type, options: Sequence[str]) -> dict[str, Any]:
    """Fields of a configuration as somebody types them: `name=value`, the value in JSON or a bare word.

    Args:
        kind: the dataclass that has these fields.
        options: what was typed.

    Raises:
        ValueError: naming what is not a field, or not a value of its type.

    Example:
        >>> from infmem import MemoryConfig
        >>> parse_options(MemoryConfig, ["schedule=fixed", "sigmas=[0.02]", "gate=true"])
        {'schedule': 'fixed', 'sigmas': (0.02,), 'gate': True}
    """
    hints, changes = get_type_hints(kind), {}
    for option in options:
        name, equals, typed = option.partition("=")
        require(bool(equals), f"an option of {kind.__name__} must read name=value, got {option!r}")
        names = [field.name for field in dataclasses.fields(kind)]
        require(name in names, f"{kind.__name__} has no field {name}: choose from {', '.join(names)}")
        try:
            value = json.loads(typed)
        except ValueError:
            value = typed
        changes[name] = _value(f"{kind.__name__}.{name}", hints[name], value)
    return changes


def _value(where: str, hint: Any, value: Any) -> Any:
    """One field's value, checked against its annotation."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        require(value in options, f"{where} must be one of {', '.join(map(str, options))}, got {value!r}")
        return value
    if NoneType in options:
        (other,) = (option for option in options if option is not NoneType)
        return None if value is None else _value(where, other, value)
    if origin in (Union, UnionType):
        named = {option.__name__: option for option in options}
        require(
            isinstance(value, Mapping) and isinstance(value.get("class"), str) and value["class"] in named,
            f"{where} must be an object whose class is one of {', '.join(named)}",
        )
        return from_dict(named[value["class"]], value)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value)
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{where} must be a list, got {value!r}")
        return tuple(_value(where, options[0], entry) for entry in value)
    if hint is float and type(value) is int:
        require(abs(value) < 2**63, f"{where} must be a number of sensible size, got one of {len(str(value))} digits")
        return float(value)
    require(type(value) is hint, f"{where} must be of type {hint.__name__}, got {value!r}")
    return value
