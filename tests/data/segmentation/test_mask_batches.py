"""How images and their masks come together."""

from pathlib import Path

import pytest
import torch
from mask_files import paint_image, paint_mask, small_set
from torch import Tensor

from resnestkit.data.loaders import Batches, EpochSampler, InOrder
from resnestkit.data.segmentation.batches import SegmentationDataset
from resnestkit.data.segmentation.sources import load_segmentation_source
from resnestkit.data.segmentation.transforms import SegmentationAugmentation, SegmentationTransform
from resnestkit.errors import UserError
from resnestkit.preprocessing import Preprocessing

TRANSFORM = SegmentationTransform(SegmentationAugmentation(20, (0.5, 2.0), 10), Preprocessing())


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_are_stacked_and_keyed_by_epoch(tmp_path: Path, workers: int) -> None:
    images = load_segmentation_source(str(small_set(tmp_path))).splits["train"]
    sampler = EpochSampler(4, 2, seed=3)
    batches = Batches(SegmentationDataset(images, TRANSFORM, seed=3), sampler, workers)
    first, again = list(batches), list(batches)
    sampler.set_position(1)
    other = list(batches)
    assert [len(batch) for batch in first] == [2, 2]
    assert sorted(index for batch in first for index in batch.indices) == [0, 1, 2, 3]
    for one, two in zip(first, again, strict=True):
        assert isinstance(one.images, Tensor)
        assert isinstance(one.masks, Tensor)
        assert one.images.shape == (2, 3, 10, 10)
        assert one.images.is_contiguous(memory_format=torch.channels_last)
        assert one.masks.shape == (2, 10, 10)
        assert one.images.dtype == one.masks.dtype == torch.uint8
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.masks, two.masks)
    drawn = {batch.indices[0]: batch.images[0] for batch in first}
    assert any(not torch.equal(batch.images[0], drawn.get(batch.indices[0], batch.images[0] + 1))
               for batch in other)  # fmt: skip


def test_images_of_several_sizes_are_evaluated_as_they_are(tmp_path: Path) -> None:
    small_set(tmp_path)
    paint_image(tmp_path / "images/val/val11.jpg", (9, 7))
    paint_mask(tmp_path / "labels/val/val11.png", size=(9, 7))
    images = load_segmentation_source(str(tmp_path)).splits["val"]
    (batch,) = Batches(SegmentationDataset(images), InOrder(2, 2), 0)
    assert isinstance(batch.images, list)
    assert isinstance(batch.masks, list)
    assert [image.shape for image in batch.images] == [(3, 12, 16), (3, 9, 7)]
    assert [mask.shape for mask in batch.masks] == [(12, 16), (9, 7)]
    assert torch.equal(batch.masks[1], images.mask(1))
    assert batch.indices == [0, 1]
    single = list(Batches(SegmentationDataset(images), InOrder(2, 1), 0))
    assert [one.images.shape for one in single if isinstance(one.images, Tensor)] == [
        (1, 3, 12, 16),
        (1, 3, 9, 7),
    ]


@pytest.mark.parametrize("folder", ["images", "labels"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_went_bad_is_one_sentence(tmp_path: Path, folder: str, workers: int) -> None:
    images = load_segmentation_source(str(small_set(tmp_path))).splits["train"]
    next((tmp_path / folder / "train").glob("train2.*")).unlink()
    with pytest.raises(UserError, match=r"can no longer be read: .*train2\.\w+: No such file"):
        list(Batches(SegmentationDataset(images, TRANSFORM, 1), InOrder(4, 2), workers))
