"""Batches: which images come when, and who reads them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from resnestkit.data.images import ImageSet, UnreadableImage
from resnestkit.data.transforms import ImageTransform, mix_seed, seeded, steps_per_epoch
from resnestkit.errors import UserError


class Key(NamedTuple):
    """What asks for an image: the epoch decides its augmentation."""

    epoch: int
    image: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Images with their labels, and their indices by which they can be named."""

    images: UInt8[Tensor, "b c s s"]
    labels: Int64[Tensor, " b"]
    indices: list[int]


class EpochSampler(Sampler[list[Key]]):
    """Batches of a shuffled epoch, the same for the same seed and epoch; it can start midway."""

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.epoch, self.first_batch = 0, 0

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Let the next pass be this epoch, from this batch on."""
        self.epoch, self.first_batch = epoch, batch

    def __len__(self) -> int:
        return steps_per_epoch(self.images, self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
        order = torch.randperm(self.images, generator=generator).tolist()
        for batch in range(self.first_batch, len(self)):
            start = batch * self.batch_size
            yield [Key(self.epoch, index) for index in order[start : start + self.batch_size]]


class InOrder(Sampler[list[Key]]):
    """Every image once, in order, the last batch as short as it comes."""

    def __init__(self, images: int, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size

    def __len__(self) -> int:
        return math.ceil(self.images / self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, self.images, self.batch_size):
            stop = min(start + self.batch_size, self.images)
            yield [Key(0, index) for index in range(start, stop)]


class TransformedImages(Dataset[tuple[Tensor, int, int]]):
    """Images of a set, transformed; randomness is keyed by (seed, epoch, index)."""

    def __init__(self, images: ImageSet, transform: ImageTransform, seed: int | None) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int]:
        try:
            image = self.images.read(key.image)
        except UnreadableImage as error:
            # All were read before the training began: the file changed since.
            raise UserError(f"An image can no longer be read: {error}.") from error
        if self.seed is None:
            return self.transform(image), self.images.labels[key.image], key.image
        with seeded(self.seed, key.epoch, key.image):
            return self.transform(image), self.images.labels[key.image], key.image


def collate(samples: Sequence[tuple[Tensor, int, int]]) -> Batch:
    """Stack images of one size into a batch."""
    images, labels, indices = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels), list(indices))


def make_loader(
    dataset: TransformedImages, sampler: Sampler[list[Key]], workers: int
) -> DataLoader[Any]:
    """A loader whose workers, if any, live as long as it does."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        # Its own generator: drawing from torch's would shift all that a training draws after it.
        generator=torch.Generator(),
    )


def choose_workers(asked: int | None, in_memory: bool) -> int:
    """Reading processes: as asked, else none for small images in memory, else one per core."""
    if asked is not None:
        return asked
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if in_memory and not torch.cuda.is_available():
        return 0
    return min(available, 8)
