"""Drawings of segmenters: how a training went, IoU per class, masks in colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from resnestkit.report.boxes import Colour
from resnestkit.report.canvas import (
    FAINT,
    INK,
    LINE,
    MUTED,
    OTHER,
    TRAIN,
    VAL,
    new_figure,
    plain,
    set_title,
    to_png,
    user_fonts,
)
from resnestkit.report.figures import TINY_IMAGE
from resnestkit.report.lines import Record, draw_pace, draw_panel, mark_best, read_points
from resnestkit.report.masks import Mask, Pixels, colour_mask

IGNORED: Colour = (209, 213, 219)
"""The ground of what is not labelled, hatched, so that it is no class's."""
_HATCH: Colour = (243, 244, 246)
_HATCH_PIXELS = 12
_BARS_IN_A_COLUMN = 50


@dataclass(frozen=True, slots=True)
class ClassBar:
    """One class's intersection over union."""

    name: str
    iou: float
    """Below 0 where there is nothing to measure."""
    pixels: float
    """Share of all labelled pixels."""
    colour: Colour


def draw_segmentation_curves(records: Sequence[Record]) -> bytes:
    """Draw how a training of a segmenter went, as `resnestkit.report.figures.draw_curves` does.

    Args:
        records: one per epoch, with ``epoch`` and any of ``train_loss``, ``val_loss``,
            ``val_miou``, ``val_pixel_accuracy``, ``train_pixel_accuracy`` (fractions of 1), ``lr``
            and ``images_per_second``.

    Returns:
        A PNG of four panels.
    """
    figure = new_figure(10.0, 6.2)
    loss, score, rate, speed = figure.subplots(2, 2).flat
    draw_panel(loss, "Loss", records, [("train", "train_loss", TRAIN), ("val", "val_loss", VAL)])
    lines = [
        ("mIoU", "val_miou", VAL),
        ("pixels", "val_pixel_accuracy", OTHER),
        ("pixels, train", "train_pixel_accuracy", TRAIN),
    ]
    draw_panel(score, "Mean IoU and pixels recognised, %", records, lines, 100.0)
    mark_best(score, read_points(records, "val_miou", 100.0))
    draw_pace(rate, speed, records)
    return to_png(figure)


def draw_class_bars(bars: Sequence[ClassBar], mean: float) -> bytes:
    """Draw the IoU of each class as a bar in the class's colour, the best first.

    Args:
        bars: of all classes.
        mean: over the classes, drawn as a line.

    Returns:
        A PNG; of many classes, of several columns.
    """
    ranked = sorted(bars, key=lambda bar: -bar.iou)
    columns = max(1, math.ceil(len(ranked) / _BARS_IN_A_COLUMN))
    rows = math.ceil(len(ranked) / columns)
    figure = new_figure(10.0, 0.9 + (0.3 if rows <= 30 else 0.2) * max(rows, 2))
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for column, axes in enumerate(panels):
        part = ranked[column * rows : (column + 1) * rows]
        _draw_bars(axes, part, rows, mean, small=columns > 1 or rows > 30)
    set_title(panels[0], f"Intersection over union, %; mean {100 * mean:.1f}")
    return to_png(figure)


def _draw_bars(
    axes: Axes, bars: Sequence[ClassBar], rows: int, mean: float, *, small: bool
) -> None:
    font = 7.0 if small else 9.0
    places = range(len(bars))
    colours = [[part / 255 for part in bar.colour] for bar in bars]
    axes.barh(
        places, [100 * max(0.0, bar.iou) for bar in bars], color=colours, height=0.7,
        edgecolor=FAINT, lw=0.5,
    )  # fmt: skip
    for place, bar in zip(places, bars, strict=True):
        said = f" {100 * bar.iou:.1f}" if bar.iou >= 0 else " -"
        axes.text(100 * max(0.0, bar.iou), place, said, color=INK, fontsize=font, va="center")
        share = f"{bar.pixels:.2%} of pixels" if not small else f"{bar.pixels:.1%}"
        axes.text(111 if small else 108, place, share, color=MUTED, fontsize=font, va="center")
    axes.axvline(100 * max(0.0, mean), color=INK, lw=1, ls=":", zorder=0)
    axes.set_yticks(
        places, [plain(bar.name, 18 if small else 28) for bar in bars],
        fontfamily=user_fonts()[0], fontsize=font,
    )  # fmt: skip
    axes.tick_params(colors=INK, length=0)
    axes.tick_params(axis="x", colors=MUTED, labelsize=8)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="x", color=LINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(0, 130)
    axes.set_ylim(rows - 0.4, -0.6)


def hatch_mask(mask: Mask, colours: Sequence[Colour], size: tuple[int, int]) -> Pixels:
    """A mask in its classes' colours, at a width and a height; what is no class is hatched."""
    labels = _resize_mask(mask, size)
    drawn = colour_mask(labels, colours)
    rows, columns = np.indices(labels.shape)
    striped = (rows + columns) // _HATCH_PIXELS % 2 == 0
    bare = labels >= len(colours)
    drawn[bare] = IGNORED
    drawn[bare & striped] = _HATCH
    return drawn


def _resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    nearest = Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(mask.astype(np.int32)).resize(size, nearest))


def fit_picture(image: Pixels, within: tuple[int, int]) -> Pixels:
    """A picture at the largest size that fits a width and a height."""
    height, width = image.shape[:2]
    scale = min(within[0] / width, within[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tiny = max(height, width) <= TINY_IMAGE
    method = Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, method))


def show_mistakes(image: Pixels, true: Mask, found: Mask, labelled: Mask) -> Pixels:
    """The picture, faint and grey, with what is wrong on it in red, at the picture's size.

    Args:
        image: the picture.
        true: what is there.
        found: what was predicted, of any size.
        labelled: where ``true`` counts.
    """
    size = image.shape[1], image.shape[0]
    there, said, counts = (_resize_mask(one, size) for one in (true, found, labelled))
    wrong = (there != said) & (counts != 0)
    grey = image.astype(np.float32).mean(2, keepdims=True).repeat(3, 2) * 0.55 + 100
    drawn: Pixels = np.clip(grey, 0, 255).astype(np.uint8)
    drawn[wrong] = (0.35 * drawn[wrong] + 0.65 * np.array([220, 38, 38])).astype(np.uint8)
    return drawn
