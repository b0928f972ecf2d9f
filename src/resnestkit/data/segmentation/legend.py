"""What the numbers in masks stand for. Imports without torch.

In memory a mask counts classes from 0, and `IGNORE` is what is neither learnt nor measured,
whatever the files say.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

from resnestkit.errors import UserError

IGNORE = 255
"""Of pixels without a class, in every mask in memory."""
MOST_CLASSES = 255
"""A mask holds bytes, and one of their values is `IGNORE`."""
UNKNOWN = -1
"""In `Legend.table`, of numbers that a legend does not have."""

Colour = tuple[int, int, int]
"""Red, green, blue."""

_IGNORED_WORDS = frozenset(
    {"void", "ignore", "ignored", "unlabelled", "unlabeled", "unlabel", "unknown"}
)
_GROUND = "background"
_GOLDEN = 0.618034


@dataclass(frozen=True, slots=True)
class Legend:
    """Which number in a mask file is which class."""

    classes: tuple[str, ...]
    numbers: tuple[int, ...]
    """Of each class."""
    ignored: tuple[int, ...] = ()
    """Numbers of what is neither learnt nor measured; 255 is so in any case, unless a class."""
    palette: tuple[Colour, ...] = ()
    """Of each class; none for colours of our own."""
    named: bool = True
    """Whether somebody named the classes, or they are counted."""

    @property
    def colours(self) -> tuple[Colour, ...]:
        """One for each class."""
        return self.palette or make_palette(self.classes)

    @property
    def table(self) -> list[int]:
        """For each value of a byte, its class, `IGNORE` or `UNKNOWN`."""
        found = [UNKNOWN] * 256
        for number in (IGNORE, *self.ignored):
            found[number] = IGNORE
        for place, number in enumerate(self.numbers):
            found[number] = place
        return found


def count_classes(count: int) -> Legend:
    """For masks of which nobody says more than their numbers."""
    return Legend(tuple(f"class {i}" for i in range(count)), tuple(range(count)), named=False)


def name_classes(names: Sequence[str], where: str) -> Legend:
    """A list of names, in the order of their numbers; one such as "void" is of what is ignored.

    Raises UserError for more classes than a mask can tell apart.
    """
    ignored = tuple(i for i, name in enumerate(names) if name.lower() in _IGNORED_WORDS)
    numbers = tuple(i for i in range(len(names)) if i not in ignored)
    check_count(len(numbers), where)
    if len(names) > 256:
        raise UserError(f"{where} names {len(names)} numbers, and a mask of bytes has 256.")
    return Legend(tuple(names[i] for i in numbers), numbers, ignored)


def check_count(classes: int, where: str) -> None:
    """Raise UserError for more classes than a mask can tell apart, or fewer than two."""
    if classes > MOST_CLASSES:
        raise UserError(
            f"{where} has {classes} classes; {MOST_CLASSES} are the most that can be told apart."
        )
    if classes < 2:
        found = "one class" if classes else "no class"
        raise UserError(f"{where} has {found}; a segmenter needs two, such as background and one.")


def make_palette(classes: Sequence[str]) -> tuple[Colour, ...]:
    """Colours that stand apart from their neighbours'; a background is black."""
    ground = [name.lower() == _GROUND for name in classes]
    return tuple((0, 0, 0) if dark else _colour(i) for i, dark in enumerate(ground))


def _colour(index: int) -> Colour:
    """Hues by the golden ratio; every third class is paler, every other third darker."""
    saturation, value = ((0.75, 0.9), (0.45, 0.95), (0.85, 0.6))[index % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.02 + index * _GOLDEN) % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
