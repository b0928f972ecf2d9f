"""Batches: which images come when, and who reads them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from resnestkit.data.images import ImageSet, UnreadableImage
from resnestkit.data.seeding import mix_seed, seeded
from resnestkit.data.transforms import ImageTransform
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

    def pin_memory(self) -> Batch:
        """Tell torch's loader how to make copies to a GPU run beside the computing."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.indices)


class EpochSampler(Sampler[list[Key]]):
    """Batches of a shuffled epoch, the same for the same seed and epoch; it can start midway.

    A step takes ``batch_size`` images on each of ``ranks`` processes. Which images those are
    depends on their product alone, so several processes see what one with a larger batch would.
    """

    def __init__(
        self, images: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.images, self.seed, self.rank, self.ranks = images, seed, rank, ranks
        self.step = batch_size * ranks
        self.epoch, self.first_batch = 0, 0

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Let the next pass be this epoch, from this batch on."""
        self.epoch, self.first_batch = epoch, batch

    def __len__(self) -> int:
        # The uneven rest is left out, since norms suffer from it; a small set is one batch.
        return max(1, self.images // self.step)

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
        order = torch.randperm(self.images, generator=generator).tolist()
        for batch in range(self.first_batch, len(self)):
            taken = order[batch * self.step : (batch + 1) * self.step]
            first, last = (len(taken) * part // self.ranks for part in (self.rank, self.rank + 1))
            yield [Key(self.epoch, index) for index in taken[first:last]]

    def share(self, images: int) -> float:
        """This process's part of a step, times the processes: 1 where the step divides evenly."""
        return images * self.ranks / min(self.step, self.images)


class InOrder(Sampler[list[Key]]):
    """Every image once, in order, the last batch as short as it comes.

    Of several processes each takes every so many-th batch: batches, and so the sums over each,
    are those of a single process.
    """

    def __init__(self, images: int, batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        self.images, self.batch_size, self.rank, self.ranks = images, batch_size, rank, ranks

    def __len__(self) -> int:
        return len(self._starts())

    def _starts(self) -> range:
        return range(self.rank * self.batch_size, self.images, self.ranks * self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self._starts():
            stop = min(start + self.batch_size, self.images)
            yield [Key(0, index) for index in range(start, stop)]


@dataclass(frozen=True, slots=True)
class Failure:
    """What a reading process could not do, in words: an exception would bring its traceback."""

    message: str


Sample = tuple[Tensor, int, int]


class TransformedImages(Dataset[Sample | Failure]):
    """Images of a set, transformed; randomness is keyed by (seed, epoch, image)."""

    def __init__(self, images: ImageSet, transform: ImageTransform, seed: int | None) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, key: Key) -> Sample | Failure:
        try:
            image = self.images.read(key.image)
        except UnreadableImage as error:
            # All were read before the work began: the file changed since.
            return Failure(f"An image can no longer be read: {error}.")
        label = self.images.labels[key.image]
        if self.seed is None:
            return self.transform(image), label, key.image
        with seeded(self.seed, key.epoch, key.image):
            return self.transform(image), label, key.image


def collate(samples: Sequence[Sample | Failure]) -> Batch | Failure:
    """Stack images of one size into a batch, or pass the first failure on."""
    for sample in samples:
        if isinstance(sample, Failure):
            return sample
    images, labels, indices = zip(*samples, strict=True)
    # Stacked pixel by pixel, as images lie in memory: a plain copy, and channels_last at once.
    pixels = torch.stack([image.permute(1, 2, 0) for image in images])
    return Batch(pixels.permute(0, 3, 1, 2), torch.tensor(labels), list(indices))


class Batches:
    """Batches of a dataset in the sampler's order; reading processes, if any, live as long.

    Iterating raises UserError where an image cannot be read any more.
    """

    def __init__(
        self, dataset: TransformedImages, sampler: Sampler[list[Key]], workers: int
    ) -> None:
        self.sampler, self.images = sampler, dataset.images
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_ctrl_c_to_the_parent,
            # Its own generator: drawing from torch's would shift what a training draws after it.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, Failure):
                raise UserError(batch.message)
            yield batch


@dataclass(frozen=True, slots=True)
class Loaders:
    """Training batches, whose order the sampler decides, and validation batches."""

    train: Batches
    sampler: EpochSampler
    validation: Batches
    validation_count: int


def _leave_ctrl_c_to_the_parent(_worker: int) -> None:
    """The parent finishes its step and saves; a worker that dies first would spoil that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def choose_workers(asked: int | None, in_memory: bool) -> int:
    """Reading processes: as asked, else none for images in memory, else one per core up to 8."""
    if asked is not None:
        return asked
    if in_memory and not torch.cuda.is_available():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, 8)
