"""Drawings of panoptic nets: how a training went, and segments on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from resnestkit.report.boxes import Colour
from resnestkit.report.canvas import OTHER, TRAIN, VAL, new_figure, to_png
from resnestkit.report.detection import draw_losses
from resnestkit.report.lines import Record, draw_pace, draw_panel, mark_best, read_points
from resnestkit.report.masks import Mask, Pixels, draw_mask

_SHADES = (1.0, 0.72, 1.22, 0.86, 1.1, 0.6)
"""Of a class's colour, so that neighbours of one class are told apart."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A segment of a map."""

    number: int
    label: int
    is_thing: bool


def draw_panoptic_curves(records: Sequence[Record]) -> bytes:
    """Draw how a training of a panoptic net went, as `draw_detection_curves` does.

    Args:
        records: one per epoch, with ``epoch`` and any of ``train_loss`` and its parts
            (``train_loss_...``), ``val_pq``, ``val_pq_things``, ``val_pq_stuff`` (fractions of 1),
            ``lr`` and ``images_per_second``.

    Returns:
        A PNG of four panels.
    """
    figure = new_figure(10.0, 6.2)
    losses, quality, rate, speed = figure.subplots(2, 2).flat
    draw_losses(losses, records)
    lines = [
        ("all", "val_pq", VAL),
        ("things", "val_pq_things", OTHER),
        ("stuff", "val_pq_stuff", TRAIN),
    ]
    draw_panel(quality, "Panoptic quality, %", records, lines, 100.0)
    mark_best(quality, read_points(records, "val_pq", 100.0))
    draw_pace(rate, speed, records)
    return to_png(figure)


def draw_segments(
    image: Pixels, numbers: Mask, segments: Sequence[Shape], colours: Sequence[Colour]
) -> Pixels:
    """A picture under its segments' colours, with a line where segments meet.

    Things of one class have shades of its colour. Void is as it was.

    Args:
        image: (height, width, 3), RGB.
        numbers: each pixel's segment, of any size.
        segments: what the numbers are; all others are void.
        colours: of the classes.
    """
    size = image.shape[1], image.shape[0]
    resized = Image.fromarray(numbers.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    shown, places = np.asarray(resized), np.full((size[1], size[0]), len(segments))
    shades = []
    for place, one in enumerate(segments):
        places[shown == one.number] = place
        shades.append(_shade(colours[one.label], place if one.is_thing else 0))
    return draw_mask(image, places, shades)


def _shade(colour: Colour, place: int) -> Colour:
    factor = _SHADES[place % len(_SHADES)]
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue
