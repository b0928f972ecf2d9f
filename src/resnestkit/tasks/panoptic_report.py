"""What a panoptic net does on a set of images, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnestkit.data.images import ImageSet
from resnestkit.data.segmentation.legend import Colour
from resnestkit.data.segmentation.table import SegmentationImages
from resnestkit.report.masks import class_colours
from resnestkit.report.page import Figure, Headline, Section, Table
from resnestkit.report.panoptic import Shape, draw_segments
from resnestkit.report.rows import Swatch, Titled, draw_rows
from resnestkit.report.segmentation import fit_picture
from resnestkit.tasks.base import TaskReport, read_picture, short_name
from resnestkit.tasks.panoptic_evaluation import Example, PanopticEvaluation, Quality
from resnestkit.tasks.segmentation_counts import PICTURE_PIXELS

_COLUMNS = "The image, what is there, and what was found; what is void is as in the image."
_MOST_NAMED = 40


def describe(
    result: PanopticEvaluation,
    classes: tuple[str, ...],
    things: Sequence[bool],
    palette: Sequence[Colour],
    images: ImageSet,
    split: str,
) -> TaskReport:
    """Headlines, the worst pictures and some others, and the table of classes."""
    colours = palette or class_colours(len(classes))
    pictures: dict[str, bytes] = {}
    sections: list[Section] = []
    for title, name, examples, which in (
        ("Worst images", "worst.png", result.worst, "With the lowest panoptic quality first."),
        ("Other images", "examples.png", result.drawn, "Drawn by lot."),
    ):
        if examples:
            pictures[name] = _draw_examples(examples, classes, colours, images)
            sections.append(Figure(title, pictures[name], f"{which} {_COLUMNS}"))
    sections += [_class_table(result, classes, things), _quality_table(result)]
    return TaskReport(_headlines(result, split), sections, pictures)


def _headlines(result: PanopticEvaluation, split: str) -> list[Headline]:
    parts = f"SQ {_percent(result.all.sq)}, RQ {_percent(result.all.rq)}"
    return [
        Headline("PQ", _percent(result.all.pq), f"{result.count} {split} images; {parts}"),
        Headline("Things", _percent(result.things.pq), "PQ of what can be counted"),
        Headline("Stuff", _percent(result.stuff.pq), "PQ of what cannot"),
    ]


def _draw_examples(
    examples: Sequence[Example],
    classes: Sequence[str],
    colours: Sequence[Colour],
    images: ImageSet,
) -> bytes:
    """Rows of three pictures, under the colours of the classes that are in them."""
    assert isinstance(images, SegmentationImages)
    rows, shown = [], set[int]()
    for example in examples:
        true = images.segments(example.index)
        there = [Shape(one.number, one.label, one.is_thing) for one in true.segments]
        found = [Shape(one.number, one.label, one.is_thing) for one in example.segments]
        shown |= {one.label for one in (*there, *found)}
        picture = fit_picture(read_picture(images, example.index), PICTURE_PIXELS)
        rows.append(
            (
                Titled(picture, short_name(images, example.index)),
                Titled(draw_segments(picture, true.numbers.numpy(), there, colours), "true"),
                Titled(
                    draw_segments(picture, np.asarray(example.decode()), found, colours),
                    f"found: PQ {_percent(example.pq)}",
                ),
            )
        )
    legend = [Swatch(colours[k], classes[k]) for k in sorted(shown)[:_MOST_NAMED]]
    return draw_rows(rows, legend)


def _class_table(
    result: PanopticEvaluation, classes: Sequence[str], things: Sequence[bool]
) -> Table:
    rows = [
        [
            name,
            "thing" if thing else "stuff",
            *_percents(one.quality),
            *map(str, (one.found, one.missed, one.wrong)),
        ]
        for name, thing, one in zip(classes, things, result.per_class, strict=True)
    ]
    return Table("Classes", ["class", "", "PQ", "SQ", "RQ", "found", "missed", "wrong"], rows)


def _quality_table(result: PanopticEvaluation) -> Table:
    rows = [
        ["all", *_percents(result.all)],
        ["things", *_percents(result.things)],
        ["stuff", *_percents(result.stuff)],
        ["all, by torchmetrics' rule for void", *_percents(result.torchmetrics)],
    ]
    return Table("Panoptic quality", ["of", "PQ", "SQ", "RQ"], rows)


def _percents(quality: Quality) -> list[str]:
    return [_percent(value) for value in (quality.pq, quality.sq, quality.rq)]


def _percent(value: float) -> str:
    return f"{value:.1%}" if value >= 0 else "-"
