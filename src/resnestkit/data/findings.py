"""What is found in data before a training: each finding one sentence, with its remedy."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resnestkit.errors import UserError

Severity = Literal["wrong", "slow", "note"]

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know before a training starts."""

    severity: Severity
    text: str
    remedy: str = ""
    refused: bool = False
    """A training would not start."""

    def __str__(self) -> str:
        return f"{self.text} {self.remedy}".strip()


def refuse(findings: Iterable[Finding]) -> None:
    """Raise UserError, with every sentence, if anything found cannot be trained on."""
    said = [str(finding) for finding in findings if finding.refused]
    if said:
        raise UserError(" ".join(said))


def find_missing_files(paths: Sequence[Path]) -> Iterator[Finding]:
    """Images that are listed and are not there."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        text = f"{len(missing)} of {len(paths)} images cannot be found: {say_some(missing)}."
        yield Finding("wrong", text, "Put them back, or take them out of the file.")


def find_repeated_images(names: Iterable[str]) -> Iterator[Finding]:
    """Images that are in two splits; ``names`` are those of all splits, one after the other."""
    places = Counter(os.path.abspath(name) for name in names)  # noqa: PTH100  (asks no disk)
    twice = [path for path, count in places.items() if count > 1]
    if twice:
        yield Finding(
            "wrong",
            f"{say_count(twice, 'image')} listed in two splits, or twice in one: "
            f"{say_some(twice)}.",
            "What is measured on images of the training was learnt by heart.",
        )


def find_lone_classes(
    classes: Sequence[str], seen: Mapping[str, Collection[int]]
) -> Iterator[Finding]:
    """Classes that cannot be learnt or measured, told from the places of those each split shows."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for place, name in enumerate(classes):
        having = tuple(split for split, places in seen.items() if place in places)
        groups.setdefault(having, []).append(repr(name))
    for having, names in groups.items():
        yield from _find_alone(names, having, list(seen))


def _find_alone(
    names: Sequence[str], having: Sequence[str], splits: Sequence[str]
) -> Iterator[Finding]:
    many = len(names) > 1
    which = f"class{'es' if many else ''} {say_some(names)}"
    them, cannot = ("They", "are") if many else ("It", "is")
    if not having:
        yield Finding("wrong", f"No image shows the {which}.", f"{them} cannot be learnt.")
    elif "train" in splits and "train" not in having:
        text = f"The {which} {cannot} seen in {' and '.join(having)} alone, never in training."
        lower = "lower" if many else "lowers"
        yield Finding("wrong", text, f"{them} cannot be learnt, and {lower} every mean.")
    elif list(having) == ["train"] and len(splits) > 1:
        text = f"The {which} {cannot} seen in training alone."
        found = "they are" if many else "it is"
        yield Finding("wrong", text, f"How well {found} found cannot be measured.")


def say_count(things: Any, one: str, many: str = "") -> str:
    """How many there are of what: "1 box", "3 boxes"."""
    return f"{len(things):,} {one if len(things) == 1 else many or one + 's'}"


def say_some(things: Sequence[Any]) -> str:
    """The first three, and how many more there are."""
    more = f" and {len(things) - _NAMED} more" if len(things) > _NAMED else ""
    return ", ".join(str(thing) for thing in things[:_NAMED]) + more
