"""Which images come when."""

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from resnestkit.data.augmentation import Augmentation, TrainingTransform
from resnestkit.data.images import FileImages, MemoryImages
from resnestkit.data.loaders import (
    Batch,
    Batches,
    EpochSampler,
    InOrder,
    TransformedImages,
    choose_workers,
)
from resnestkit.data.transforms import EvaluationTransform
from resnestkit.errors import UserError
from resnestkit.preprocessing import Preprocessing


@pytest.fixture
def images() -> MemoryImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (11, 3, 12, 12), generator=generator, dtype=torch.uint8)
    return MemoryImages(list(pixels), list(range(11)), [str(i) for i in range(11)])


def test_an_epoch_shows_each_image_at_most_once_and_drops_the_rest() -> None:
    sampler = EpochSampler(11, 4, seed=0)
    shown = [key.image for batch in sampler for key in batch]
    assert len(sampler) == 2
    assert len(shown) == len(set(shown)) == 8


def test_a_small_set_is_one_batch() -> None:
    assert [len(batch) for batch in EpochSampler(3, 8, seed=0)] == [3]


def test_order_follows_seed_and_epoch_and_can_start_midway() -> None:
    sampler = EpochSampler(40, 4, seed=1)
    whole = list(sampler)
    sampler.set_position(0, 3)
    assert list(sampler) == whole[3:]
    sampler.set_position(1)
    assert [k.image for b in sampler for k in b] != [k.image for b in whole for k in b]
    assert all(key.epoch == 1 for batch in sampler for key in batch)


def test_in_order_shows_every_image_once() -> None:
    sampler = InOrder(11, 4)
    assert [len(batch) for batch in sampler] == [4, 4, 3]
    assert [key.image for batch in sampler for key in batch] == list(range(11))
    assert len(sampler) == 3


def test_workers_change_nothing(images: MemoryImages) -> None:
    transform = TrainingTransform(Preprocessing(8, 1.0), Augmentation("resized"))

    def batches(workers: int) -> list[Batch]:
        dataset = TransformedImages(images, transform, seed=3)
        return list(Batches(dataset, EpochSampler(11, 4, seed=3), workers))

    for ours, theirs in zip(batches(0), batches(2), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.indices == theirs.indices == ours.labels.tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_went_bad_is_one_sentence(tmp_path: Path, workers: int) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    images = FileImages(paths, [0, 1, 0, 1])
    paths[2].write_bytes(b"")
    dataset = TransformedImages(images, EvaluationTransform(Preprocessing(8, 1.0)), None)
    with pytest.raises(UserError, match=r"^An image can no longer be read: .*2\.png: .* empty\.$"):
        list(Batches(dataset, InOrder(4, 2), workers))


def test_transforms_travel_to_processes_that_do_not_fork() -> None:
    for transform in (
        EvaluationTransform(Preprocessing(8)),
        TrainingTransform(Preprocessing(8), Augmentation("pad")),
    ):
        image = torch.zeros(3, 9, 9, dtype=torch.uint8)
        assert pickle.loads(pickle.dumps(transform))(image).shape == (3, 8, 8)


def test_workers_are_as_asked_or_chosen() -> None:
    assert choose_workers(3, in_memory=True) == 3
    assert choose_workers(None, in_memory=False) >= 1
