"""Boxes, masks and names drawn on a picture, so that a person can read them at any size.

Colours are of classes. Names keep out of each other's way: what finds no place is left out, and
its box's colour speaks for it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from resnestkit.report.canvas import find_font, plain
from resnestkit.report.figures import TINY_IMAGE

Pixels = UInt8[NDArray[np.uint8], "h w 3"]
Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom."""

SMALL = 800
"""A picture whose longer side has fewer pixels is enlarged to about so many."""
_GOLDEN_ANGLE = 137.508
_FILL = 0.42
_LETTERS, _LETTERS_ON_A_PAGE = 0.024, 0.031
"""Of the picture's shorter side; a page shows its pictures at half their size."""
_NAME_LENGTH = 24
_MOST_HIDDEN = 0.12
"""Share of a name that others may cover."""


@dataclass(frozen=True, slots=True)
class _Pen:
    """Sizes in pixels that suit a picture."""

    line: int
    font: int

    @classmethod
    def of(cls, width: int, height: int, share: float) -> _Pen:
        """For letters of a share of the picture's shorter side."""
        font = max(14, round(share * min(width, height)))
        return cls(max(3, round(font / 7)), font)


def draw_detections(
    image: Pixels,
    boxes: Sequence[Rectangle],
    labels: Sequence[int],
    scores: Sequence[float] = (),
    masks: Sequence[Bool[NDArray[np.bool_], "h w"]] | None = None,
    classes: Sequence[str] = (),
    *,
    dashed: Sequence[bool] = (),
    within: tuple[int, int] | None = None,
) -> Pixels:
    """Draw objects on a picture.

    Args:
        image: (height, width, 3), RGB.
        boxes: in the image's pixels.
        labels: 1 is the first class.
        scores: of detections, 0 to 1; none for true objects.
        masks: one for each box, or None.
        classes: their names.
        dashed: which boxes to draw with a dashed line, as what is not right.
        within: width and height that the drawing must fit, tightly; None leaves a large picture
            as it is and enlarges a small one.

    Returns:
        The drawing, in general of another size than the image.
    """
    sheet, scale = _enlarge(image, within)
    pen = _Pen.of(*sheet.size, _LETTERS if within is None else _LETTERS_ON_A_PAGE)
    placed = [tuple(float(side) * scale for side in box) for box in boxes]
    colours = [class_colour(label - 1) for label in labels]
    if masks is not None:
        sheet = _fill(sheet, masks, _vary(labels, colours), pen)
    # Large boxes first, that small ones stay whole.
    order = sorted(range(len(placed)), key=lambda i: -_area(placed[i]))
    draw = ImageDraw.Draw(sheet)
    for i in order:
        faint = masks is not None
        _outline(draw, placed[i], colours[i], pen, dashed=bool(dashed) and dashed[i], thin=faint)
    names = [_name(label, classes) for label in labels]
    if len(scores):
        names = [f"{name} {score:.0%}" for name, score in zip(names, scores, strict=True)]
    _write_names(draw, [(placed[i], names[i], colours[i]) for i in reversed(order)], pen)
    return np.asarray(sheet)


@functools.cache
def class_colour(index: int) -> Colour:
    """A colour for a class, far from its neighbours: hues by the golden angle, in OKLCH."""
    hue = math.radians(28 + _GOLDEN_ANGLE * index)
    lightness = (0.66, 0.74, 0.58)[index % 3]
    a, b = 0.19 * math.cos(hue), 0.19 * math.sin(hue)
    # Björn Ottosson, "A perceptual color space for image processing", 2020.
    l_, m_, s_ = (
        (lightness + x * a + y * b) ** 3
        for x, y in (
            (0.3963377774, 0.2158037573),
            (-0.1055613458, -0.0638541728),
            (-0.0894841775, -1.2914855480),
        )
    )
    linear = (
        4.0767416621 * l_ - 3.3077115913 * m_ + 0.2309699292 * s_,
        -1.2684380046 * l_ + 2.6097574011 * m_ - 0.3413193965 * s_,
        -0.0041960863 * l_ - 0.7034186147 * m_ + 1.7076147010 * s_,
    )
    red, green, blue = (_to_srgb(value) for value in linear)
    return red, green, blue


def crop_around(
    image: Pixels, box: Rectangle, label: int, *, context: float = 0.8, least: int = 48
) -> Pixels:
    """The surroundings of one box, as square as the picture allows, with the box drawn."""
    height, width = image.shape[:2]
    left, top, right, bottom = box
    side = max(least, (1 + context) * max(right - left, bottom - top))
    spans = []
    for centre, whole in (((left + right) / 2, width), ((top + bottom) / 2, height)):
        reach = min(side, whole)
        first = min(max(0.0, centre - reach / 2), whole - reach)
        spans.append((int(first), max(int(first) + 1, math.ceil(first + reach))))
    (x0, x1), (y0, y1) = spans
    moved = (left - x0, top - y0, right - x0, bottom - y0)
    sheet, scale = _enlarge(image[y0:y1, x0:x1], (288, 288))
    _outline(
        ImageDraw.Draw(sheet),
        tuple(value * scale for value in moved),
        class_colour(label - 1),
        _Pen(3, 13),
    )
    return np.asarray(sheet)


def _enlarge(image: Pixels, within: tuple[int, int] | None) -> tuple[Image.Image, float]:
    height, width = image.shape[:2]
    longest = max(height, width)
    if within is not None:
        scale = min(within[0] / width, within[1] / height)
    else:
        scale = SMALL / longest if longest < SMALL else 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tiny = longest <= TINY_IMAGE
    method = Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS
    return Image.fromarray(np.ascontiguousarray(image)).resize(size, method), scale


