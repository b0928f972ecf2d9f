"""What a training of a detector is known by before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import nn

from resnestkit.data.check import Checked, refuse_unreadable
from resnestkit.data.detection.sources import DetectionSource
from resnestkit.data.detection.table import DetectionImages, has_area
from resnestkit.data.findings import Finding
from resnestkit.detection.spec import has_masks
from resnestkit.errors import UserError
from resnestkit.progress import Reporter
from resnestkit.tasks.detection import DetectionTask
from resnestkit.training import doctor
from resnestkit.training.detection_build import detection_images, make_detector, make_loaders
from resnestkit.training.preflight import Patient, Trial
from resnestkit.training.prepare import check_norm
from resnestkit.training.recipe import DetectionRecipe


@dataclass(frozen=True)
class DetectionPatient(Patient):
    """A detector to be trained on images with boxes."""

    things: ClassVar[str] = "objects"
    source: DetectionSource
    recipe: DetectionRecipe

    @cached_property
    def counts(self) -> Mapping[str, Counter[int]]:
        """Objects by class, crowds left out."""
        splits = {split: detection_images(one) for split, one in self.checked.items()}
        return {split: count_objects(images) for split, images in splits.items()}

    @property
    def memory(self) -> None:
        """Not told: what the heads take depends on what is found."""

    @cached_property
    def anchor(self) -> float:
        """Side of the smallest anchor, in pixels of the resized image."""
        # The norm does not matter here, and frozen ones would want weights.
        drawn = replace(self.recipe, weights=None, partial=False, freeze=None, norm="group")
        with torch.device("meta"):
            model = make_detector(replace(drawn, head_norm="none"), len(self.source.classes))
        return float(min(side for level in model.anchors.sizes for side in level))

    @cached_property
    def sides(self) -> Float64[NDArray[np.float64], " n"]:
        """Each training object's side, the root of its area, once its image is resized to test."""
        images = detection_images(self.train)
        table, recipe = images.table, self.recipe
        heights_widths = table.sizes.clip(1)
        scales = np.minimum(
            recipe.test_side / heights_widths.min(1), recipe.max_side / heights_widths.max(1)
        )
        chosen = _shown(images) & has_area(table.corners)
        boxes = table.corners[chosen]
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        return np.asarray(np.sqrt(areas) * scales[table.owners[chosen]])

    @property
    def facts(self) -> dict[str, Any]:
        """Of boxes against anchors."""
        return {
            "smallest_anchor": self.anchor,
            "median_box_side": float(np.median(self.sides)) if len(self.sides) else None,
            "boxes_below_half_an_anchor": doctor.share_tiny(self.sides, self.anchor),
        }

    def describe(self) -> str:
        """The detector, the sizes, and how the boxes suit its anchors."""
        recipe = self.recipe
        low, high = min(recipe.short_sides), max(recipe.short_sides)
        trained = f"{low}" if low == high else f"{low} to {high}"
        return (
            f"{recipe.kind} on {self.net.name}; short side {trained} pixels in training, "
            f"{recipe.test_side} in evaluation; {doctor.share_tiny(self.sides, self.anchor):.0%} "
            f"of the boxes are less than half its smallest anchor of {self.anchor:g} pixels"
        )

    def find_own(self) -> Iterator[Finding]:
        """What is wrong with the annotations, and boxes that anchors miss."""
        yield from self.source.findings
        yield from doctor.find_tiny_boxes(self.sides, self.anchor, self.recipe)

    def refusals(self) -> list[Callable[[], object]]:
        """Unreadable images, norms without statistics, splits without objects."""
        checks: list[Callable[[], object]] = []
        if not self.recipe.skip_unreadable:
            checks.append(partial(refuse_unreadable, self.checked.values()))
        checks.append(partial(check_norm, self.train, self.recipe))
        return [*checks, partial(check_objects, self.source, self.checked)]

    def load(self, reporter: Reporter) -> nn.Module:
        """The detector, with the recipe's weights if it names any."""
        return make_detector(self.recipe, len(self.source.classes), reporter)

    def prepare_trial(self) -> Trial:
        """A detector as it will be: frozen norms and stages need their weights."""
        masks = has_masks(self.recipe.kind)
        drawn = replace(self.recipe, norm="batch") if self.recipe.norm == "sync" else self.recipe
        model = self.compute.place(make_detector(drawn, len(self.source.classes)))
        loaders = make_loaders(self.checked, self.source.validation, self.recipe, masks=masks)
        return Trial(model.train(), DetectionTask(self.source.classes, masks=masks), loaders)

    def twin_labels(self, split: str) -> Sequence[int]:
        """None: an image shows many classes."""
        return [0] * len(self.checked[split].images)


def count_objects(images: DetectionImages) -> Counter[int]:
    """Objects of each class, crowds left out; the first class is 0."""
    return Counter((images.table.labels[_shown(images)] - 1).tolist())


def check_objects(source: DetectionSource, checked: Mapping[str, Checked]) -> None:
    """Raise UserError if there is no object to learn from, or none to be measured by."""
    train, held = (detection_images(checked[split]) for split in ("train", source.validation))
    learnt = _shown(train) & has_area(train.table.corners)
    for split, images, objects, what, how in (
        ("train", train, learnt, "learn from", "less"),
        (source.validation, held, _shown(held), "be measured by", "more"),
    ):
        if not objects.any():
            remedy = "annotate some of its images"
            if source.held_out is not None:
                remedy = f"hold out {how} (--holdout), or draw another --seed"
            raise UserError(
                f"The {split} split, {len(images)} images, has no object to {what}: {remedy}."
            )


def _shown(images: DetectionImages) -> NDArray[np.bool_]:
    """Which annotations are objects of the images of a split, crowds left out."""
    table = images.table
    return np.isin(table.owners, images.labels) & ~table.crowd
