"""What a detector does on a set of images, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from resnestkit.data.detection.rle import decode_rle
from resnestkit.data.images import ImageSet
from resnestkit.report.boxes import crop_around, draw_detections
from resnestkit.report.detection import (
    PAIR_PIXELS,
    PicturePair,
    PrecisionRecall,
    draw_pairs,
    draw_precision_recall,
)
from resnestkit.report.figures import Picture, draw_gallery
from resnestkit.report.page import Figure, Headline, Section, Table
from resnestkit.tasks.base import TaskReport, read_picture, short_name
from resnestkit.tasks.detection_evaluation import (
    CocoNumbers,
    DetectionEvaluation,
    Example,
    Measured,
    Miss,
    Shown,
)


def describe(
    result: DetectionEvaluation, classes: tuple[str, ...], images: ImageSet, split: str
) -> TaskReport:
    """Headlines, precision and recall, pictures, the worst misses and the table of classes."""
    curves = _curves(result, classes)
    pictures = {"precision_recall.png": curves}
    what = "masks" if result.masks else "boxes"
    sections: list[Section] = [
        Figure(
            "Precision and recall",
            curves,
            f"Of {what} on {split} images, at IoU 0.5; light lines at 0.75.",
            invertible=True,
        )
    ]
    if result.examples:
        pairs = draw_pairs([_pair(one, classes, images) for one in result.examples])
        pictures["examples.png"] = pairs
        caption = (
            "From the hardest image to the easiest; on the left what is there, on the right what "
            f"was found with a score of {result.threshold:.2f} or more. Dashed: missed on the "
            "left, wrong on the right."
        )
        sections.append(Figure("True and found", pairs, caption))
    sections += _galleries(result, classes, images)
    sections += _tables(result, classes)
    return TaskReport(_headlines(result, split), sections, pictures)


def _headlines(result: DetectionEvaluation, split: str) -> list[Headline]:
    images = f"{result.count} {split} images"
    found = f"{result.precision:.0%} right at score {result.threshold:.2f}"
    boxes, masks = result.boxes.all, result.masks
    headlines = [
        Headline("AP", _percent(boxes.ap), f"boxes, {images}"),
        Headline("AP50", _percent(boxes.ap50), "boxes at IoU 0.5"),
        Headline("Found", f"{result.recall:.1%}", f"of the objects; {found}"),
    ]
    if masks is not None:
        headlines.insert(0, Headline("Mask AP", _percent(masks.all.ap), f"masks, {images}"))
        headlines.insert(1, Headline("Mask AP50", _percent(masks.all.ap50), "masks at IoU 0.5"))
    return headlines


def _curves(result: DetectionEvaluation, classes: Sequence[str]) -> bytes:
    per_class = result.measured.per_class
    return draw_precision_recall(
        [
            PrecisionRecall(name, one.precision50, one.precision75)
            for name, one in zip(classes, per_class, strict=True)
        ]
    )


def _pair(example: Example, classes: Sequence[str], images: ImageSet) -> PicturePair:
    pixels = read_picture(images, example.index)
    left, right = (_draw(pixels, shown, classes) for shown in (example.true, example.found))
    name = short_name(images, example.index)
    missed, wrong = example.true.good.count(False), example.found.good.count(False)
    there = len(example.true.good)
    true = f"{name}: {there} object{'' if there == 1 else 's'}, {missed} missed"
    return PicturePair(left, right, true, f"{len(example.found.good)} found, {wrong} wrong")


def _draw(pixels: NDArray[np.uint8], shown: Shown, classes: Sequence[str]) -> NDArray[np.uint8]:
    masks = None
    if shown.masks is not None:
        masks = [decode_rle(mask).astype(bool) for mask in shown.masks]
    return draw_detections(
        pixels,
        shown.boxes,
        shown.labels,
        shown.scores,
        masks,
        classes,
        dashed=[not good for good in shown.good],
        within=PAIR_PIXELS,
    )


def _galleries(
    result: DetectionEvaluation, classes: Sequence[str], images: ImageSet
) -> list[Section]:
    sections: list[Section] = []
    for title, misses, caption in (
        ("Largest objects missed", result.missed, "Objects that no detection found."),
        ("Surest mistakes", result.mistaken, "Wrong detections with the highest scores."),
    ):
        if misses:
            pictures = [_picture(miss, classes, images) for miss in misses]
            sections.append(Figure(title, draw_gallery(pictures), caption))
    return sections


def _picture(miss: Miss, classes: Sequence[str], images: ImageSet) -> Picture:
    pixels = crop_around(read_picture(images, miss.index), miss.box, miss.label)
    name = classes[miss.label - 1]
    there = "" if miss.instead is None else classes[miss.instead - 1]
    if miss.fault == "missed":
        return Picture(pixels, f"{name} missed", f"taken for {there}" if there else "")
    said = f"is {there}" if miss.fault == "another class" else miss.fault
    return Picture(pixels, f"{name} {miss.score:.0%}", said)


def _tables(result: DetectionEvaluation, classes: Sequence[str]) -> list[Section]:
    measured = [("boxes", result.boxes)]
    if result.masks is not None:
        measured.insert(0, ("masks", result.masks))
    tables: list[Section] = [
        _class_table(f"Classes, by {kind}", one, classes) for kind, one in measured
    ]
    names = [field.name for field in fields(CocoNumbers)]
    rows = [
        [kind, *(_percent(one.all.named().get(name, -1.0)) for name in names)]
        for kind, one in measured
    ]
    header = ["of", *(name.upper().replace("_", " ") for name in names)]
    return [*tables, Table("COCO's numbers", header, rows)]


def _class_table(title: str, measured: Measured, classes: Sequence[str]) -> Table:
    rows = [
        [name, str(one.objects), *map(_percent, (one.ap, one.ap50, one.ap75, one.ar100))]
        for name, one in zip(classes, measured.per_class, strict=True)
    ]
    return Table(title, ["class", "objects", "AP", "AP50", "AP75", "AR"], rows)


def _percent(value: float) -> str:
    return f"{value:.1%}" if value >= 0 else "-"
