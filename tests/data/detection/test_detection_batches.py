"""Which images come together, and how they travel."""

from pathlib import Path

import pytest
import torch
from coco_files import small_set
from hypothesis import given
from hypothesis import strategies as st

from resnestkit.data.detection.batches import DetectionBatch, DetectionDataset
from resnestkit.data.detection.sources import load_detection_source
from resnestkit.data.detection.transforms import DetectionAugmentation, DetectionTransform
from resnestkit.data.loaders import Batches, EpochSampler, GroupedSampler, InOrder, Key
from resnestkit.errors import UserError

GROUPS = st.lists(st.integers(0, 2), min_size=1, max_size=60)


def images_of(batches: list[list[Key]]) -> list[list[int]]:
    return [[key.image for key in batch] for batch in batches]


@given(GROUPS, st.integers(1, 7), st.integers(0, 99))
def test_groups_stay_together_and_no_more_is_left_out(
    groups: list[int], batch: int, seed: int
) -> None:
    sampler = GroupedSampler(groups, batch, seed)
    plain = EpochSampler(len(groups), batch, seed)
    made = images_of(list(sampler))
    assert len(made) == len(sampler) == len(plain)
    assert [len(one) for one in made] == [len(one) for one in plain]
    shown = [image for one in made for image in one]
    assert len(shown) == len(set(shown))
    mixed = [one for one in made if len({groups[image] for image in one}) > 1]
    assert len(mixed) <= len(set(groups)) - 1
    assert mixed == made[len(made) - len(mixed) :]


def test_one_group_is_the_plain_order() -> None:
    plain, grouped = EpochSampler(50, 4, 3), GroupedSampler([1] * 50, 4, 3)
    for sampler in (plain, grouped):
        sampler.set_position(2, 1)
    assert list(plain) == list(grouped)


def test_groups_follow_seed_and_epoch_and_can_start_midway() -> None:
    groups = [i % 3 == 0 for i in range(60)]
    sampler = GroupedSampler([int(g) for g in groups], 4, seed=1)
    whole = list(sampler)
    sampler.set_position(0, 5)
    assert list(sampler) == whole[5:]
    sampler.set_position(1)
    assert images_of(list(sampler)) != images_of(whole)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_steps_of_one(ranks: int) -> None:
    groups = [int(i % 3 == 0) for i in range(100)]
    whole = images_of(list(GroupedSampler(groups, 2 * ranks, seed=4)))
    parts = [images_of(list(GroupedSampler(groups, 2, 4, rank, ranks))) for rank in range(ranks)]
    together = [[image for part in step for image in part] for step in zip(*parts, strict=True)]
    assert together == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_hold_targets_keyed_by_epoch(tmp_path: Path, workers: int) -> None:
    images = load_detection_source(str(small_set(tmp_path)), masks=True).splits["train"]
    transform = DetectionTransform(DetectionAugmentation(0.5, (20, 40), jitter=0.1))
    dataset = DetectionDataset(images, transform, seed=3, masks=True)
    sampler = GroupedSampler(images.orientations, 2, seed=3)

    def read(epoch: int, through: int) -> list[DetectionBatch]:
        sampler.set_position(epoch)
        return list(Batches(dataset, sampler, through))

    first, again, later = read(0, 0), read(0, workers), read(1, 0)
    assert len(first) == 2
    for one, two in zip(first, again, strict=True):
        assert one.indices == two.indices
        assert not one.annotations
        for target, other in zip(one.targets, two.targets, strict=True):
            assert torch.equal(target.boxes, other.boxes)
            assert torch.equal(target.labels, other.labels)
        assert all(torch.equal(a, b) for a, b in zip(one.images, two.images, strict=True))
        assert all(image.dtype == torch.uint8 for image in one.images)
    sizes = [{i: image.shape for batch in run for i, image in zip(batch.indices, batch.images,
             strict=True)} for run in (first, later)]  # fmt: skip
    assert sizes[0] != sizes[1]


def test_evaluation_batches_hold_what_the_file_says(tmp_path: Path) -> None:
    images = load_detection_source(str(small_set(tmp_path))).splits["val"]
    batches = list(Batches(DetectionDataset(images), InOrder(4, 3), 0))
    assert [len(batch) for batch in batches] == [3, 1]
    assert [one.image_id for batch in batches for one in batch.annotations] == [10, 11, 12, 13]
    assert batches[0].images[1].shape == (3, 40, 30)
    assert not batches[0].targets
    assert batches[0].annotations[2].crowd.tolist() == [False, True]


def test_orientations_follow_left_out_images(tmp_path: Path) -> None:
    images = load_detection_source(str(small_set(tmp_path))).splits["train"]
    assert images.orientations == [1, 0, 0, 1]
    assert images.subset([3, 1]).orientations == [1, 0]
    assert images.subset([3, 1]).subset([1]).annotations(0).image_id == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_went_bad_is_one_sentence(tmp_path: Path, workers: int) -> None:
    images = load_detection_source(str(small_set(tmp_path))).splits["train"]
    (tmp_path / "images" / "train2.png").unlink()
    with pytest.raises(UserError, match=r"can no longer be read: .*train2\.png"):
        list(Batches(DetectionDataset(images), InOrder(4, 2), workers))
