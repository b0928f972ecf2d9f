"""Every mask is read before a training: bad ones are named, good ones are counted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mask_files import paint_image, paint_mask, small_set
from PIL import Image

from resnestkit.data.check import refuse_unreadable
from resnestkit.data.segmentation.check import (
    ClassCounts,
    check_classes,
    check_segmentation_images,
    count_pixels,
)
from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.data.segmentation.sources import load_segmentation_source
from resnestkit.data.segmentation.table import SegmentationImages
from resnestkit.errors import UserError

PLENTY = 2**20


def train_images(root: Path) -> SegmentationImages:
    return load_segmentation_source(str(root)).splits["train"]


@pytest.mark.parametrize("cache_bytes", [0, PLENTY])
def test_images_and_masks_are_kept_if_they_fit(tmp_path: Path, cache_bytes: int) -> None:
    images = train_images(small_set(tmp_path))
    done: list[int] = []
    checked = check_segmentation_images(images, cache_bytes=cache_bytes, advance=done.append)
    assert sum(done) == checked.stats.count == len(checked.looks) == 4
    assert checked.in_memory == bool(cache_bytes)
    assert checked.cached_bytes == (4 * 4 * 12 * 16 if cache_bytes else 0)
    kept = checked.images
    assert isinstance(kept, SegmentationImages)
    for index in range(4):
        assert torch.equal(kept.mask(index), images.mask(index))
        assert torch.equal(kept.read(index), images.read(index))
    for path in (tmp_path / "labels/train").iterdir():
        path.unlink()
    if cache_bytes:
        assert kept.mask(1).unique().tolist() == [0, 1, 2]


def test_masks_stay_in_their_files_where_only_the_pictures_fit(tmp_path: Path) -> None:
    images = load_segmentation_source(str(small_set(tmp_path)), channels=1).splits["train"]
    checked = check_segmentation_images(images, cache_bytes=4 * 12 * 16 * 3 // 2)
    assert checked.cached_bytes == 4 * 12 * 16
    assert isinstance(checked.images, SegmentationImages)
    assert not checked.images.kept
    assert checked.images.mask(3).unique().tolist() == [0, 1, 2]


def spoil(root: Path) -> None:
    """Of ten training images four are good."""
    labels = root / "labels/train"
    paint_mask(labels / "train0.png", size=(16, 12))
    paint_mask(labels / "train1.png", size=(6, 8))
    Image.new("RGB", (16, 12)).save(labels / "train2.png")
    paint_mask(labels / "train3.png", (0, 9))
    paint_image(root / "images/train/bare.jpg")
    (root / "images/train/train4.jpg").write_bytes(b"no picture")


@pytest.mark.parametrize("cache_bytes", [0, PLENTY])
def test_what_is_wrong_is_named_and_left_out(tmp_path: Path, cache_bytes: int) -> None:
    spoil(small_set(tmp_path, {"train": 9, "val": 9}))
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    images = train_images(tmp_path)
    checked = check_segmentation_images(images, cache_bytes=cache_bytes)
    said = {Path(one.name).name: one.reason for one in checked.unreadable}
    assert said["train0.jpg"] == "its mask is 12x16, and it is 16x12, as if it lay on its side"
    assert said["train1.jpg"] == "its mask is 8x6, and it is 16x12"
    assert said["train2.png"] == "it is saved in colours (RGB), not as class indices"
    assert said["train3.png"] == "its number 9 (96 pixels) is of no class; the 3 classes are 0 to 2"
    assert said["train4.jpg"] == "not an image"
    assert said["bare.jpg"] == "it has no mask"
    kept = checked.images
    assert isinstance(kept, SegmentationImages)
    assert [Path(name).stem for name in kept.names] == [f"train{i}" for i in (5, 6, 7, 8)]
    assert [kept.mask(i).shape for i in range(4)] == [(12, 16)] * 4
    assert checked.counts.images.tolist() == [4, 4, 4]
    with pytest.raises(UserError, match=r"6 of 10 images cannot be read: .* --skip-unreadable"):
        refuse_unreadable([checked])


def test_nothing_left_is_one_sentence(tmp_path: Path) -> None:
    images = train_images(small_set(tmp_path))
    for path in (tmp_path / "labels/train").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="4 of 4 images cannot be read"):
        check_segmentation_images(images, cache_bytes=PLENTY)


def test_masks_are_kept_as_they_were_relabelled(tmp_path: Path) -> None:
    images = train_images(small_set(tmp_path)).relabelled([4, 0, 2])
    checked = check_segmentation_images(images, cache_bytes=PLENTY)
    assert isinstance(checked.images, SegmentationImages)
    assert torch.equal(checked.images.mask(0), images.mask(0))
    assert checked.counts.pixels.tolist() == [240, 0, 240, 0, 288]


@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=6))
def test_counts_are_those_of_a_plain_loop(masks: list[list[int]]) -> None:
    numbers = [[IGNORE if value == 5 else value for value in mask] for mask in masks]
    counts = count_pixels([np.bincount(mask, minlength=256) for mask in numbers], 5)
    for label in range(5):
        showing = [mask for mask in numbers if label in mask]
        assert counts.pixels[label] == sum(mask.count(label) for mask in numbers)
        assert counts.images[label] == len(showing)
        assert counts.around[label] == sum(value != IGNORE for mask in showing for value in mask)
    assert counts.ignored == sum(mask.count(IGNORE) for mask in numbers)
    assert counts.blank == sum(all(value == IGNORE for value in mask) for mask in numbers)
    assert counts.shares.sum() == pytest.approx(1 if counts.pixels.sum() else 0)


def test_rare_classes_weigh_more() -> None:
    tallies = [np.bincount([0] * 6 + [1] * 2, minlength=256), np.bincount([0] * 8, minlength=256)]
    weights = count_pixels(tallies, 3).balanced_weights()
    # The first has 14 of 16 pixels, the second 2 of 8 in the image that shows it; the third none.
    assert weights == pytest.approx((0.5625 / 0.875, 0.5625 / 0.25, 1.0))
    blank = count_pixels([np.bincount([IGNORE], minlength=256)], 2)
    assert blank.balanced_weights() == (1.0, 1.0)
    assert blank.ignored_share == 1


def counts_of(pixels: list[int], ignored: int = 0, blank: int = 0) -> ClassCounts:
    array = np.array(pixels)
    return ClassCounts(array, (array > 0).astype(np.int64), array, ignored, blank)


def test_classes_that_are_nowhere_or_in_one_split_alone() -> None:
    classes = ("sky", "road", "tree", "lamp", "kerb", "car")
    counts = {"train": counts_of([5, 5, 0, 0, 0, 1]), "val": counts_of([5, 0, 3, 0, 0, 1])}
    told = [str(finding) for finding in check_classes(counts, classes)]
    assert told == [
        "The class 'road' is seen in training alone. How well it is found cannot be measured.",
        "The class 'tree' is seen in val alone, never in training. It cannot be learnt, and lowers "
        "every mean.",
        "No image shows the classes 'lamp', 'kerb'. They cannot be learnt.",
    ]
    counts = {"train": counts_of([5, 5]), "val": counts_of([1, 1], ignored=8, blank=3)}
    told = [str(finding) for finding in check_classes(counts, classes[:2])]
    assert told == [
        "80% of the pixels of val have no class. Nothing is learnt or measured there.",
        "3 images of val without a single pixel that has a class. Leave them out: they teach "
        "nothing.",
    ]
    assert check_classes({"train": counts_of([5, 5])}, classes[:2]) == []
