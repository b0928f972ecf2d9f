"""Pascal VOC's folders become COCO's, and nothing hostile comes in with them."""

from pathlib import Path

import pytest
from PIL import Image

from resnestkit.data.detection.layout import looks_like_coco
from resnestkit.data.detection.sources import load_detection_source
from resnestkit.data.detection.voc import convert_voc
from resnestkit.errors import UserError

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def annotate(root: Path, name: str, objects: str, size: str = SIZE, ending: str = "jpg") -> None:
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}.{ending}")
    xml = f"<annotation><filename>{name}.{ending}</filename>{size}{objects}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(xml)


def name_split(root: Path, split: str, *names: str) -> None:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    annotate(root, "a", OBJECT.format("dog", 0, 1, 1, 10, 20) + OBJECT.format("cat", 1, 5, 5, 9, 9))
    annotate(root, "b", "")
    annotate(root, "c", OBJECT.format("cat", 0, 11.5, 2, 40, 30), size="", ending="png")
    name_split(root, "train", "a", "b")
    name_split(root, "val", "c 1")
    return root


def test_boxes_count_from_one_and_include_the_last(voc: Path, tmp_path: Path) -> None:
    done = convert_voc(voc, tmp_path / "coco")
    assert done.classes == ("cat", "dog")
    assert done.images == {"train": 2, "val": 1}
    assert (done.objects, done.difficult, done.left_out) == (3, 1, ())
    assert looks_like_coco(tmp_path / "coco")
    source = load_detection_source(str(tmp_path / "coco"))
    train, val = source.splits["train"], source.splits["val"]
    assert train.annotations(0).boxes.tolist() == [[0, 0, 10, 20], [4, 4, 5, 5]]
    assert train.annotations(0).crowd.tolist() == [False, True]
    assert len(train.annotations(1).labels) == 0
    assert val.annotations(0).boxes.tolist() == [[10.5, 1, 29.5, 29]]
    assert (val.annotations(0).height, val.annotations(0).width) == (30, 40)
    assert val.read(0).shape == (3, 30, 40)


def test_without_links_images_are_named_by_their_whole_paths(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_told: object, **_more: object) -> None:
        raise OSError("not allowed")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    convert_voc(voc, tmp_path / "coco")
    source = load_detection_source(str(tmp_path / "coco"))
    assert source.splits["train"].names[0] == str((voc / "JPEGImages" / "a.jpg").resolve())


def test_a_folder_without_splits_is_one_set(voc: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (voc / "ImageSets" / "Main" / f"{split}.txt").unlink()
    assert convert_voc(voc, tmp_path / "coco").images == {"all": 3}
    assert {k: len(v) for k, v in load_detection_source(str(tmp_path / "coco")).splits.items()} == {
        "train": 2,
        "val": 1,
    }


def test_trainval_serves_where_there_is_no_train(voc: Path, tmp_path: Path) -> None:
    (voc / "ImageSets" / "Main" / "train.txt").rename(voc / "ImageSets" / "Main" / "trainval.txt")
    name_split(voc, "test", "x", "y")
    done = convert_voc(voc, tmp_path / "coco")
    assert done.images == {"train": 2, "val": 1}
    assert done.left_out == ("the test split, whose 2 images have no annotations",)


def test_what_has_no_box_is_counted(voc: Path, tmp_path: Path) -> None:
    annotate(voc, "b", "<object><name>dog</name></object>" + OBJECT.format("", 0, 1, 1, 2, 2))
    done = convert_voc(voc, tmp_path / "coco")
    assert [words.split(" of ")[0] for words in done.left_out] == ["object 1", "object 2"]
    assert "which lacks a name or a box" in done.left_out[0]


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>'
    "<annotation><object><name>&b;</name></object></annotation>"
)
LEAK = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><annotation>&a;</annotation>'


@pytest.mark.parametrize("text", [BOMB, LEAK, BOMB.encode("utf-16")])
def test_entities_are_refused(voc: Path, tmp_path: Path, text: str | bytes) -> None:
    content = text.encode() if isinstance(text, str) else text
    (voc / "Annotations" / "a.xml").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.xml declares a document type"):
        convert_voc(voc, tmp_path / "coco")
    assert not (tmp_path / "coco").exists()


def test_what_cannot_be_converted_is_one_sentence(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not of VOC's form"):
        convert_voc(tmp_path, tmp_path / "coco")
    with pytest.raises(UserError, match="Give a new folder"):
        convert_voc(voc, voc)
    name_split(voc, "val", "c", "lost")
    with pytest.raises(UserError, match=r"1 images of the val split .*lost\.xml"):
        convert_voc(voc, tmp_path / "coco")
    name_split(voc, "val", "c")
    (voc / "Annotations" / "c.xml").write_text("<annotation>")
    with pytest.raises(UserError, match=r"c\.xml is not XML"):
        convert_voc(voc, tmp_path / "coco")
    annotate(voc, "c", OBJECT.format("cat", 0, 1, 1, 2, 2))
    convert_voc(voc, tmp_path / "coco")
    with pytest.raises(UserError, match="has annotations already"):
        convert_voc(voc, tmp_path / "coco")


@pytest.mark.parametrize("target", ["taken", "taken/below", "taken/far/below"])
def test_a_target_at_or_below_a_file_is_one_sentence(
    voc: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"Cannot write to .*taken.* Give a new folder"):
        convert_voc(voc, tmp_path / target)
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_list_in_another_encoding_is_one_sentence(voc: Path, tmp_path: Path) -> None:
    (voc / "ImageSets" / "Main" / "train.txt").write_bytes("\u00e4\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.txt is no list of names in UTF-8"):
        convert_voc(voc, tmp_path / "coco")


@pytest.mark.parametrize("encoding", ["klingon", "shift_jis"])
def test_an_encoding_that_is_not_read_is_one_sentence(
    voc: Path, tmp_path: Path, encoding: str
) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?><annotation></annotation>'
    (voc / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(UserError, match=r"a\.xml is not XML"):
        convert_voc(voc, tmp_path / "coco")


def test_numbers_that_are_none_are_not_written(voc: Path, tmp_path: Path) -> None:
    endless = "<size><width>inf</width><height>30</height></size>"
    things = OBJECT.format("dog", 0, "nan", 1, 10, 20) + OBJECT.format("cat", 0, 1, 1, 5, "inf")
    annotate(voc, "b", things, size=endless)
    done = convert_voc(voc, tmp_path / "coco")
    assert len(done.left_out) == 2
    source = load_detection_source(str(tmp_path / "coco"))
    assert source.splits["train"].table.sizes.tolist() == [[30, 40], [30, 40]]
    text = (tmp_path / "coco/annotations/instances_train.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
