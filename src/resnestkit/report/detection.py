"""Drawings of detectors: how a training went, precision against recall, pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from resnestkit.report.boxes import class_colour
from resnestkit.report.canvas import (
    FAINT,
    INK,
    LINE,
    MUTED,
    OTHER,
    VAL,
    new_figure,
    plain,
    set_title,
    to_png,
    user_fonts,
)
from resnestkit.report.lines import Record, draw_pace, draw_panel, mark_best, read_points
from resnestkit.report.rows import Titled, draw_rows

NAMED_CURVES = 8
"""With more classes than this, their curves are faint, and the best and worst alone are named."""
PAIR_PIXELS = (900, 720)
"""The most that one picture of a pair takes, width and height."""


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """One class's curve: precision at the recalls 0, 0.01, ... 1, at two overlaps.

    Empty for a class without objects.
    """

    name: str
    at50: Sequence[float]
    at75: Sequence[float]


@dataclass(frozen=True, slots=True)
class PicturePair:
    """Two pictures, (h, w, 3) of uint8, with a line of text above each."""

    left: npt.NDArray[np.uint8]
    right: npt.NDArray[np.uint8]
    left_title: str
    right_title: str


def draw_detection_curves(records: Sequence[Record]) -> bytes:
    """Draw how a training of a detector went, as `resnestkit.report.figures.draw_curves` does.

    Args:
        records: one per epoch, with ``epoch`` and any of ``train_loss`` and its parts
            (``train_loss_...``), ``val_ap``, ``val_ap50``, ``val_mask_ap``, ``val_mask_ap50``
            (fractions of 1), ``lr`` and ``images_per_second``.

    Returns:
        A PNG of four panels.
    """
    figure = new_figure(10.0, 6.2)
    losses, precision, rate, speed = figure.subplots(2, 2).flat
    draw_losses(losses, records)
    title, key = "Boxes, %", "val_ap"
    if any("val_mask_ap" in one for one in records):
        title, key = "Masks, %", "val_mask_ap"
    scores = [("AP", key, VAL), ("AP50", f"{key}50", OTHER)]
    draw_panel(precision, title, records, scores, 100.0)
    mark_best(precision, read_points(records, key, 100.0))
    draw_pace(rate, speed, records)
    return to_png(figure)


def draw_losses(axes: Axes, records: Sequence[Record]) -> None:
    """The loss of a training and its parts, ``train_loss_...``."""
    parts = sorted({key for one in records for key in one if key.startswith("train_loss_")})
    drawn = [("all", "train_loss", INK)]
    drawn += [
        (key.removeprefix("train_loss_").replace("_", " "), key, _hex(i))
        for i, key in enumerate(parts[:NAMED_CURVES])
    ]
    draw_panel(axes, "Loss", records, drawn)


def draw_precision_recall(curves: Sequence[PrecisionRecall]) -> bytes:
    """Draw precision against recall: a line for IoU 0.5, a light one for 0.75.

    Returns:
        A PNG: few classes each in its colour; of many, the mean, and by name the best and worst.
    """
    figure = new_figure(10.0, 4.6)
    axes = figure.subplots()
    set_title(axes, "Precision against recall")
    known = [(i, curve) for i, curve in enumerate(curves) if len(curve.at50)]
    few = len(known) <= NAMED_CURVES
    ranked = sorted(known, key=lambda pair: -float(np.mean(pair[1].at50)))
    named = ranked if few else [*ranked[:3], *ranked[-3:]]
    if not few:
        for _, curve in known:
            _line(axes, curve.at50, FAINT, 0.8)
    for i, curve in named:
        colour = _hex(i)
        label = f"{plain(curve.name, 24)}  {np.mean(curve.at50):.2f}, {np.mean(curve.at75):.2f}"
        _line(axes, curve.at75, colour, 1.2, alpha=0.4)
        _line(axes, curve.at50, colour, 2.0, label=label)
    if len(known) > 1:
        mean = np.mean([curve.at50 for _, curve in known], 0)
        light = np.mean([curve.at75 for _, curve in known], 0)
        _line(axes, light, INK, 1.4, alpha=0.4)
        label = f"all  {mean.mean():.2f}, {light.mean():.2f}"
        _line(axes, mean, INK, 2.4, label=label)
    _finish(axes, empty=not known)
    return to_png(figure)


def draw_pairs(pairs: Sequence[PicturePair]) -> bytes:
    """Draw pairs of pictures, one below the other, at the size that they have."""
    return draw_rows(
        [
            (Titled(pair.left, pair.left_title), Titled(pair.right, pair.right_title))
            for pair in pairs
        ]
    )


def _hex(index: int) -> str:
    """A class's colour as matplotlib takes it."""
    return "#" + "".join(f"{part:02x}" for part in class_colour(index))


def _line(
    axes: Axes,
    precision: Sequence[float] | npt.NDArray[np.float64],
    colour: str,
    width: float,
    *,
    alpha: float = 1.0,
    label: str | None = None,
) -> None:
    recall = np.linspace(0, 100, len(precision))
    values = 100 * np.asarray(precision)
    axes.plot(recall, values, color=colour, lw=width, alpha=alpha, label=label)


def _finish(axes: Axes, *, empty: bool) -> None:
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(color=LINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 102)
    axes.set_xlabel("recall, %", color=MUTED, fontsize=9)
    axes.set_ylabel("precision, %", color=MUTED, fontsize=9)
    if empty:
        axes.text(
            0.5, 0.5, "no objects", transform=axes.transAxes, color=MUTED, fontsize=9,
            ha="center", va="center",
        )  # fmt: skip
        return
    legend = axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8.5,
        labelcolor=MUTED, title="AP50, AP75", title_fontsize=8.5, alignment="left",
        prop={"family": user_fonts()[0], "size": 8.5},
    )  # fmt: skip
    legend.get_title().set_color(MUTED)
