"""Whether a value is of the type that a field declares: files and callers do not check it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a declared type; a whole number is a number too, a truth value none."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        fits = any(value == known and type(value) is type(known) for known in arguments)
    elif origin is tuple:
        fits = isinstance(value, tuple) and all(is_a(part, arguments[0]) for part in value)
    elif origin is dict:
        fits = isinstance(value, dict) and all(
            is_a(key, arguments[0]) and is_a(part, arguments[1]) for key, part in value.items()
        )
    elif arguments:
        fits = any(is_a(value, argument) for argument in arguments)
    elif kind in {int, float}:
        kinds = int if kind is int else int | float
        fits = isinstance(value, kinds) and not isinstance(value, bool)
    else:
        fits = kind is Any or isinstance(value, kind)
    return fits


def describe_type(kind: Any) -> str:
    """A declared type in words."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return "words" if get_args(kind)[0] is str else "numbers"
    if get_origin(kind) is dict:
        return "values by name"
    if get_args(kind):
        return " or ".join(describe_type(argument) for argument in get_args(kind))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    return words.get(kind, "none")


def take_fields(values: Mapping[str, Any], prefix: str, kind: type[Any]) -> dict[str, Any]:
    """The values of a record that a file holds, lists as tuples.

    Raises ValueError if a field is unknown or lacking.
    """
    names = {entry.name for entry in fields(kind)}
    for name in values:
        if name not in names:
            raise ValueError(
                f"has a field {prefix}{name} that is unknown here: it was written by a newer "
                "version of resnestkit"
            )
    for entry in fields(kind):
        lacks_default = entry.default is MISSING and entry.default_factory is MISSING
        if lacks_default and entry.name not in values:
            raise ValueError(f"is incomplete: it lacks {prefix}{entry.name}")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def check_fields(record: Any, prefix: str) -> None:
    """Raise ValueError if a field of a record is not of the type that it declares."""
    for name, kind in get_type_hints(type(record)).items():
        value = getattr(record, name)
        if not is_a(value, kind):
            raise ValueError(f"says {prefix}{name} is {value!r}; it must be {describe_type(kind)}")
