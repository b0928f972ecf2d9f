"""Images with their masks, and with the segments of which a panoptic mask consists."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor

from resnestkit.data.images import ImageSet
from resnestkit.data.segmentation.legend import IGNORE


@dataclass(frozen=True, slots=True)
class Segment:
    """One thing of a picture, or all of its sky."""

    number: int
    """In the map of `Segments`; never 0."""
    label: int
    """Its class; 0 is the first."""
    is_thing: bool
    """Whether its class can be counted; of one that cannot, a picture has one segment."""
    is_crowd: bool = False
    """Whether it is many things at once: neither right nor wrong to find."""


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """The segments of one picture."""

    numbers: Int32[Tensor, "h w"]
    """Each pixel's segment; 0 is none."""
    segments: tuple[Segment, ...]

    def relabelled(self, labels: Sequence[int]) -> Segments:
        """The same with class i become ``labels[i]``."""
        changed = (replace(one, label=labels[one.label]) for one in self.segments)
        return Segments(self.numbers, tuple(changed))


class Masks(ABC):
    """The masks of a set, by row, in memory's counting: classes from 0, and `IGNORE`."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """How many classes they may show."""

    @abstractmethod
    def read(self, row: int) -> UInt8[Tensor, "h w"]:
        """A mask. Raises UnreadableImage."""


class SegmentedMasks(Masks):
    """Masks that tell things of one class apart."""

    things: tuple[bool, ...]
    """Which classes can be counted."""

    @abstractmethod
    def segments(self, row: int) -> Segments:
        """What a mask consists of. Raises UnreadableImage."""


class SegmentationImages(ImageSet):
    """Images with their masks. A picture's label is the row of its mask.

    So the pictures may be left out, reordered or kept in memory by what knows of labels alone.

    Args:
        pictures: whose labels are rows of the masks.
        masks: all of them.
        kept: what `mask` gives, by row, of masks that are in memory.
        places: what the classes of the masks are here, in their order; None for themselves.
    """

    def __init__(
        self,
        pictures: ImageSet,
        masks: Masks,
        kept: Mapping[int, Tensor] | None = None,
        places: tuple[int, ...] | None = None,
    ) -> None:
        self.pictures, self.masks, self.places = pictures, masks, places
        self.kept: Mapping[int, Tensor] = kept or {}
        self.names, self.labels = pictures.names, pictures.labels

    def read(self, index: int) -> UInt8[Tensor, "c h w"]:
        """The picture."""
        return self.pictures.read(index)

    def mask(self, index: int) -> UInt8[Tensor, "h w"]:
        """The class of each pixel, or `IGNORE`. Raises UnreadableImage."""
        row = self.labels[index]
        if row in self.kept:
            return self.kept[row]
        mask = self.masks.read(row)
        if self.places is None:
            return mask
        table = torch.full((256,), IGNORE, dtype=torch.uint8)
        table[: len(self.places)] = torch.tensor(self.places, dtype=torch.uint8)
        return table[mask.int()]

    @property
    def classes(self) -> int:
        """How many classes the masks may show."""
        return self.masks.classes if self.places is None else max(self.places) + 1

    @property
    def has_segments(self) -> bool:
        """Whether things of one class are told apart."""
        return isinstance(self.masks, SegmentedMasks)

    def segments(self, index: int) -> Segments:
        """The segments of an image, where there are some. Raises UnreadableImage."""
        assert isinstance(self.masks, SegmentedMasks), "these masks are of classes alone"
        found = self.masks.segments(self.labels[index])
        return found if self.places is None else found.relabelled(self.places)

    def subset(self, indices: Sequence[int]) -> SegmentationImages:
        """Fewer images; the masks are shared."""
        return self.with_pictures(self.pictures.subset(indices))

    def with_pictures(self, pictures: ImageSet) -> SegmentationImages:
        """The same masks for what became of the pictures, such as decoded ones."""
        return SegmentationImages(pictures, self.masks, self.kept, self.places)

    def with_masks(self, kept: Mapping[int, Tensor]) -> SegmentationImages:
        """The same with masks in memory, by row, as `mask` gives them."""
        return SegmentationImages(self.pictures, self.masks, kept, self.places)

    def relabelled(self, places: Sequence[int]) -> SegmentationImages:
        """The same with class i become ``places[i]``; not of masks in memory."""
        assert self.places is None
        assert not self.kept
        return SegmentationImages(self.pictures, self.masks, places=tuple(places))
