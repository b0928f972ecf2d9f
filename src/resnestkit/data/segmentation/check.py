"""Every image is read with its mask before a training starts, and pixels are counted by class."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from resnestkit.data.check import Checked, check_images
from resnestkit.data.findings import Finding, find_lone_classes
from resnestkit.data.images import ImageSet, UnreadableImage
from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.data.segmentation.table import SegmentationImages

_MOSTLY = 0.5
"""Share of a split's pixels that may be ignored before it is worth a word."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassCounts:
    """How much of each class the masks of a split show."""

    pixels: Int64[NDArray[np.int64], " classes"]
    """Of each class."""
    images: Int64[NDArray[np.int64], " classes"]
    """How many show it."""
    around: Int64[NDArray[np.int64], " classes"]
    """Pixels of all classes in the images that show it."""
    ignored: int
    """Pixels without a class."""
    blank: int
    """Images in which no pixel has a class."""

    @property
    def shares(self) -> NDArray[np.float64]:
        """Of all pixels that have a class."""
        return np.asarray(self.pixels / max(1, int(self.pixels.sum())))

    @property
    def ignored_share(self) -> float:
        """Of all pixels."""
        return self.ignored / max(1, self.ignored + int(self.pixels.sum()))

    def balanced_weights(self) -> tuple[float, ...]:
        """Weights under which rare classes count as much: the median frequency over each.

        Eigen and Fergus, *Predicting depth, surface normals and semantic labels*, 2015, section
        6.3.2, as SegNet has it: a class's frequency is its share in the images that show it. A
        class that no image shows weighs 1.
        """
        frequency = self.pixels / np.maximum(1, self.around)
        seen = frequency > 0
        if not seen.any():
            return (1.0,) * len(frequency)
        weights = np.divide(
            np.median(frequency[seen]), frequency, out=np.ones_like(frequency), where=seen
        )
        return tuple(float(weight) for weight in weights)


@dataclass(frozen=True, slots=True)
class CheckedSegmentation(Checked):
    """Images that can all be read with their masks."""

    counts: ClassCounts = field(kw_only=True)


def check_segmentation_images(
    images: SegmentationImages,
    *,
    cache_bytes: int,
    advance: Callable[[int], None] = lambda _count: None,
) -> CheckedSegmentation:
    """As `resnestkit.data.check.check_images`, on pictures with masks; both are kept if they fit.

    Pictures without a mask, or with one of another size or of other numbers, count as unreadable
    too, and are left out. The result's images are `SegmentationImages` again.
    """
    examined = _Examined(images, cache_bytes)
    checked = check_images(
        examined,
        cache_bytes=cache_bytes * 3 // 4,  # the pictures' part, where they are of three channels
        advance=advance,
        survey=True,
    )
    kept = images
    if checked.in_memory:
        kept = images.with_pictures(checked.images)
        masks = examined.masks_within(cache_bytes - checked.cached_bytes)
        checked = replace(checked, cached_bytes=checked.cached_bytes + _size(masks))
        kept = kept.with_masks(masks)
    elif isinstance(checked.images, SegmentationImages):
        kept = checked.images
    known = {name.name: getattr(checked, name.name) for name in fields(checked)}
    tallies = [examined.tallies[row] for row in kept.labels]
    return CheckedSegmentation(
        **{**known, "images": kept}, counts=count_pixels(tallies, images.classes)
    )


def count_pixels(
    tallies: Sequence[Int64[NDArray[np.int64], " numbers"]], classes: int
) -> ClassCounts:
    """Sum up what the numbers of each mask are."""
    every = np.stack(tallies)
    pixels = every[:, :classes]
    labelled = pixels.sum(1)
    return ClassCounts(
        pixels=pixels.sum(0),
        images=(pixels > 0).sum(0),
        around=((pixels > 0) * labelled[:, None]).sum(0),
        ignored=int(every[:, IGNORE].sum()),
        blank=int((labelled == 0).sum()),
    )


def check_classes(counts: Mapping[str, ClassCounts], classes: Sequence[str]) -> list[Finding]:
    """What only counting tells: classes that are missing somewhere, and pixels without a class."""
    seen = {split: set(np.flatnonzero(one.pixels).tolist()) for split, one in counts.items()}
    return [*find_lone_classes(classes, seen), *_find_ignored(counts)]


def _find_ignored(counts: Mapping[str, ClassCounts]) -> Iterator[Finding]:
    for split, one in counts.items():
        if one.ignored_share > _MOSTLY:
            text = f"{one.ignored_share:.0%} of the pixels of {split} have no class."
            yield Finding("wrong", text, "Nothing is learnt or measured there.")
        if one.blank:
            images = "1 image" if one.blank == 1 else f"{one.blank:,} images"
            text = f"{images} of {split} without a single pixel that has a class."
            yield Finding("note", text, "Leave them out: they teach nothing.")


class _Examined(ImageSet):
    """Images whose masks are looked at whenever they are read; several threads may read."""

    def __init__(self, images: SegmentationImages, most: int) -> None:
        self.images, self.names, self.labels = images, images.names, images.labels
        self.tallies: dict[int, Int64[NDArray[np.int64], " numbers"]] = {}
        self._masks: dict[int, Tensor] = {}
        self._left, self._lock = most, threading.Lock()

    def read(self, index: int) -> UInt8[Tensor, "c h w"]:
        """The picture, if its mask fits it."""
        image, mask = self.images.read(index), self.images.mask(index)
        if image.shape[1:] != mask.shape:
            (height, width), (high, wide) = image.shape[1:], mask.shape
            turned = ", as if it lay on its side" if (height, width) == (wide, high) else ""
            reason = f"its mask is {wide}x{high}, and it is {width}x{height}{turned}"
            raise UnreadableImage(self.names[index], reason)
        row = self.labels[index]
        self.tallies[row] = np.bincount(mask.numpy().ravel(), minlength=256)
        with self._lock:
            self._left -= mask.numel()
            if self._left >= 0:
                self._masks[row] = mask
            else:
                self._masks.clear()
        return image

    def subset(self, indices: Sequence[int]) -> SegmentationImages:
        """Fewer images, as they were before they were looked at."""
        return self.images.subset(indices)

    def masks_within(self, most: int) -> dict[int, Tensor]:
        """All masks by row, if they fit so many bytes; else none."""
        return self._masks if self._left >= 0 and _size(self._masks) <= most else {}


def _size(masks: Mapping[int, Tensor]) -> int:
    return sum(mask.numel() for mask in masks.values())
