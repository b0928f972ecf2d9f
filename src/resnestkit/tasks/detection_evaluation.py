"""What a detector does on a set of images, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""
Fault = Literal["missed", "another class", "found twice", "badly placed", "nothing there"]


@dataclass(frozen=True, slots=True)
class CocoNumbers:
    """COCO's twelve numbers, of 1; -1 where there is no object to measure it by.

    Average precision and recall over IoU 0.5 to 0.95 unless a threshold is named; small objects
    are below 32x32 pixels, large ones above 96x96; ``ar10`` allows ten detections an image.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float

    def named(self, prefix: str = "") -> dict[str, float]:
        """Those that could be measured."""
        values = {field.name: float(getattr(self, field.name)) for field in fields(self)}
        return {f"{prefix}{name}": value for name, value in values.items() if value >= 0}


@dataclass(frozen=True, slots=True)
class ClassNumbers:
    """One class; -1 where it has no object."""

    objects: int
    """True ones, crowds left out."""
    ap: float
    ap50: float
    ap75: float
    ar100: float
    precision50: list[float]
    """At the recalls 0, 0.01, ... 1, at IoU 0.5; empty where there is no object."""
    precision75: list[float]


@dataclass(frozen=True, slots=True)
class Measured:
    """Boxes, or masks, of all classes and of each."""

    all: CocoNumbers
    per_class: tuple[ClassNumbers, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """Objects of one image to be drawn."""

    boxes: list[Box]
    labels: list[int]
    """1 is the first class."""
    scores: list[float]
    """Of detections; empty for true objects."""
    good: list[bool]
    """A true object that was found, a detection that is right."""
    masks: list[dict[str, Any]] | None = None
    """Compressed run lengths."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image: what is there, and what was found."""

    index: int
    true: Shown
    found: Shown


@dataclass(frozen=True, slots=True)
class Miss:
    """An object that was missed, or a detection that is wrong, and how."""

    index: int
    fault: Fault
    label: int
    """The true class of what was missed, the named class of what is wrong."""
    box: Box
    score: float
    """Of a wrong detection; 0 for what was missed."""
    instead: int | None = None
    """The class of the object that is there."""


@dataclass(frozen=True, slots=True)
class DetectionEvaluation:
    """What a detector does on a set of images."""

    count: int
    boxes: Measured
    masks: Measured | None
    threshold: float
    """Score from which on detections are shown: where F1 at IoU 0.5, over all, is best."""
    precision: float
    """Share of the detections shown that are right."""
    recall: float
    """Share of the objects that those find."""
    examples: tuple[Example, ...]
    """From the image that was hardest to the easiest."""
    missed: tuple[Miss, ...]
    """Objects not found, the largest first."""
    mistaken: tuple[Miss, ...]
    """Wrong detections, the surest first."""

    @property
    def measured(self) -> Measured:
        """What the detector was made for: masks where it has them, else boxes."""
        return self.boxes if self.masks is None else self.masks

    @property
    def score(self) -> float:
        """AP of masks where there are any, else of boxes; 0 where there is no object at all."""
        return max(0.0, self.measured.all.ap)

    @property
    def metrics(self) -> dict[str, float]:
        """COCO's numbers of 1 that could be measured; those of masks, if any, come first.

        AP is always among them, 0 where there is no object: epochs and runs are compared by it.
        """
        boxes = {"ap": 0.0, **self.boxes.all.named()}
        if self.masks is None:
            return boxes
        return {"mask_ap": 0.0, **self.masks.all.named("mask_"), **boxes}
