"""Where images with segments come from: segmentation's data that tells things apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from resnestkit.data.findings import Finding, say_some
from resnestkit.data.segmentation.sources import (
    SegmentationSource,
    inspect_segmentation_source,
    load_segmentation_source,
)
from resnestkit.data.segmentation.table import SegmentationImages, SegmentedMasks
from resnestkit.errors import UserError


def load_panoptic_source(
    data: str, channels: int = 3, holdout: float = 0.2, seed: int = 0
) -> SegmentationSource:
    """As `load_segmentation_source`, of COCO's panoptic form or the built-in scenes.

    Raises UserError if files are missing or foreign, or tell no things or no stuff.
    """
    source = load_segmentation_source(data, channels, holdout, seed)
    for said in find_no_segments(source):
        raise UserError(said)
    return source


def inspect_panoptic_source(
    data: str, channels: int = 3, holdout: float = 0.2, seed: int = 0
) -> SegmentationSource:
    """As `load_panoptic_source`, but what cannot be trained on is among the findings."""
    source = inspect_segmentation_source(data, channels, holdout, seed)
    found = [Finding("wrong", said, "", refused=True) for said in find_no_segments(source)]
    return replace(source, findings=(*source.findings, *found))


def find_no_segments(source: SegmentationSource) -> list[str]:
    """Why no panoptic net can be trained on a source; nothing if one can."""
    if not source.things:
        return [
            f"The masks of {source.origin} tell classes, and not one thing from the next; give "
            "COCO's panoptic form, or train a segmenter (--task segmentation)."
        ]
    if all(source.things):
        return [
            f"All classes of {source.origin} are things; a mask_rcnn finds them without more "
            "(--task detection)."
        ]
    if not any(source.things):
        return [
            f"All classes of {source.origin} are stuff; train a segmenter (--task segmentation)."
        ]
    return []


def check_segments(
    images: SegmentationImages, origin: str, classes: Sequence[str], things: Sequence[bool]
) -> None:
    """Raise UserError if the masks to evaluate on tell no things apart, or others than the net.

    Args:
        images: with masks that count in the net's classes.
        origin: where they come from.
        classes: names of the net's.
        things: which of them can be counted.
    """
    masks = images.masks
    if not isinstance(masks, SegmentedMasks):
        raise UserError(
            f"The masks of {origin} tell classes, and not one thing from the next; a panoptic net "
            "is measured on COCO's panoptic form, or on scenes."
        )
    places = range(len(masks.things)) if images.places is None else images.places
    told = zip(places, masks.things, strict=True)
    apart = [classes[place] for place, thing in told if thing != things[place]]
    if apart:
        raise UserError(
            f"The checkpoint and {origin} (its isthing) do not agree which classes are things and "
            f"which are stuff: {say_some(apart)}; give data in which they do."
        )
