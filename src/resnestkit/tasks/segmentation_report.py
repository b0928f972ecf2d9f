"""What a segmenter does on a set of images, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnestkit.data.images import ImageSet
from resnestkit.data.segmentation.legend import IGNORE, Colour
from resnestkit.data.segmentation.table import SegmentationImages
from resnestkit.report.confusion import draw_confusion
from resnestkit.report.masks import class_colours
from resnestkit.report.page import Figure, Headline, Section, Table
from resnestkit.report.rows import Swatch, Titled, draw_rows
from resnestkit.report.segmentation import (
    IGNORED,
    ClassBar,
    draw_class_bars,
    fit_picture,
    hatch_mask,
    show_mistakes,
)
from resnestkit.tasks.base import TaskReport, read_picture, short_name
from resnestkit.tasks.segmentation_counts import PICTURE_PIXELS
from resnestkit.tasks.segmentation_evaluation import Example, SegmentationEvaluation

_COLUMNS = (
    "The image, what is there, what was predicted, and in red what is wrong; hatched is not "
    "labelled."
)
_MOST_NAMED = 40
"""Classes in a legend; a picture's others are in the bars."""


def describe(
    result: SegmentationEvaluation,
    classes: tuple[str, ...],
    palette: Sequence[Colour],
    images: ImageSet,
    split: str,
) -> TaskReport:
    """Headlines, IoU per class, the worst pictures and some others, confusion and a table."""
    colours = palette or class_colours(len(classes))
    bars = draw_class_bars(_bars(result, classes, colours), result.miou)
    pictures = {"classes.png": bars}
    sections: list[Section] = [
        Figure(
            "Classes", bars, f"Of {split} images, {result.protocol}; the dotted line is the mean."
        )
    ]
    for title, name, examples, which in (
        ("Worst images", "worst.png", result.worst, "With the lowest mean IoU, the worst first."),
        ("Other images", "examples.png", result.drawn, "Drawn by lot."),
    ):
        if examples:
            pictures[name] = _draw_examples(examples, classes, colours, images)
            sections.append(Figure(title, pictures[name], f"{which} {_COLUMNS}"))
    confusion = draw_confusion(_per_mille(result.confusion), classes)
    pictures["confusion.png"] = confusion
    caption = "True class by row, predicted by column, in thousandths of the true class's pixels."
    sections.append(Figure("Confusion", confusion, caption, invertible=True))
    sections.append(_class_table(result, classes))
    return TaskReport(_headlines(result, split), sections, pictures)


def _headlines(result: SegmentationEvaluation, split: str) -> list[Headline]:
    known = sum(one.iou >= 0 for one in result.per_class)
    images = f"{result.count} {split} images, {result.protocol}"
    return [
        Headline("Mean IoU", _percent(result.miou), images),
        Headline("Pixels", _percent(result.pixel_accuracy), "recognised, of all labelled ones"),
        Headline("Mean accuracy", _percent(result.mean_accuracy), f"of {known} classes"),
    ]


def _bars(
    result: SegmentationEvaluation, classes: Sequence[str], colours: Sequence[Colour]
) -> list[ClassBar]:
    total = max(1, sum(one.pixels for one in result.per_class))
    rows = zip(classes, result.per_class, colours, strict=True)
    return [ClassBar(name, one.iou, one.pixels / total, colour) for name, one, colour in rows]


def _draw_examples(
    examples: Sequence[Example],
    classes: Sequence[str],
    colours: Sequence[Colour],
    images: ImageSet,
) -> bytes:
    """Rows of four pictures, under the colours of the classes that are in them."""
    assert isinstance(images, SegmentationImages)
    rows, shown = [], np.zeros(256, np.int64)
    for example in examples:
        true, found = images.mask(example.index).numpy(), example.decode()
        picture = fit_picture(read_picture(images, example.index), PICTURE_PIXELS)
        size = picture.shape[1], picture.shape[0]
        shown += np.bincount(true.ravel(), minlength=256) + np.bincount(
            found.ravel(), minlength=256
        )
        rows.append(
            (
                Titled(picture, short_name(images, example.index)),
                Titled(hatch_mask(true, colours, size), "true"),
                Titled(
                    hatch_mask(found, colours, size), f"predicted: mIoU {_percent(example.miou)}"
                ),
                Titled(show_mistakes(picture, true, found, true != IGNORE), "wrong"),
            )
        )
    named = np.argsort(-shown[: len(classes)], kind="stable")[:_MOST_NAMED]
    legend = [Swatch(colours[k], classes[k]) for k in sorted(named) if shown[k]]
    legend += [Swatch(IGNORED, "not labelled")] * bool(shown[IGNORE])
    return draw_rows(rows, legend)


def _per_mille(confusion: Sequence[Sequence[int]]) -> list[list[int]]:
    """Millions of pixels have no place in a cell."""
    return [[round(1000 * cell / max(1, sum(row))) for cell in row] for row in confusion]


def _class_table(result: SegmentationEvaluation, classes: Sequence[str]) -> Table:
    total = max(1, sum(one.pixels for one in result.per_class))
    rows = [
        [
            name,
            f"{one.pixels / total:.2%}",
            _percent(one.iou),
            _percent(one.accuracy),
            _percent(one.precision),
            _most_taken_for(result.confusion[label], label, classes),
        ]
        for label, (name, one) in enumerate(zip(classes, result.per_class, strict=True))
    ]
    header = ["class", "of pixels", "IoU", "recognised", "precision", "most often taken for"]
    return Table("Classes in numbers", header, rows)


def _most_taken_for(row: Sequence[int], label: int, classes: Sequence[str]) -> str:
    count, other = max((count, k) for k, count in enumerate(row) if k != label)
    return f"{classes[other]} ({count / sum(row):.0%})" if count else ""


def _percent(value: float) -> str:
    return f"{value:.1%}" if value >= 0 else "-"
