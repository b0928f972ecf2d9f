"""Batches: which images come when, and who reads them.

A task brings an `ImageDataset`: what becomes of an image, and how several become a batch.
"""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

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


class Batched(Protocol):
    """What the loop asks of a batch of any task."""

    @property
    def indices(self) -> list[int]:
        """The images in their set, by which they can be named."""


SampleT = TypeVar("SampleT")
BatchT_co = TypeVar("BatchT_co", bound=Batched, covariant=True)


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

    def _order(self) -> list[int]:
        """The epoch's images; every ``step`` of them make a step."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
        order: list[int] = torch.randperm(self.images, generator=generator).tolist()
        return order

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order()
        for batch in range(self.first_batch, len(self)):
            taken = order[batch * self.step : (batch + 1) * self.step]
            first, last = (len(taken) * part // self.ranks for part in (self.rank, self.rank + 1))
            yield [Key(self.epoch, index) for index in taken[first:last]]

    def share(self, images: int) -> float:
        """This process's part of a step, times the processes: 1 where the step divides evenly."""
        return images * self.ranks / min(self.step, self.images)


class GroupedSampler(EpochSampler):
    """An epoch whose steps keep to one group of images, such as upright ones.

    Images are drawn as `EpochSampler` draws them, and wait until there are enough of their group.
    What waits in the end makes mixed steps: no more images are left out than without groups.

    Args:
        groups: each image's group.
        batch_size, seed, rank, ranks: as of `EpochSampler`.
    """

    def __init__(
        self, groups: Sequence[int], batch_size: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        super().__init__(len(groups), batch_size, seed, rank, ranks)
        self.groups = list(groups)

    def _order(self) -> list[int]:
        waiting: dict[int, list[int]] = {}
        order: list[int] = []
        for image in super()._order():
            alike = waiting.setdefault(self.groups[image], [])
            alike.append(image)
            if len(alike) == self.step:
                order += alike
                alike.clear()
        # The largest rest first: it makes the least mixed of the mixed steps.
        for rest in sorted(waiting.values(), key=len, reverse=True):
            order += rest
        return order


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


class ImageDataset(Dataset[SampleT | Failure], ABC, Generic[SampleT, BatchT_co]):
    """Images of a set as samples of a task; randomness is keyed by (seed, epoch, image)."""

    images: ImageSet
    seed: int | None
    """None where nothing is drawn."""

    @abstractmethod
    def make(self, image: UInt8[Tensor, "c h w"], index: int) -> SampleT:
        """The sample of an image that was just read, drawing from torch's generator."""

    @staticmethod
    @abstractmethod
    def collate(samples: Sequence[SampleT]) -> BatchT_co:
        """Samples as one batch."""

    def __getitem__(self, key: Key) -> SampleT | Failure:
        try:
            image = self.images.read(key.image)
            if self.seed is None:
                return self.make(image, key.image)
            with seeded(self.seed, key.epoch, key.image):
                return self.make(image, key.image)
        except UnreadableImage as error:
            # All were read before the work began: the file, or that of its mask, changed since.
            return Failure(f"An image can no longer be read: {error}.")


Sample = tuple[Tensor, int, int]


class TransformedImages(ImageDataset[Sample, Batch]):
    """Images of one size with their labels."""

    def __init__(self, images: ImageSet, transform: ImageTransform, seed: int | None) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def make(self, image: UInt8[Tensor, "c h w"], index: int) -> Sample:
        """Image, label and index."""
        return self.transform(image), self.images.labels[index], index

    @staticmethod
    def collate(samples: Sequence[Sample]) -> Batch:
        """Stack the images."""
        images, labels, indices = zip(*samples, strict=True)
        # Stacked pixel by pixel, as images lie in memory: a plain copy, and channels_last at once.
        pixels = torch.stack([image.permute(1, 2, 0) for image in images])
        return Batch(pixels.permute(0, 3, 1, 2), torch.tensor(labels), list(indices))


class _Collate(Generic[SampleT, BatchT_co]):
    """Make a batch of samples, or pass the first failure on."""

    def __init__(self, collate: Callable[[Sequence[SampleT]], BatchT_co]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[SampleT | Failure]) -> BatchT_co | Failure:
        good: list[SampleT] = []
        for sample in samples:
            if isinstance(sample, Failure):
                return sample
            good.append(sample)
        return self.collate(good)


class Batches(Generic[BatchT_co]):
    """Batches of a dataset in the sampler's order; reading processes, if any, live as long.

    Iterating raises UserError where an image cannot be read any more.
    """

    def __init__(
        self, dataset: ImageDataset[Any, BatchT_co], sampler: Sampler[list[Key]], workers: int
    ) -> None:
        self.sampler, self.images = sampler, dataset.images
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=_Collate(dataset.collate),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_ctrl_c_to_the_parent,
            # Its own generator: drawing from torch's would shift what a training draws after it.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[BatchT_co]:
        for batch in self._loader:
            if isinstance(batch, Failure):
                raise UserError(batch.message)
            yield batch


@dataclass(frozen=True, slots=True)
class Loaders(Generic[BatchT_co]):
    """Training batches, whose order the sampler decides, and validation batches."""

    train: Batches[BatchT_co]
    sampler: EpochSampler
    validation: Batches[BatchT_co]
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
