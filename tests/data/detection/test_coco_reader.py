"""COCO files and folders are recognised and read as they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as oracle
import pytest
import torch
from coco_files import CATEGORIES, content, image, paint, polygon, small_set, thing, write
from PIL import Image

from resnestkit.data.detection.layout import looks_like_coco, looks_like_voc
from resnestkit.data.detection.rle import decode_mask, encode_mask
from resnestkit.data.detection.sources import (
    inspect_detection_source,
    load_detection_for_evaluation,
    load_detection_source,
)
from resnestkit.data.sources import TrainedOn
from resnestkit.errors import UserError

UNTRAINED = TrainedOn("elsewhere", "", None, 0)


def test_classes_are_in_the_order_of_their_numbers_which_are_kept(tmp_path: Path) -> None:
    source = load_detection_source(str(small_set(tmp_path)))
    assert source.classes == ("dog", "cat")
    assert source.category_ids == (3, 7)
    assert list(source.splits) == ["train", "val"]
    assert source.validation == "val"
    annotations = source.splits["val"].annotations(0)
    assert annotations.image_id == 10
    assert annotations.labels.tolist() == [2, 1]
    assert annotations.boxes.tolist() == [[2, 3, 10, 8], [20, 5, 12, 20]]


def test_crowds_are_kept_but_not_learnt_and_bare_images_are_background(tmp_path: Path) -> None:
    images = load_detection_source(str(small_set(tmp_path)), masks=True).splits["train"]
    crowded, bare = images.annotations(2), images.annotations(3)
    assert crowded.crowd.tolist() == [False, True]
    target = crowded.target(masks=True)
    assert target.labels.tolist() == [1]
    assert target.boxes.tolist() == [[4, 0, 12, 36]]
    assert target.masks is not None
    assert target.masks[0].sum() == 8 * 36
    empty = bare.target(masks=True)
    assert empty.boxes.shape == (0, 4)
    assert empty.masks is not None
    assert empty.masks.shape == (0, 30, 40)


@pytest.mark.parametrize(
    ("places", "folders"),
    [
        (("annotations/instances_train.json", "annotations/instances_val.json"), ("images",) * 2),
        (
            ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
            ("train2017", "val2017"),
        ),
        (("train/_annotations.coco.json", "valid/_annotations.coco.json"), ("train", "valid")),
        (("train.json", "test.json"), ("images/train", "images/test")),
    ],
)
def test_every_layout_is_recognised(tmp_path: Path, places: Any, folders: Any) -> None:
    for number, (place, folder) in enumerate(zip(places, folders, strict=True)):
        images = [image(i, f"{number}_{i}.png") for i in range(2)]
        paint(tmp_path / folder, images)
        write(tmp_path / place, content(images, [thing(1, 0, 3, 1, 1, 9, 9)]))
    assert looks_like_coco(tmp_path)
    source = load_detection_source(str(tmp_path))
    assert [len(images) for images in source.splits.values()] == [2, 2]
    assert source.splits["train"].read(1).shape == (3, 30, 40)


@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_lone_file_is_divided_the_same_way_each_time(tmp_path: Path, given: str) -> None:
    images = [image(i, f"{i}.png") for i in range(10)]
    paint(tmp_path / "images", images)
    file = write(
        tmp_path / "labels.json", content(images, [thing(i, i, 3, 1, 1, 9, 9) for i in range(10)])
    )
    data = str(tmp_path if given == "folder" else file)
    assert looks_like_coco(data)
    source = load_detection_source(data, holdout=0.3, seed=5)
    train, val = source.splits["train"], source.splits["val"]
    assert (len(train), len(val)) == (7, 3)
    assert source.held_out == 0.3
    assert not set(train.names) & set(val.names)
    assert load_detection_source(data, holdout=0.3, seed=5).splits["val"].names == val.names
    assert load_detection_source(data, holdout=0.3, seed=6).splits["val"].names != val.names

    trained = TrainedOn(data, source.fingerprint, 0.3, 5)
    found = load_detection_for_evaluation(data, 3, source.classes, trained)
    assert found.images.names == val.names
    assert "held-out" in found.words
    whole = load_detection_for_evaluation(data, 3, source.classes, trained, "all")
    assert len(whole.images) == 10
    write(file, content(images, [thing(i, i, 3, 1, 1, 9, 8) for i in range(10)]))
    with pytest.raises(UserError, match="changed since the training"):
        load_detection_for_evaluation(data, 3, source.classes, trained)


def test_other_folders_are_not_taken_for_coco(tmp_path: Path, colours: Path) -> None:
    assert looks_like_coco("shapes")
    assert not looks_like_coco(colours)
    write(colours / "notes.json", {"words": 1})
    write(colours / "train.json", {"epochs": 1})
    assert not looks_like_coco(colours)
    assert not looks_like_coco(tmp_path / "nowhere")
    assert not looks_like_voc(colours)


def test_the_fingerprint_knows_boxes_classes_and_names(tmp_path: Path) -> None:
    def print_of(root: Path) -> str:
        return load_detection_source(str(root)).fingerprint

    one, moved = small_set(tmp_path / "one"), small_set(tmp_path / "two")
    assert print_of(one) == print_of(moved)
    file = moved / "annotations/instances_val.json"
    for old, new in (('"bbox": [2,', '"bbox": [1,'), ("[[2, 3,", "[[1, 3,"), ("dog", "cow")):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        if new == "cow":
            train = moved / "annotations/instances_train.json"
            train.write_text(train.read_text().replace(old, new))
        assert print_of(one) != print_of(moved)
        file.write_text(text)


# pycocotools itself, with numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "shape",
    [
        polygon(1.3, 2.2, 20.1, 9.4),
        [*polygon(1, 2, 5, 5), *polygon(20, 10, 8, 8)],
        {"size": [30, 40], "counts": [65, 40, 1095]},
        "compressed",
    ],
)
def test_masks_of_every_form_are_pycocotools(shape: Any) -> None:
    if shape == "compressed":
        grid = (np.random.default_rng(0).random((30, 40)) > 0.7).astype(np.uint8)
        shape = encode_mask(grid)
        assert np.array_equal(decode_mask(json.dumps(shape).encode(), 30, 40), grid)
    theirs = shape
    if isinstance(shape, list):
        theirs = oracle.merge(oracle.frPyObjects(shape, 30, 40))
    elif isinstance(shape["counts"], list):
        theirs = oracle.frPyObjects(shape, 30, 40)
    assert np.array_equal(decode_mask(json.dumps(shape).encode(), 30, 40), oracle.decode(theirs))


def test_sizes_that_the_file_lacks_are_read_as_the_picture_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.jpg", exif=exif)
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "b.png")
    images = [{"id": 0, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.png"}]
    things = [thing(1, 0, 3, 5, 5, 20, 30), thing(2, 1, 3, 5, 5, 20, 20)]
    file = write(tmp_path / "lone.json", content(images, things))
    found = load_detection_for_evaluation(str(file), 3, ("dog", "cat"), UNTRAINED).images
    sizes = [(found.annotations(i).height, found.annotations(i).width) for i in range(2)]
    assert sizes == [(40, 30), (30, 40)]
    assert found.read(0).shape == (3, 40, 30)


def test_labels_count_in_the_detectors_classes(tmp_path: Path) -> None:
    data = str(small_set(tmp_path, splits=("train", "val", "test")))
    found = load_detection_for_evaluation(data, 3, ("cat", "bird", "dog"), UNTRAINED)
    assert found.words == f"test split of {data}"
    assert found.images.annotations(0).labels.tolist() == [1, 3]
    assert found.category_ids == (7, 8, 3)
    val = load_detection_for_evaluation(data, 3, ("cat", "dog"), UNTRAINED, "val")
    assert [Path(name).name for name in val.images.names] == [f"val{i}.png" for i in range(4)]
    with pytest.raises(UserError, match=r"classes that the checkpoint does not know: cat\."):
        load_detection_for_evaluation(data, 3, ("dog",), UNTRAINED)
    with pytest.raises(UserError, match="has no all split; it has train, val, test"):
        load_detection_for_evaluation(data, 3, ("cat", "dog"), UNTRAINED, "all")


IMAGES = [image(0, "a.png")]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("{", r"not JSON"),
        ([1, 2], r"no COCO file: it must hold one object"),
        ([{"image_id": 1, "score": 0.5}], "holds results, not annotations"),
        ({"images": IMAGES}, "lacks a list of annotations"),
        ({"images": IMAGES, "annotations": [{"caption": "a"}]}, "another task, captions"),
        (
            content(IMAGES, [{"id": 1, "image_id": 0, "segments_info": []}]),
            "another task, panoptic segmentation",
        ),
        (content(IMAGES, [{"keypoints": [1, 2, 2]}]), "another task, keypoints"),
        (content(IMAGES, [{"image_id": 0, "category_id": 3}]), "another task, classification"),
        (content([], []), "lists no images"),
        ({**content(IMAGES, []), "categories": []}, "lists no categories"),
        ({**content(IMAGES, []), "categories": [*CATEGORIES, CATEGORIES[0]]}, "number 7"),
        ({**content(IMAGES, []), "categories": [{"id": 1}]}, "category without a name"),
        (content([{"id": 0}], []), "image 1 of the list has no file_name"),
        (content([{"id": None, "file_name": "a"}], []), "image 1 of the list has id None"),
        (content(IMAGES, []), "has no annotation of any image"),
    ],
)
def test_what_is_no_file_of_detection_is_one_sentence(tmp_path: Path, what: Any, said: str) -> None:
    paint(tmp_path, IMAGES)
    file = write(tmp_path / "labels.json", what)
    with pytest.raises(UserError, match=said) as caught:
        load_detection_source(str(file))
    assert str(file) in str(caught.value)


def test_folders_that_lack_something_say_what(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no annotation files"):
        load_detection_source(str(tmp_path))
    with pytest.raises(UserError, match="There is no folder"):
        load_detection_source(str(tmp_path / "nowhere"))
    write(tmp_path / "annotations" / "captions_train2017.json", {})
    write(tmp_path / "annotations" / "panoptic_train2017.json", {})
    with pytest.raises(UserError, match="none is for object detection by its name"):
        load_detection_source(str(tmp_path))
    small_set(tmp_path, splits=("val", "test"))
    with pytest.raises(UserError, match="has val and test but no train split"):
        load_detection_source(str(tmp_path))
    write(tmp_path / "annotations" / "val.json", {})
    with pytest.raises(UserError, match="two annotation files for val"):
        load_detection_source(str(tmp_path))
    (tmp_path / "voc" / "Annotations").mkdir(parents=True)
    (tmp_path / "voc" / "JPEGImages").mkdir()
    assert looks_like_voc(tmp_path / "voc")
    with pytest.raises(UserError, match="Convert it first"):
        load_detection_source(str(tmp_path / "voc"))


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    small_set(tmp_path)
    file = tmp_path / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"dog"', '"cow"'))
    with pytest.raises(UserError, match="calls category 3 'cow', and another file calls 3 'dog'"):
        load_detection_source(str(tmp_path))


def test_images_elsewhere_are_named(tmp_path: Path) -> None:
    small_set(tmp_path)
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"None of the images .* found, such as train0\.png"):
        load_detection_source(str(tmp_path))


def test_keypoint_files_with_boxes_serve(tmp_path: Path) -> None:
    paint(tmp_path, IMAGES)
    file = write(
        tmp_path / "k.json", content(IMAGES, [thing(1, 0, 3, 1, 1, 9, 9, keypoints=[1, 1, 2])])
    )
    with pytest.raises(UserError, match="has one image"):
        load_detection_source(str(file))
    small_set(tmp_path / "set")
    file = tmp_path / "set/annotations/instances_train.json"
    file.write_text(file.read_text().replace('"iscrowd": 0', '"iscrowd": 0, "keypoints": []'))
    found = [str(one) for one in inspect_detection_source(str(tmp_path / "set")).findings]
    assert any("has keypoints; its boxes are used" in one for one in found)


def test_targets_are_float32_and_int64(tmp_path: Path) -> None:
    target = load_detection_source(str(small_set(tmp_path))).splits["train"].annotations(0)
    made = target.target(masks=False).to_dict(torch.device("cpu"))
    assert {name: one.dtype for name, one in made.items()} == {
        "boxes": torch.float32,
        "labels": torch.int64,
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"annotations": {"1": {}}}, "lacks a list of annotations"),
        ({"annotations": [1, 2]}, "lacks a list of annotations"),
        ({"images": [image(0, "a\0.png")]}, r"image 1 of the list .* 'a\\x00.png'"),
        ({"images": [image(0, "x" * 5000)]}, "has a file_name that no file can have"),
        ({"images": [image(0, "a/" * 2000)]}, "has a file_name that no file can have"),
        ({"images": [image(0, "\ud800.png")]}, "has a file_name that no file can have"),
        ({"categories": [{"id": 1, "name": "d\ud800g"}]}, "holds half a character, number 1"),
        ({"images": [{**image(0, "a.png"), "id": 0.5}]}, "has id 0.5, no number"),
    ],
)
def test_malformed_files_are_one_sentence(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    file = write(tmp_path / "labels.json", {**content(IMAGES, []), **change})
    looks_like_coco(file)
    with pytest.raises(UserError, match=said):
        load_detection_source(str(file))


def test_numbers_may_be_written_as_floats_and_sizes_without_sense_are_measured(
    tmp_path: Path,
) -> None:
    small_set(tmp_path)
    path = tmp_path / "annotations" / "instances_train.json"
    true = json.loads(path.read_text())
    heights = [one["height"] for one in true["images"]]
    for one, height in zip(true["images"], (10**30, 30.5, -1, None), strict=True):
        one |= {"id": float(one["id"]), "height": height}
    for one in true["annotations"]:
        one |= {"image_id": float(one["image_id"]), "category_id": float(one["category_id"])}
    write(path, true)
    images = load_detection_source(str(tmp_path)).splits["train"]
    assert images.table.sizes[:, 0].tolist() == heights
    assert list(images.table.image_ids) == [0, 1, 2, 3]
    assert len(images.table.labels) == 5
