"""From words to what a verb takes: defaults, then a recipe, then flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import tyro

from resnestkit.cli.arguments import DEFAULT_DATA, DoctorArguments, TrainArguments
from resnestkit.data.detection.layout import looks_like_detection, may_be_annotations
from resnestkit.data.segmentation.layout import looks_like_segmentation
from resnestkit.errors import UserError, nearest
from resnestkit.training.recipe import (
    RECIPES,
    BaseRecipe,
    DetectionRecipe,
    Recipe,
    SegmentationRecipe,
    load_recipe,
    recorded_data,
)

ArgumentsT = TypeVar("ArgumentsT")


def parse(
    kind: type[ArgumentsT], verb: str, arguments: Sequence[str], default: ArgumentsT | None = None
) -> ArgumentsT:
    """What the words say, as a verb's dataclass; tyro prints help and leaves by itself."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    parsed: ArgumentsT = tyro.cli(kind, prog=f"resnestkit {verb}", args=list(arguments), **options)
    return parsed


def parse_command(
    verb: str, arguments: Sequence[str], kinds: Mapping[str, type[Any]]
) -> object | None:
    """The arguments of a verb's command; None where its help was asked for, and printed."""
    words = list(arguments) or ["--help"]
    if words[0] in {"-h", "--help"}:
        lines = [f"  {name:<10} {first_line(kind)}" for name, kind in kinds.items()]
        print("\n".join([f"usage: resnestkit {verb} COMMAND ...", "", *lines]))
        return None
    if words[0] not in kinds:
        raise UserError(f"There is no command '{verb} {words[0]}'.{nearest(words[0], kinds)}")
    parsed: object = parse(kinds[words[0]], f"{verb} {words[0]}", words[1:])
    return parsed


def parse_train(arguments: Sequence[str]) -> TrainArguments[BaseRecipe]:
    """Defaults, then the recipe file, then flags: the file is read first, to become defaults."""
    name = value_of("--recipe", arguments)
    data = value_of("--data", arguments) or recorded_data(name) or DEFAULT_DATA
    settings = _default_settings(name, data, arguments)
    defaults = TrainArguments(settings, data=data)
    kind: Any = TrainArguments[type(settings)]  # type: ignore[misc]  # known when it runs
    parsed: TrainArguments[BaseRecipe] = parse(kind, "train", arguments, defaults)
    if parsed.resume is not None and replace(parsed, resume=None) != defaults:
        raise UserError("--resume goes on with a run's own settings; leave the other flags out.")
    return parsed


def parse_doctor(arguments: Sequence[str]) -> DoctorArguments[BaseRecipe]:
    """As for train; which data it is, and so which defaults, shows once the words are parsed."""
    name = value_of("--recipe", arguments)
    named = {value_of("--json", arguments), name}  # files, but no data
    words = (word for word in arguments if word not in named and _tell_task(word) != Recipe.task)
    data = recorded_data(name) or next(words, DEFAULT_DATA)
    settings = _default_settings(name, data, arguments)
    if data == DEFAULT_DATA and name is None and isinstance(settings, Recipe):
        settings = Recipe()
    kind: Any = DoctorArguments[type(settings)]  # type: ignore[misc]  # known when it runs
    defaults = DoctorArguments(settings, data=data)
    parsed: DoctorArguments[BaseRecipe] = parse(kind, "doctor", arguments, defaults)
    if name is None and parsed.data == DEFAULT_DATA and isinstance(settings, Recipe):
        defaults = replace(defaults, settings=load_recipe(DEFAULT_DATA))
        parsed = parse(kind, "doctor", arguments, defaults)
    return parsed


def _default_settings(name: str | None, data: str, arguments: Sequence[str]) -> BaseRecipe:
    """The recipe by its name, else the defaults of the task, which the data tells if nobody does.

    Raises UserError if the recipe is for another task than is asked for.
    """
    task = value_of("--task", arguments)
    if name is not None:
        settings = load_recipe(name)
        if task not in {None, settings.task}:
            raise UserError(f"The recipe {name} is for {settings.task}, not for {task}.")
        return settings
    told = task if task in RECIPES else _tell_task(data)
    if told != Recipe.task:
        return RECIPES[told]()
    return load_recipe(DEFAULT_DATA) if data == DEFAULT_DATA else Recipe()


def _tell_task(data: str) -> str:
    """What data is for, by the names of its files."""
    if looks_like_segmentation(data):
        return SegmentationRecipe.task
    boxed = looks_like_detection(data) or may_be_annotations(data)
    return DetectionRecipe.task if boxed else Recipe.task


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value given to a flag, as ``--flag value`` or ``--flag=value``; the last one counts."""
    value = None
    for position, word in enumerate(arguments):
        if word == flag and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
    return value


def first_line(documented: object) -> str:
    """The first line of a docstring, which is what help says."""
    return (documented.__doc__ or "").strip().split("\n", maxsplit=1)[0]
