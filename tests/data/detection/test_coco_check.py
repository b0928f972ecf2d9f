"""What is wrong in annotation files is said, with counts and examples, and nothing is lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CATEGORIES, content, image, paint, polygon, small_set, thing, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnestkit.data.check import refuse_unreadable
from resnestkit.data.detection import check
from resnestkit.data.detection.check import check_detection_images
from resnestkit.data.detection.coco import Category, CocoFile
from resnestkit.data.detection.sources import inspect_detection_source, load_detection_source
from resnestkit.data.detection.table import DetectionImages, clip_boxes
from resnestkit.data.findings import Finding
from resnestkit.data.images import MemoryImages
from resnestkit.errors import UserError

IMAGES = [image(i, f"{i}.png") for i in range(6)]
GOOD = [thing(i + 1, i, 3 if i % 2 else 7, 1 + i, 2, 9, 8 + i) for i in range(6)]


@pytest.fixture
def findings(tmp_path: Path) -> Callable[..., list[Finding]]:
    def find(
        things: list[Any], images: list[Any] = IMAGES, *, masks: bool = False, **more: Any
    ) -> list[Finding]:
        paint(tmp_path, images)
        file = write(tmp_path / "labels.json", content(images, things, **more))
        source = inspect_detection_source(str(file), masks=masks)
        return [one for one in source.findings if "seen in" not in one.text]

    return find


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, [str(one) for one in found]
    return found[0]


def test_a_good_file_has_no_findings(findings: Callable[..., list[Finding]]) -> None:
    assert findings(GOOD) == []


def test_boxes_outside_are_said_and_clipped(findings: Callable[..., list[Finding]]) -> None:
    found = only(findings([*GOOD, thing(9, 2, 3, 30, 5, 17, 5), thing(10, 3, 3, 0, 25, 4, 8)]))
    assert "2 boxes outside the image by up to 7 pixels: annotation 9 of 2.png" in found.text
    assert not found.refused
    assert findings([*GOOD, thing(9, 2, 3, 30, 5, 10.3, 5)]) == []  # tools round


def test_boxes_without_area_are_said_and_left_out(
    findings: Callable[..., list[Finding]], tmp_path: Path
) -> None:
    bad = [(5, 5, 0, 9), (5, 5, 9, -3), (60, 5, 9, 9)]
    things = [*GOOD, *(thing(20 + i, i, 3, *box) for i, box in enumerate(bad))]
    found = only(findings(things))
    assert "3 boxes without area inside the image: annotation 20 of 0.png" in found.text
    assert not found.refused
    source = inspect_detection_source(str(tmp_path / "labels.json"))
    splits = list(source.splits.values())
    every = [images.annotations(i) for images in splits for i in range(len(images))]
    assert sum(len(one.labels) for one in every) == 9
    assert sum(len(one.target(masks=False).labels) for one in every) == 6


@pytest.mark.parametrize(
    ("things", "said"),
    [
        ([thing(9, 77, 3, 1, 1, 5, 5)], r"1 annotation of images that it does not list: ann.* 9"),
        ([thing(9, 0, 4, 1, 1, 5, 5)], r"of unknown categories \(4\); it lists 3, 7"),
        ([thing(9, 0, 3, 1, 1, 5, 5, bbox=[1, 2, 3])], r"1 annotation whose bbox is not four"),
        ([thing(9, 0, 3, 1, 1, 5, 5, bbox=[1, 2, 3, None])], r"whose bbox is not four numbers"),
        ([thing(9, 0, 3, 1, 1, 5, 5, bbox=[1, 2, 3, 1e400])], r"whose bbox is not four numbers"),
    ],
)
def test_what_would_be_lost_is_refused(
    findings: Callable[..., list[Finding]], tmp_path: Path, things: list[Any], said: str
) -> None:
    assert only(findings([*GOOD, *things])).refused
    with pytest.raises(UserError, match=said):
        load_detection_source(str(tmp_path / "labels.json"))


def test_double_numbers(findings: Callable[..., list[Finding]]) -> None:
    found = only(findings([*GOOD, thing(1, 4, 3, 9, 9, 9, 9)]))
    assert "1 annotation id to several annotations: 1." in found.text
    assert not found.refused
    twice = [*IMAGES, image(3, "other.png")]
    found = next(one for one in findings(GOOD, twice) if one.refused)
    assert "1 image id to several images: 3." in found.text
    found = findings(GOOD, [*IMAGES, image(9, "3.png")])[0]
    assert "lists 1 image twice or more: 3.png" in found.text
    found = only(findings([*GOOD, {**GOOD[0], "id": 99}]))
    assert "1 annotations whose box and class are there already" in found.text


def test_images_without_annotation_and_crowds_are_notes(
    findings: Callable[..., list[Finding]],
) -> None:
    bare, crowds = findings([*GOOD[:4], thing(9, 0, 3, 1, 1, 30, 20, iscrowd=1)])
    assert "2 of 6 images without annotation; they are kept as background" in str(bare)
    assert "1 crowd region;" in str(crowds)
    assert bare.severity == crowds.severity == "note"


def corners(random: np.random.Generator, count: int, reach: float) -> list[Any]:
    """Boxes as left, top, right, bottom."""
    made = []
    for i in range(count):
        left, top = random.uniform(1, reach * 30), random.uniform(1, reach * 20)
        box = left, top, random.uniform(left + 2, 40), random.uniform(top + 2, 30)
        made.append(thing(i + 1, i % 6, 3, *box))
    return made


def test_corners_for_sizes_are_refused_by_their_statistics(
    findings: Callable[..., list[Finding]],
) -> None:
    random = np.random.default_rng(0)
    found = next(one for one in findings(corners(random, 12, 1.0)) if one.refused)
    assert "as [left, top, right, bottom] where COCO has [left, top, width, height]" in found.text
    assert "Write each bbox as [left, top, width, height]." in found.remedy
    # Boxes near the upper left corner never leave the image: likely, but not sure.
    near = [thing(i + 1, i % 6, 3, 2 + i % 4, 1 + i % 3, 9 + i, 8 + i / 2) for i in range(24)]
    found = next(one for one in findings(near) if "may have boxes as" in one.text)
    assert not found.refused


def test_boxes_that_are_a_little_too_large_are_not_corners(
    findings: Callable[..., list[Finding]],
) -> None:
    pictures = [image(i, f"{i}.png", 100, 100) for i in range(10)]
    careless = [thing(i + 1, i, 3 if i % 2 else 7, 5, 5, 97, 97) for i in range(10)]
    found = only(findings(careless, pictures))
    assert "10 boxes outside the image by up to 2 pixels" in found.text
    assert not found.refused


@given(st.integers(0, 10_000), st.integers(3, 60))
def test_true_sizes_are_not_taken_for_corners(seed: int, count: int) -> None:

    random = np.random.default_rng(seed)
    start = random.uniform(0, [38, 28], (count, 2))
    size = random.uniform(1, 1, (count, 2)) + random.uniform(0, 1, (count, 2)) * (
        np.array([39, 29]) - start
    )
    file = CocoFile(
        Path("x"), (Category(1, "a"),), [0], ["a"], np.array([[30, 40]]), list(range(count)),
        np.zeros(count, np.int64), np.zeros(count, np.int64), (),
        np.concatenate([start, size], 1), size.prod(1), np.zeros(count, bool), [b""] * count, False,
    )  # fmt: skip
    assert not any(one.refused for one in check._find_corners(file, file.sizes))


def test_masks_are_looked_at_where_they_are_needed(
    findings: Callable[..., list[Finding]],
) -> None:
    drawn = [{**one, "segmentation": polygon(*one["bbox"])} for one in GOOD]
    assert findings(drawn, masks=True) == []
    assert findings(GOOD) == []
    found = only(findings([*drawn[:4], *GOOD[4:]], masks=True))
    assert "no segmentation for 2 of 6 objects: annotation 5 of 4.png" in found.text
    assert found.refused
    for broken, why in (
        ([[1, 2, 3, 4]], "a polygon of 4 numbers"),
        ([[1, 2, 3, "x", 5, 6]], "a polygon is a list of numbers"),
        ({"size": [9, 9], "counts": [81]}, "it is of [9, 9], not of [30, 40]"),
        ({"size": [30, 40], "counts": [5]}, "Invalid RLE"),
        ({"counts": [5]}, "neither polygons nor run lengths"),
        ("words", "neither polygons nor run lengths"),
    ):
        found = only(findings([{**drawn[0], "segmentation": broken}, *drawn[1:]], masks=True))
        assert found.refused
        assert "1 segmentation that cannot be drawn: annotation 1 of 0.png" in found.text
        assert why in found.text
    empty = {**drawn[0], "segmentation": [[5, 5, 5.1, 5, 5.1, 5.1]]}
    found = only(findings([empty, *drawn[1:]], masks=True))
    assert "without a single pixel: annotation 1" in found.text
    assert not found.refused


def test_classes_of_one_split_alone(tmp_path: Path) -> None:
    small_set(tmp_path)
    file = tmp_path / "annotations" / "instances_train.json"
    text = file.read_text()
    file.write_text(text.replace('"category_id": 3', '"category_id": 7'))
    found = [str(one) for one in load_detection_source(str(tmp_path)).findings]
    assert any("'dog' is seen in val alone, never in training" in one for one in found)
    file.write_text(text)
    val = tmp_path / "annotations" / "instances_val.json"
    val.write_text(text.replace('"category_id": 3', '"category_id": 7'))
    found = [str(one) for one in load_detection_source(str(tmp_path)).findings]
    assert any("'dog' is seen in training alone" in one for one in found)
    assert any("4 images listed in two splits, or twice in one" in one for one in found)
    bird = [*CATEGORIES, {"id": 9, "name": "bird"}]
    for one in (file, val):
        write(one, {**content([], []), **json.loads(text), "categories": bird})
    found = [str(one) for one in load_detection_source(str(tmp_path)).findings]
    assert any("No image shows the class 'bird'" in one for one in found)


@pytest.mark.parametrize("cache", [0, 2**20])
def test_pictures_are_read_once_and_the_bad_ones_named(tmp_path: Path, cache: int) -> None:
    small_set(tmp_path)
    folder = tmp_path / "images"
    (folder / "train0.png").unlink()
    (folder / "train2.png").write_bytes(b"words")
    Image.new("RGB", (40, 30)).save(folder / "train1.png")  # lies on its side
    source = load_detection_source(str(tmp_path))
    assert any("1 of 4 images cannot be found" in str(one) for one in source.findings)
    checked = check_detection_images(source.splits["train"], cache_bytes=cache)
    with pytest.raises(UserError, match=r"3 of 4 .*train1\.png: its boxes are for 30x40, and it "):
        refuse_unreadable([checked])
    left = checked.images
    assert isinstance(left, DetectionImages)
    assert isinstance(left.pictures, MemoryImages) == (cache > 0)
    assert [Path(name).name for name in left.names] == ["train3.png"]
    assert left.annotations(0).image_id == 3
    assert left.read(0).shape == (3, 30, 40)
    assert len(checked.looks) == checked.stats.count == 1
    assert any("as if it lay on its side" in one.reason for one in checked.unreadable)


def test_pictures_that_are_all_of_another_size_are_refused(tmp_path: Path) -> None:
    small_set(tmp_path)
    for picture in (tmp_path / "images").iterdir():
        Image.new("RGB", (9, 9)).save(picture)
    images = load_detection_source(str(tmp_path)).splits["train"]
    with pytest.raises(UserError, match=r"4 of 4 images cannot be read: .*it is 9x9.*remove them"):
        check_detection_images(images, cache_bytes=0)


def test_good_pictures_stay_in_order_in_memory(tmp_path: Path) -> None:
    source = load_detection_source(str(small_set(tmp_path)))
    checked = check_detection_images(source.splits["val"], cache_bytes=2**20)
    assert isinstance(checked.images, DetectionImages)
    assert [checked.images.annotations(i).image_id for i in range(4)] == [10, 11, 12, 13]
    assert checked.in_memory
    refuse_unreadable([checked])


@given(st.integers(0, 1000))
def test_clipped_boxes_lie_in_their_images(seed: int) -> None:
    random = np.random.default_rng(seed)
    boxes = random.uniform(-50, 90, (7, 4))
    sizes = random.integers(1, 60, (7, 2))
    clipped = clip_boxes(boxes, sizes)
    assert (clipped >= 0).all()
    assert (clipped <= np.tile(sizes[:, ::-1], 2)).all()
    inside = (boxes >= 0).all(1) & (boxes[:, :2] + boxes[:, 2:] <= sizes[:, ::-1]).all(1)
    assert np.allclose(clipped[inside, 2:] - clipped[inside, :2], boxes[inside, 2:])
