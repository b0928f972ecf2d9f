"""Masks of classes drawn on pictures, and the legend that tells their colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from resnestkit.report.boxes import Colour, class_colour
from resnestkit.report.canvas import FAINT, INK, MUTED, find_font, plain

Pixels = UInt8[NDArray[np.uint8], "h w 3"]
Mask = Integer[NDArray[np.integer], "h w"]

_NOTHING = (255, 255, 255)
"""For pixels of no class."""
_FILL = 0.6
_LINE = (255, 255, 255)
_ROWS = 25
_NAME_LENGTH = 28
_LETTER, _ROW, _SWATCH, _GAP = 24, 40, 48, 16
"""In pixels of the legend, two of which are one of a page's."""


def class_colours(count: int) -> tuple[Colour, ...]:
    """Colours for classes that bring none."""
    return tuple(class_colour(index) for index in range(count))


def colour_mask(mask: Mask, colours: Sequence[Colour]) -> Pixels:
    """A mask in its classes' colours; white where there is no class."""
    table = np.array([*colours, _NOTHING], np.uint8)
    coloured: Pixels = table[np.minimum(mask, len(colours))]
    return coloured


def draw_mask(image: Pixels, mask: Mask, colours: Sequence[Colour]) -> Pixels:
    """A picture under coloured glass, with a line where classes meet.

    The picture is made grey first, so that a colour means its class wherever it lies. It is as it
    was where there is no class.

    Args:
        image: (height, width, 3), RGB.
        mask: the class of each pixel; an index beyond the colours is none.
        colours: of the classes.
    """
    grey = Image.fromarray(np.ascontiguousarray(image)).convert("L").convert("RGB")
    drawn = np.array(Image.blend(grey, Image.fromarray(colour_mask(mask, colours)), _FILL))
    drawn[_borders(mask)] = _LINE
    bare = mask >= len(colours)
    drawn[bare] = image[bare]
    return drawn


def draw_legend(
    classes: Sequence[str], colours: Sequence[Colour], shares: Sequence[float] = ()
) -> Pixels:
    """Names beside their colours, in columns, with shares of the pixels if they are given."""
    names = [plain(name, _NAME_LENGTH).replace(r"\$", "$") for name in classes]
    ends = [f"{share:.1%}" for share in shares] or [""] * len(names)
    fonts = [find_font(name, _LETTER) for name in names]
    numbers = find_font("0123456789.%", _LETTER)
    name_width = max((round(f.getlength(n)) for f, n in zip(fonts, names, strict=True)), default=0)
    end_width = max(round(numbers.getlength(end)) for end in [*ends, ""])
    width = _SWATCH + name_width + (_GAP + end_width) * bool(end_width) + 3 * _GAP
    columns = -(-len(names) // _ROWS)
    rows = -(-len(names) // max(1, columns))
    size = max(1, columns * width + _GAP), max(1, rows * _ROW + 2 * _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, font, end) in enumerate(zip(names, fonts, ends, strict=True)):
        left = _GAP + number // rows * width
        middle = _GAP + (number % rows + 0.5) * _ROW
        swatch = (left, middle - _ROW * 0.35, left + _SWATCH, middle + _ROW * 0.35)
        draw.rounded_rectangle(swatch, 5, fill=colours[number], outline=FAINT)
        draw.text((left + _SWATCH + _GAP, middle), name, INK, font, anchor="lm")
        draw.text((left + width - 2 * _GAP, middle), end, MUTED, numbers, anchor="rm")
    return np.asarray(sheet)


def _borders(mask: Mask) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another class."""
    borders = np.zeros(mask.shape, bool)
    borders[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    borders[:-1] |= mask[:-1] != mask[1:]
    return borders