def _vary(labels: Sequence[int], colours: Sequence[Colour]) -> list[Colour]:
    """Lighter and darker forms of a colour, so that neighbours of one class can be told apart."""
    seen: dict[int, int] = {}
    varied = []
    for label, colour in zip(labels, colours, strict=True):
        turn = seen[label] = seen.get(label, -1) + 1
        goal, share = ((255, 0.0), (255, 0.35), (0, 0.25))[turn % 3]
        red, green, blue = (round(part + (goal - part) * share) for part in colour)
        varied.append((red, green, blue))
    return varied


def _fill(
    sheet: Image.Image,
    masks: Sequence[NDArray[np.bool_]],
    colours: Sequence[Colour],
    pen: _Pen,
) -> Image.Image:
    """Masks as coloured glass with a firm edge, the largest below."""
    pixels = np.asarray(sheet).astype(np.float32)
    order = sorted(range(len(masks)), key=lambda i: -int(np.count_nonzero(masks[i])))
    for i in order:
        grey = Image.fromarray(np.asarray(masks[i]).astype(np.uint8) * 255)
        mask = np.asarray(grey.resize(sheet.size, Image.Resampling.BILINEAR)) >= 128
        colour = np.array(colours[i], np.float32)
        pixels[mask] += _FILL * (colour - pixels[mask])
        pixels[mask & ~_shrink(mask, pen.line)] = colour
    return Image.fromarray(pixels.round().astype(np.uint8))


def _shrink(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    for _ in range(by):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _outline(
    draw: ImageDraw.ImageDraw,
    box: tuple[float, ...],
    colour: Colour,
    pen: _Pen,
    *,
    dashed: bool = False,
    thin: bool = False,
) -> None:
    """A line in the class's colour with a white one around it, to be seen on any ground."""
    line = max(1, pen.line // 2) if thin and not dashed else pen.line
    left, top, right, bottom = (round(side) for side in box)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    halo = (left - 1, top - 1, right + 1, bottom + 1)
    if not thin and not dashed:
        draw.rectangle(halo, outline=(255, 255, 255), width=line + 2)
    if not dashed:
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        return
    draw.rectangle((left, top, right, bottom), outline=(255, 255, 255), width=line)
    inner = line / 2 - 0.5  # a line's middle, where a rectangle's is its outer edge
    left_, top_, right_, bottom_ = left + inner, top + inner, right - inner, bottom - inner
    corners = [(left_, top_), (right_, top_), (right_, bottom_), (left_, bottom_), (left_, top_)]
    for start, end in pairwise(corners):
        _dash(draw, start, end, colour, line, 4 * pen.line)


def _dash(
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: Colour,
    line: int,
    length: int,
) -> None:
    whole = math.dist(start, end)
    for begin in range(0, math.ceil(whole), 2 * length):
        stop = min(begin + length, whole)
        points = [
            tuple(a + (b - a) * at / max(whole, 1e-9) for a, b in zip(start, end, strict=True))
            for at in (begin, stop)
        ]
        draw.line([(x, y) for x, y in points], fill=colour, width=line)


def _write_names(
    draw: ImageDraw.ImageDraw, tags: Sequence[tuple[tuple[float, ...], str, Colour]], pen: _Pen
) -> None:
    """Each name at a corner of its box, where it is inside the picture and hides no other."""
    taken: list[Rectangle] = []
    width, height = draw.im.size
    for box, name, colour in tags:
        font = find_font(name, pen.font)
        start = draw.textbbox((0, 0), name, font=font)
        size = start[2] - start[0] + pen.font * 0.7, pen.font * 1.4
        spots = [
            (x, y)
            for x, y in _spots(box, size)
            if 0 <= x <= width - size[0] and 0 <= y <= height - size[1]
        ]
        if not spots:
            continue
        places = [(x, y, x + size[0], y + size[1]) for x, y in spots]
        place = min(places, key=lambda spot: _hidden(spot, taken))
        if _hidden(place, taken) > _MOST_HIDDEN:
            continue
        taken.append(place)
        draw.rounded_rectangle(place, radius=pen.font * 0.3, fill=colour)
        middle = (place[0] + size[0] / 2, place[1] + size[1] / 2)
        draw.text(middle, name, fill=_ink_on(colour), font=font, anchor="mm")


def _spots(box: tuple[float, ...], size: tuple[float, float]) -> list[tuple[float, float]]:
    """Where the name of a box may lie, the best place first: above, inside, below; left, right."""
    left, top, right, bottom = box
    wide, high = size
    inside = [(left, top), (right - wide, bottom - high), (left, bottom - high)]
    above, below = [(left, top - high), (right - wide, top - high)], [(left, bottom)]
    return [*above, inside[0], *below, *inside[1:], (right - wide, bottom), (right, top)]


def _hidden(place: Rectangle, taken: Sequence[Rectangle]) -> float:
    """Share of a place that is taken."""
    shared = 0.0
    for other in taken:
        across = min(place[2], other[2]) - max(place[0], other[0])
        down = min(place[3], other[3]) - max(place[1], other[1])
        shared += max(0.0, across) * max(0.0, down)
    return shared / _area(place)


def _area(box: tuple[float, ...]) -> float:
    return max(1e-9, (box[2] - box[0]) * (box[3] - box[1]))


def _name(label: int, classes: Sequence[str]) -> str:
    name = classes[label - 1] if label <= len(classes) else str(label)
    return plain(name, _NAME_LENGTH).replace(r"\$", "$")


def _ink_on(colour: Colour) -> Colour:
    """White or black, whichever is easier to read."""
    red, green, blue = colour
    return (255, 255, 255) if 0.299 * red + 0.587 * green + 0.114 * blue < 150 else (17, 24, 39)


def _to_srgb(linear: float) -> int:
    value = min(1.0, max(0.0, linear))
    curved = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(255 * curved)
