"""Folders of images and masks are recognised by their names, and read with their own classes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mask_files import paint_image, paint_mask, paint_pairs, paint_panoptic, small_set

from resnestkit.data.detection.layout import looks_like_detection
from resnestkit.data.segmentation import known
from resnestkit.data.segmentation.layout import looks_like_segmentation
from resnestkit.data.segmentation.legend import IGNORE, make_palette
from resnestkit.data.segmentation.sources import (
    inspect_segmentation_source,
    load_segmentation_for_evaluation,
    load_segmentation_source,
)
from resnestkit.data.sources import TrainedOn
from resnestkit.errors import UserError

UNTRAINED = TrainedOn("elsewhere", "", None, 0)


def by_split(root: Path) -> None:
    small_set(root)


def ade_like(root: Path) -> None:
    paint_pairs(root / "images/training", root / "annotations/training")
    paint_pairs(root / "images/validation", root / "annotations/validation", first=5)


def beside(root: Path) -> None:
    paint_pairs(root / "train", root / "trainannot")
    paint_pairs(root / "val", root / "valannot", first=5)


def beside_with_tails(root: Path) -> None:
    paint_pairs(root / "train", root / "train_labels", tail="_L")
    paint_pairs(root / "val", root / "val_labels", tail="_L", first=5)


def within(root: Path) -> None:
    paint_pairs(root / "Train/Images", root / "Train/Masks", tail="_mask")
    paint_pairs(root / "Val/Images", root / "Val/Masks", tail="_mask", first=5)


def deep(root: Path) -> None:
    paint_pairs(root / "images/train/one", root / "masks/train/one")
    paint_pairs(root / "images/train/two", root / "masks/train/two")
    paint_pairs(root / "images/val/one", root / "masks/val/one")


@pytest.mark.parametrize("write", [by_split, ade_like, beside, beside_with_tails, within, deep])
def test_layouts_with_splits(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    assert looks_like_segmentation(tmp_path)
    assert not looks_like_detection(tmp_path)
    source = load_segmentation_source(str(tmp_path))
    assert list(source.splits) == ["train", "val"]
    assert source.classes == ("class 0", "class 1", "class 2")
    assert not source.named
    assert source.held_out is None
    images = source.splits["val"]
    assert images.mask(0).dtype == torch.uint8
    assert images.mask(0).shape == images.read(0).shape[1:]
    assert images.mask(0).unique().tolist() == [0, 1, 2]
    assert not images.has_segments
    assert [finding.severity for finding in source.findings] == ["note"]


def test_a_single_pair_of_folders_is_divided_by_the_seed(tmp_path: Path) -> None:
    paint_pairs(tmp_path / "images", tmp_path / "masks", 10)
    assert looks_like_segmentation(tmp_path)
    source = load_segmentation_source(str(tmp_path), holdout=0.3, seed=1)
    again = load_segmentation_source(str(tmp_path), holdout=0.3, seed=1)
    other = load_segmentation_source(str(tmp_path), holdout=0.3, seed=2)
    assert source.held_out == 0.3
    assert [len(source.splits[split]) for split in ("train", "val")] == [7, 3]
    assert source.splits["val"].names == again.splits["val"].names != other.splits["val"].names
    trained = TrainedOn(str(tmp_path), source.fingerprint, 0.3, 1)
    chosen = load_segmentation_for_evaluation(str(tmp_path), 3, source.classes, trained)
    assert chosen.images.names == source.splits["val"].names
    assert chosen.words == f"held-out images of {tmp_path}"
    whole = load_segmentation_for_evaluation(str(tmp_path), 3, source.classes, trained, "all")
    assert len(whole.images) == 10
    paint_mask(tmp_path / "masks" / "3.png", (2, 0, 1, 0, 1, 2, 1))  # painted anew
    with pytest.raises(UserError, match=r"The masks of .* changed since the training"):
        load_segmentation_for_evaluation(str(tmp_path), 3, source.classes, trained)


def test_the_mask_is_that_of_the_same_name(tmp_path: Path) -> None:
    for number in range(4):
        paint_image(tmp_path / "images" / f"{number}.jpg")
        paint_mask(tmp_path / "masks" / f"{number}_mask.png", (number, 0, 3))
    source = load_segmentation_source(str(tmp_path))
    for images in source.splits.values():
        for index, name in enumerate(images.names):
            expected = {0, 3, int(Path(name).stem)}
            assert set(images.mask(index).unique().tolist()) == expected


def test_camvid_is_known_by_its_names(tmp_path: Path) -> None:
    name = "0001TP_0{:05}"
    paint_pairs(tmp_path / "train", tmp_path / "trainannot", numbers=(0, 10, 11), name=name)
    paint_pairs(tmp_path / "test", tmp_path / "testannot", numbers=(3, 11), name=name, first=9)
    source = load_segmentation_source(str(tmp_path))
    assert source.classes == known.CAMVID.classes
    assert source.classes[0] == "sky"
    assert source.palette[3] == (128, 64, 128)
    assert source.validation == "test"
    assert source.splits["train"].mask(0).unique().tolist() == [0, 10, IGNORE]
    assert source.findings == ()


def write_ade_info(path: Path, columns: str = "") -> None:
    names = [f"thing {i}" for i in range(1, 151)]
    names[:3] = ["wall", "door, double door", "door, gate"]
    lines = [f"{i}\t0.1\t9\t9\t{columns}{name}" for i, name in enumerate(names, 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([f"Idx\tRatio\tTrain\tVal\t{columns}Name", *lines]) + "\n")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("columns", ["", "0\t"])
def test_ade20k_counts_from_one_and_brings_its_names(
    tmp_path: Path, nested: bool, columns: str
) -> None:
    root = tmp_path / "ADEChallengeData2016" if nested else tmp_path
    write_ade_info(root / "objectInfo150.txt", columns)
    for split, word in (("training", "train"), ("validation", "val")):
        name = f"ADE_{word}_0000000{{}}"
        paint_pairs(
            root / "images" / split, root / "annotations" / split, 2, (0, 1, 150), name=name
        )
    assert looks_like_segmentation(tmp_path)
    source = load_segmentation_source(str(tmp_path))
    assert source.classes[:3] == ("wall", "door, double door", "door, gate")
    assert len(source.classes) == len(source.palette) == 150
    assert source.splits["val"].mask(1).unique().tolist() == [0, 149, IGNORE]
    (root / "objectInfo150.txt").unlink()
    assert load_segmentation_source(str(tmp_path)).classes[149] == "class 149"


@pytest.mark.parametrize("ids", ["labelIds", "labelTrainIds"])
def test_cityscapes_has_two_kinds_of_numbers(tmp_path: Path, ids: str) -> None:
    for split in ("train", "val", "test"):
        for number in range(2):
            stem = f"{split}/town/town_{number}"
            paint_image(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png")
            paint_mask(tmp_path / "gtFine" / f"{stem}_gtFine_labelIds.png", (7, 3, 33))
            if ids == "labelTrainIds":
                paint_mask(tmp_path / "gtFine" / f"{stem}_gtFine_labelTrainIds.png", (0, 255, 18))
    assert looks_like_segmentation(tmp_path)
    source = load_segmentation_source(str(tmp_path))
    assert list(source.splits) == ["train", "val"]
    assert [source.classes[0], source.classes[18]] == ["road", "bicycle"]
    assert source.palette[13] == (0, 0, 142)
    assert source.splits["train"].mask(1)[0, [0, 8, 15]].tolist() == [0, IGNORE, 18]
    assert [str(one) for one in source.findings] == [
        f"The test images of {tmp_path} have no masks; they are left out."
    ]


def write_pascal(root: Path, context: bool) -> None:
    masks, lists = (
        ("SegmentationClassContext", "SegmentationContext")
        if context
        else ("SegmentationClass", "Segmentation")
    )
    paint_pairs(root / "JPEGImages", root / masks, 4, (0, 1, 55 if context else 20, 255))
    paint_image(root / "JPEGImages" / "other.jpg")
    (root / "ImageSets" / lists).mkdir(parents=True)
    (root / "ImageSets" / lists / "train.txt").write_text("0\n2\n")
    (root / "ImageSets" / lists / "val.txt").write_text("3\n1\n")


@pytest.mark.parametrize("below", ["", "VOC2010", "VOCdevkit/VOC2010"])
def test_pascal_context_leaves_out_what_is_none_of_its_59(tmp_path: Path, below: str) -> None:
    write_pascal(tmp_path / below, context=True)
    (tmp_path / below / "Annotations").mkdir()
    assert looks_like_segmentation(tmp_path)
    source = load_segmentation_source(str(tmp_path))
    assert len(source.classes) == 59
    assert [source.classes[0], source.classes[54]] == ["aeroplane", "tvmonitor"]
    val = source.splits["val"]
    assert [Path(name).stem for name in val.names] == ["3", "1"]
    assert val.mask(0)[0, [0, 4, 8, 12]].tolist() == [IGNORE, 0, 54, IGNORE]


def test_voc_is_of_masks_only_where_it_has_no_boxes(tmp_path: Path) -> None:
    write_pascal(tmp_path, context=False)
    assert looks_like_segmentation(tmp_path)
    source = load_segmentation_source(str(tmp_path))
    assert source.classes == known.VOC.classes
    assert source.palette[15] == (192, 128, 128)
    (tmp_path / "Annotations").mkdir()
    assert looks_like_detection(tmp_path)
    assert not looks_like_segmentation(tmp_path)
    assert load_segmentation_source(str(tmp_path)).classes == known.VOC.classes


def test_classes_may_be_named_and_one_of_them_be_void(tmp_path: Path) -> None:
    small_set(tmp_path)
    (tmp_path / "classes.txt").write_text("road\nVoid\ncar\nhouse\n")
    source = load_segmentation_source(str(tmp_path))
    assert source.classes == ("road", "car", "house")
    assert source.named
    assert source.splits["train"].mask(0).unique().tolist() == [0, 1, IGNORE]
    chosen = load_segmentation_for_evaluation(
        str(tmp_path), 3, ("house", "car", "tree", "road"), UNTRAINED
    )
    assert chosen.words == f"val split of {tmp_path}"
    assert chosen.images.mask(0).unique().tolist() == [1, 3, IGNORE]
    with pytest.raises(UserError, match="does not know: house"):
        load_segmentation_for_evaluation(str(tmp_path), 3, ("road", "car"), UNTRAINED)


def test_classes_without_names_are_the_checkpoints_by_number(tmp_path: Path) -> None:
    small_set(tmp_path)
    classes = ("sky", "sea", "land", "ship")
    chosen = load_segmentation_for_evaluation(str(tmp_path), 3, classes, UNTRAINED)
    assert chosen.images.mask(0).unique().tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="numbers up to 2, and the checkpoint knows 2 classes"):
        load_segmentation_for_evaluation(str(tmp_path), 3, classes[:2], UNTRAINED)
    with pytest.raises(UserError, match="has no test split; it has train, val"):
        load_segmentation_for_evaluation(str(tmp_path), 3, classes, UNTRAINED, "test")


def test_yes_and_no_may_be_written_as_255_and_0(tmp_path: Path) -> None:
    small_set(tmp_path, numbers=(0, 255))
    source = load_segmentation_source(str(tmp_path))
    assert source.splits["train"].mask(0).unique().tolist() == [0, 1]
    assert "255 is read as the second class" in str(source.findings[0])
    (tmp_path / "classes.txt").write_text("background\nlung\n")
    named = load_segmentation_source(str(tmp_path))
    assert named.classes == ("background", "lung")
    assert named.splits["train"].mask(0).unique().tolist() == [0, 1]
    assert named.palette[0] == (0, 0, 0)


def test_255_is_void_where_any_mask_has_a_one(tmp_path: Path) -> None:
    paint_pairs(tmp_path / "images/train", tmp_path / "labels/train", 41, numbers=(0, 255))
    paint_pairs(tmp_path / "images/val", tmp_path / "labels/val", 1, numbers=(0, 255))
    paint_mask(tmp_path / "labels/train/7.png", (0, 1, 255))
    (tmp_path / "classes.txt").write_text("good\ndefect\n")
    source = load_segmentation_source(str(tmp_path))
    assert not source.binary
    assert source.splits["val"].mask(0).unique().tolist() == [0, IGNORE]


@pytest.mark.parametrize("named", [True, False])
def test_a_segmenter_remembers_whether_its_masks_had_void(tmp_path: Path, *, named: bool) -> None:
    small_set(tmp_path, numbers=(0, 255))
    if named:
        (tmp_path / "classes.txt").write_text("good\ndefect\n")
    assert load_segmentation_source(str(tmp_path)).binary
    classes = ("good", "defect")
    for binary, numbers in ((None, [0, 1]), (True, [0, 1]), (False, [0, IGNORE])):
        chosen = load_segmentation_for_evaluation(
            str(tmp_path), 3, classes, UNTRAINED, binary=binary
        )
        assert chosen.images.mask(0).unique().tolist() == numbers


def test_grey_pictures(tmp_path: Path) -> None:
    source = load_segmentation_source(str(small_set(tmp_path)), channels=1)
    assert source.splits["train"].read(0).shape[0] == 1


def test_what_is_not_of_masks_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "boxes/labels/train").mkdir(parents=True)
    paint_image(tmp_path / "boxes/images/train/1.jpg")
    (tmp_path / "boxes/labels/train/1.txt").write_text("0 0.5 0.5 0.2 0.2")
    paint_image(tmp_path / "classes/train/cat/1.jpg")
    paint_image(tmp_path / "classes/val/cat/1.jpg")
    paint_image(tmp_path / "coco/images/1.jpg")
    (tmp_path / "coco/annotations").mkdir()
    (tmp_path / "coco/annotations/instances_train.json").write_text("{}")
    paint_panoptic(tmp_path / "both")
    (tmp_path / "both/annotations/instances_train.json").write_text("{}")
    for name in ("boxes", "classes", "coco", "both", "missing"):
        assert not looks_like_segmentation(tmp_path / name), name
    assert not looks_like_segmentation("x" * 5000)
    assert looks_like_segmentation("scenes")


def test_telling_what_a_folder_is_needs_no_torch() -> None:
    code = (
        "import sys; from resnestkit.data.segmentation.layout import looks_like_segmentation; "
        "assert looks_like_segmentation('scenes'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'PIL', 'matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False)
    assert done.returncode == 0


def test_what_a_training_leaves_out_is_said(tmp_path: Path) -> None:
    small_set(tmp_path)
    paint_image(tmp_path / "images/train/bare.jpg")
    paint_mask(tmp_path / "labels/val/lone.png")
    paint_image(tmp_path / "images/test/9.jpg")
    told = [str(one) for one in inspect_segmentation_source(str(tmp_path)).findings]
    assert any("The test images of" in one and "have no masks" in one for one in told)
    assert any("1 of the 5 train images" in one and "bare.jpg" in one for one in told)
    assert any("1 mask of" in one and "lone.png" in one for one in told)


def test_the_same_image_in_two_splits_is_found(tmp_path: Path) -> None:
    write_pascal(tmp_path, context=False)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("3\n2\n")
    (found,) = load_segmentation_source(str(tmp_path)).findings
    assert found.severity == "wrong"
    assert "1 image listed in two splits" in found.text


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda root: None, "There is no folder .*here. Give a folder of images and masks"),
        (lambda root: root.mkdir(), "holds no images. It needs images and their masks"),
        (lambda root: root.write_text(""), "is a file. Give a folder"),
        (lambda root: paint_image(root / "images/1.jpg"), "no folder of masks beside them"),
        (
            lambda root: [paint_image(root / "images/1.jpg"), (root / "masks").mkdir()],
            "None of the 1 images of .* has a mask of its name, such as 1.jpg",
        ),
        (
            lambda root: [paint_mask(root / "masks/1.png"), (root / "images").mkdir()],
            "holds no images",
        ),
        (
            lambda root: [
                paint_image(root / "images/a.jpg"),
                paint_mask(root / "masks/a_mask.png"),
                paint_mask(root / "masks/a_label.png"),
            ],
            "are masks of one image; remove one",
        ),
        (
            lambda root: [
                paint_image(root / "images/a.jpg"),
                paint_mask(root / "masks/a.png"),
                paint_mask(root / "masks/a.tif"),
            ],
            "are masks of one image; remove one",
        ),
        (lambda root: paint_pairs(root / "images", root / "masks", 1), "has one image; two are"),
        (
            lambda root: paint_pairs(root / "images/val", root / "masks/val", 2),
            "has val but no train split to train on",
        ),
        (
            lambda root: [
                small_set(root),
                (root / "classes.txt").write_text("\n".join(map(str, range(256)))),
            ],
            "has 256 classes; 255 are the most",
        ),
        (
            lambda root: [small_set(root), (root / "classes.txt").write_text("void\nroad\n")],
            "has one class; a segmenter needs two",
        ),
        (
            lambda root: [small_set(root), (root / "classes.txt").write_bytes(b"\xff\xfe\n")],
            "Cannot read .*classes.txt",
        ),
        (
            lambda root: [
                paint_pairs(root / "images", root / "masks", name="ADE_val_0000000{}"),
                (root / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n"),
            ],
            "names 1 classes; ADE20K has 150",
        ),
        (
            lambda root: small_set(root, numbers=(0,)),
            "has one class; a segmenter needs two",
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(
    tmp_path: Path, write: Callable[[Path], object], said: str
) -> None:
    write(tmp_path / "here")
    with pytest.raises(UserError, match=said):
        load_segmentation_source(str(tmp_path / "here"))


def test_what_is_no_name_of_a_folder_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"Cannot look at x+: File name too long"):
        load_segmentation_source("x" * 5000)


def test_palettes_tell_classes_apart() -> None:
    names = ["background", *(f"class {i}" for i in range(1, 60))]
    palette = make_palette(names)
    assert palette[0] == (0, 0, 0)
    assert len(set(palette)) == 60
    assert make_palette(names[1:])[0] != (0, 0, 0)
    assert known.voc_palette(256)[255] == (224, 224, 192)
