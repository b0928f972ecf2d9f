"""COCO's panoptic form: classes and segments from colours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mask_files import CATEGORIES, SEGMENTS, paint_image, paint_panoptic
from PIL import Image

from resnestkit.data.detection.layout import looks_like_detection
from resnestkit.data.detection.sources import load_detection_source
from resnestkit.data.images import UnreadableImage
from resnestkit.data.segmentation.check import check_segmentation_images
from resnestkit.data.segmentation.layout import looks_like_segmentation
from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.data.segmentation.sources import (
    inspect_segmentation_source,
    load_segmentation_for_evaluation,
    load_segmentation_source,
)
from resnestkit.data.segmentation.table import SegmentationImages
from resnestkit.data.sources import TrainedOn
from resnestkit.errors import UserError

COLUMNS = [0, 4, 5, 9, 10, 14, 15]


def test_classes_and_segments(tmp_path: Path) -> None:
    paint_panoptic(tmp_path)
    paint_panoptic(tmp_path, "val")
    assert looks_like_segmentation(tmp_path)
    assert not looks_like_detection(tmp_path)
    source = load_segmentation_source(str(tmp_path))
    assert list(source.splits) == ["train", "val"]
    assert source.classes == ("cat", "sky")
    assert source.things == (True, False)
    assert source.palette == ((200, 0, 0), (10, 20, 30))
    images = source.splits["val"]
    assert images.has_segments
    assert images.classes == 2
    mask, segments = images.mask(1), images.segments(1)
    assert mask[3, COLUMNS].tolist() == [1, 1, 0, 0, 0, 0, IGNORE]
    assert segments.numbers[3, COLUMNS].tolist() == [70_000, 70_000, 2, 2, 300, 300, 0]
    told = [(one.number, one.label, one.is_thing, one.is_crowd) for one in segments.segments]
    assert told == [(2, 0, True, False), (300, 0, True, True), (70_000, 1, False, False)]
    for one in segments.segments:
        assert (mask[segments.numbers == one.number] == one.label).all()


def test_segments_follow_the_checkpoints_classes_and_what_is_kept(tmp_path: Path) -> None:
    paint_panoptic(tmp_path)
    paint_panoptic(tmp_path, "val", 3)
    untrained = TrainedOn("elsewhere", "", None, 0)
    chosen = load_segmentation_for_evaluation(str(tmp_path), 3, ("sky", "sea", "cat"), untrained)
    (tmp_path / "val/1.jpg").unlink()
    checked = check_segmentation_images(chosen.images, cache_bytes=2**20)
    kept = checked.images
    assert isinstance(kept, SegmentationImages)
    assert len(kept) == 2
    assert kept.mask(1)[3, COLUMNS].tolist() == [0, 0, 2, 2, 2, 2, IGNORE]
    assert [one.label for one in kept.segments(1).segments] == [2, 2, 0]
    assert checked.counts.images.tolist() == [2, 0, 2]


@pytest.mark.parametrize("name", ["panoptic.json", "my_things.json"])
def test_a_single_file_is_divided(tmp_path: Path, name: str) -> None:
    path = paint_panoptic(tmp_path, count=5).rename(tmp_path / "annotations" / name)
    (tmp_path / "annotations/panoptic_train").rename(path.with_suffix(""))
    (tmp_path / "train").rename(tmp_path / "images")
    assert looks_like_segmentation(path)
    source = load_segmentation_source(str(path))
    assert {split: len(images) for split, images in source.splits.items()} == {"train": 4, "val": 1}
    assert source.splits["val"].segments(0).numbers.dtype == torch.int32


def test_the_folder_of_a_lone_file_is_no_detection(tmp_path: Path) -> None:
    paint_panoptic(tmp_path, "val2017")
    assert looks_like_segmentation(tmp_path)
    assert not looks_like_detection(tmp_path)
    with pytest.raises(UserError, match="has val but no train split"):
        load_segmentation_source(str(tmp_path))
    with pytest.raises(UserError, match="of another task, panoptic segmentation"):
        load_detection_source(str(tmp_path))


def change(root: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "annotations/panoptic_train.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda c: c.pop("categories"), "lacks a list of categories"),
        (lambda c: c.update(images=[]), "lists no images"),
        (lambda c: c["annotations"][0].pop("segments_info"), "annotation 1 of the list has no seg"),
        (lambda c: c["annotations"][1].pop("file_name"), "image 2 of the list has no file_name"),
        (lambda c: c["annotations"][1].update(image_id=0), "annotates the image 0 twice"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=0), "id 0, which no colour"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=2**24), "which no colour"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=2), "two segments of one id"),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(category_id=[5]),
            r"segments of categories that it does not list: \[5\]",
        ),
        (
            lambda c: c["annotations"][0].update(image_id=77),
            "annotates 1 image that it does not list: 77",
        ),
        (lambda c: c["categories"].pop(0), "has one class; a segmenter needs two"),
        (lambda c: c["categories"][0].update(name="cat"), "two categories of the name 'cat'"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any], said: str
) -> None:
    paint_panoptic(tmp_path)
    change(tmp_path, edit)
    with pytest.raises(UserError, match=said):
        load_segmentation_source(str(tmp_path))


def test_files_that_disagree_or_stand_beside_each_other(tmp_path: Path) -> None:
    paint_panoptic(tmp_path)
    paint_panoptic(tmp_path, "val", categories=[CATEGORIES[0], {"id": 4, "name": "dog"}])
    with pytest.raises(UserError, match="another file calls"):
        load_segmentation_source(str(tmp_path))
    paint_panoptic(tmp_path, "train2017")
    with pytest.raises(UserError, match="has two annotation files for train"):
        load_segmentation_source(str(tmp_path))


def test_masks_that_are_nowhere(tmp_path: Path) -> None:
    paint_panoptic(tmp_path)
    for path in (tmp_path / "annotations/panoptic_train").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"None of the masks of .* such as 0\.png. They belong"):
        load_segmentation_source(str(tmp_path))


def test_what_is_missing_is_said_and_named_when_read(tmp_path: Path) -> None:
    paint_panoptic(tmp_path, count=6)
    change(tmp_path, lambda content: content["annotations"].pop(0))
    folder = tmp_path / "annotations/panoptic_train"
    (folder / "1.png").unlink()
    (tmp_path / "train/2.jpg").unlink()
    Image.fromarray(np.full((12, 16, 3), 9, np.uint8)).save(folder / "3.png")
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(folder / "4.png")
    found = [str(finding) for finding in inspect_segmentation_source(str(tmp_path)).findings]
    assert any("has no annotation of 1 image: 0.jpg" in one for one in found)
    assert any("1 of 6 masks cannot be found" in one for one in found)
    assert any("1 of 6 images cannot be found" in one for one in found)
    source = load_segmentation_source(str(tmp_path), holdout=0.01)
    names = {Path(name).stem: (images, index) for images in source.splits.values()
             for index, name in enumerate(images.names)}  # fmt: skip
    said = {}
    for stem, (images, index) in sorted(names.items()):
        try:
            images.mask(index)
        except UnreadableImage as error:
            said[stem] = error.reason
    assert said == {
        "0": "it has no mask",
        "1": "No such file or directory",
        "3": f"its segment {9 * (1 + 256 + 65_536)} is not in the annotation file",
        "4": "it is not saved as exact colours (RGB)",
    }


def test_a_segment_that_no_pixel_shows_is_none(tmp_path: Path) -> None:
    paint_panoptic(tmp_path, count=3)
    hidden = {"id": 5, "category_id": 4, "iscrowd": 0}
    change(tmp_path, lambda c: c["annotations"][0].update(segments_info=[*SEGMENTS, hidden]))
    paint_image(tmp_path / "train/0.jpg")
    source = load_segmentation_source(str(tmp_path), holdout=0.01)
    for images in source.splits.values():
        for index in range(len(images)):
            assert [one.number for one in images.segments(index).segments] == [2, 300, 70_000]


def test_relabelled_annotations_are_another_set(tmp_path: Path) -> None:
    paint_panoptic(tmp_path, count=4)
    before = load_segmentation_source(str(tmp_path)).fingerprint
    assert load_segmentation_source(str(tmp_path)).fingerprint == before
    change(tmp_path, lambda c: c["annotations"][0]["segments_info"][1].update(category_id=9))
    assert load_segmentation_source(str(tmp_path)).fingerprint != before
