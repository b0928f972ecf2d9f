"""Folders and the digits: which images, which classes, which split."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnestkit.data.sources import TrainedOn, load_for_evaluation, load_source
from resnestkit.errors import UserError


def fill(folder: Path, classes: dict[str, int]) -> Path:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((8, 8, 3), number, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_train_and_val_folders(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 3, "b": 2})
    fill(tmp_path / "val", {"a": 1, "b": 1})
    source = load_source(str(tmp_path))
    assert source.classes == ("a", "b")
    assert {name: len(images) for name, images in source.splits.items()} == {"train": 5, "val": 2}
    assert source.validation == "val"
    assert source.held_out is None


def test_test_folder_serves_where_there_is_no_val(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 3, "b": 2})
    fill(tmp_path / "test", {"a": 1, "b": 1})
    assert load_source(str(tmp_path)).validation == "test"


@pytest.mark.parametrize("below", ["", "train"])
def test_single_folder_is_divided_alike_by_the_same_seed(tmp_path: Path, below: str) -> None:
    fill(tmp_path / below, {"a": 20, "b": 10})
    one, two = (load_source(str(tmp_path), seed=3) for _ in range(2))
    other = load_source(str(tmp_path), seed=4)
    assert one.splits["val"].names == two.splits["val"].names
    assert one.splits["val"].names != other.splits["val"].names
    assert sorted(one.splits["val"].labels) == [0] * 4 + [1] * 2
    assert not set(one.splits["val"].names) & set(one.splits["train"].names)
    assert len(one.splits["val"]) + len(one.splits["train"]) == 30


def test_digits_are_built_in() -> None:
    source = load_source("digits", channels=1)
    assert len(source.splits["train"]) + len(source.splits["val"]) == 1797
    assert source.splits["train"].read(0).shape == (1, 8, 8)
    assert load_source("digits", channels=3).splits["train"].read(0).shape == (3, 8, 8)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    def refused(data: Path, words: str) -> None:
        with pytest.raises(UserError, match=words):
            load_source(str(data))

    refused(tmp_path / "missing", "no folder")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is a file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no images")
    refused(fill(tmp_path / "one", {"only": 2}), "one class, 'only'")
    refused(fill(tmp_path / "lonely", {"a": 2, "b": 1}), "'b' .* has one image")
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (8, 8)).save(flat / "a.png")
    refused(flat, "no folder per class")
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    (tmp_path / "hollow" / "b").mkdir()
    refused(tmp_path / "hollow", "holds no images")


def test_split_folders_without_classes_are_not_taken_for_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / "a.png")
    with pytest.raises(UserError, match="divided into 'train', 'val', but these have no folder"):
        load_source(str(tmp_path))


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 2, "b": 2})
    fill(tmp_path / "val", {"a": 2, "b": 0})
    with pytest.raises(UserError, match="val has no images of 'b'"):
        load_source(str(tmp_path))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    odd = os.fsdecode(os.fsencode(tmp_path / "a") + b"/caf\xe9.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "x.png").rename(odd)
    assert len(load_source(str(tmp_path)).splits["train"]) == 7


def test_class_sets_that_differ_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 2, "dog": 2})
    fill(tmp_path / "val", {"cat": 1, "cow": 1})
    with pytest.raises(UserError, match="lacks 'dog' and has 'cow'"):
        load_source(str(tmp_path))


def test_no_train_folder(tmp_path: Path) -> None:
    fill(tmp_path / "val", {"a": 2, "b": 2})
    fill(tmp_path / "test", {"a": 2, "b": 2})
    with pytest.raises(UserError, match="no train folder"):
        load_source(str(tmp_path))


def trained_on(data: Path, seed: int = 0) -> TrainedOn:
    source = load_source(str(data), seed=seed)
    return TrainedOn(source.origin, source.fingerprint, source.held_out, seed)


def test_evaluation_of_the_training_folder_takes_what_was_held_out(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 10, "b": 10})
    trained = trained_on(tmp_path, seed=5)
    images, words = load_for_evaluation(str(tmp_path), 3, ("a", "b"), trained)
    assert images.names == load_source(str(tmp_path), seed=5).splits["val"].names
    assert "held-out" in words
    images, words = load_for_evaluation(str(tmp_path), 3, ("a", "b"), trained, "train")
    assert len(images) == 16
    assert "training" in words


def test_evaluation_of_another_folder_takes_all(tmp_path: Path) -> None:
    trained = trained_on(fill(tmp_path / "x", {"a": 10, "b": 10}))
    other = fill(tmp_path / "y", {"b": 4})
    images, words = load_for_evaluation(str(other), 3, ("a", "b"), trained)
    assert images.labels == [1] * 4
    assert "all images" in words
    with pytest.raises(UserError, match="without a test split"):
        load_for_evaluation(str(other), 3, ("a", "b"), trained, "test")


def test_evaluation_prefers_test_then_val(tmp_path: Path) -> None:
    for split, count in {"train": 4, "val": 3, "test": 2}.items():
        fill(tmp_path / split, {"a": count, "b": count})
    trained = trained_on(tmp_path)
    images, words = load_for_evaluation(str(tmp_path), 3, ("a", "b"), trained)
    assert len(images) == 4
    assert words.startswith("test split")
    assert len(load_for_evaluation(str(tmp_path), 3, ("a", "b"), trained, "val")[0]) == 6
    with pytest.raises(UserError, match="does not know: 'b'"):
        load_for_evaluation(str(tmp_path), 3, ("a", "c"), trained)


def test_fingerprint_changes_with_the_images(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    before = trained_on(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "more.png")
    assert trained_on(tmp_path).fingerprint != before.fingerprint
    with pytest.raises(UserError, match=r"changed since the training.*--split all"):
        load_for_evaluation(str(tmp_path), 3, ("a", "b"), before)
    images, words = load_for_evaluation(str(tmp_path), 3, ("a", "b"), before, "all")
    assert len(images) == 9
    assert "all images" in words


def test_hidden_files_and_other_files_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    hidden = fill(tmp_path / "a" / ".ipynb_checkpoints", {"x": 1})
    assert hidden.is_dir()
    (tmp_path / "a" / "._0.png").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / ".cache").mkdir()
    source = load_source(str(tmp_path))
    assert source.classes == ("a", "b")
    assert sum(len(images) for images in source.splits.values()) == 8
