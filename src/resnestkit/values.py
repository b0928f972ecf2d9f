"""Whether a value is of the type that a field declares: files and callers do not check it."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin


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
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return "words" if get_args(kind)[0] is str else "numbers"
    if get_origin(kind) is dict:
        return "values by name"
    if get_args(kind):
        return " or ".join(describe_type(argument) for argument in get_args(kind))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    return words.get(kind, "none")
