"""Hugging Face's datasets, as `save_to_disk` writes them: nothing is asked of the network."""

import io
import pickle
import sys
from pathlib import Path

import pytest
import torch
from packing import picture
from PIL import Image

from resnestkit.data.check import check_images
from resnestkit.data.sources import TrainedOn, load_for_evaluation, load_source
from resnestkit.errors import UserError

datasets = pytest.importorskip("datasets", reason="an extra")


def table(count: int, label: object = None, bad: int | None = None) -> object:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": label or datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    contents = [picture(n) if n != bad else b"no picture" for n in range(count)]
    rows = {
        "image": [{"bytes": content, "path": None} for content in contents],
        "label": [n % 2 for n in range(count)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_splits_classes_and_pixels(tmp_path: Path) -> None:
    saved = datasets.DatasetDict({"train": table(10), "validation": table(4)})
    saved.save_to_disk(tmp_path / "d")
    source = load_source(str(tmp_path / "d"))
    assert source.classes == ("cat", "dog")
    assert {split: len(images) for split, images in source.splits.items()} == {
        "train": 10,
        "val": 4,
    }
    train = source.splits["train"]
    assert train.labels == [0, 1] * 5
    assert torch.equal(train.read(7), torch.full((3, 20, 30), 21, dtype=torch.uint8))
    assert torch.equal(pickle.loads(pickle.dumps(train.subset([7]))).read(0), train.read(7))
    trained = TrainedOn(source.origin, source.fingerprint, None, 0)
    images, words = load_for_evaluation(source.origin, 1, ("dog", "cat"), trained)
    assert images.labels == [1, 0, 1, 0]
    assert images.read(0).shape == (1, 20, 30)
    assert words.startswith("val split")


def test_a_lone_table_is_divided(tmp_path: Path) -> None:
    table(20).save_to_disk(tmp_path / "d")
    source = load_source(str(tmp_path / "d"), seed=3)
    assert {split: len(images) for split, images in source.splits.items()} == {
        "train": 16,
        "val": 4,
    }
    assert source.held_out == 0.2


def test_numbers_are_classes_too_and_unlabelled_splits_are_left_out(tmp_path: Path) -> None:
    hidden = table(4, datasets.Value("int64")).map(lambda row: {"label": -1})
    saved = {"train": table(10, datasets.Value("int64")), "test": hidden}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "d")
    source = load_source(str(tmp_path / "d"))
    assert source.classes == ("0", "1")
    assert source.held_out == 0.2


def test_bad_images_are_counted_and_named(tmp_path: Path) -> None:
    table(10, bad=3).save_to_disk(tmp_path / "d")
    images = load_source(str(tmp_path / "d")).splits["train"]
    bad = check_images(images, cache_bytes=0).unreadable
    held = load_source(str(tmp_path / "d")).splits["val"]
    bad += check_images(held, cache_bytes=0).unreadable
    assert [str(one) for one in bad] == ["all 3: not an image"]


def test_images_in_files(tmp_path: Path) -> None:
    Image.open(io.BytesIO(picture(5))).save(tmp_path / "a.png")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("string")})
    rows = {"img": [str(tmp_path / "a.png")] * 4, "label": ["x", "y"] * 2}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    source = load_source(str(tmp_path / "d"))
    assert source.classes == ("x", "y")
    assert source.splits["train"].read(0).shape == (3, 20, 30)


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "d")
    with pytest.raises(UserError, match=r"one column of images and one of classes.*it has text"):
        load_source(str(tmp_path / "d"))
    saved = datasets.DatasetDict({"odd": table(2), "other": table(2)})
    saved.save_to_disk(tmp_path / "e")
    with pytest.raises(UserError, match="no train, validation or test split: odd, other"):
        load_source(str(tmp_path / "e"))
    (tmp_path / "d" / "state.json").write_text("{")
    with pytest.raises(UserError, match="Cannot read"):
        load_source(str(tmp_path / "d"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'resnestkit\[datasets\]'"):
        load_source("hf:beans")


def test_the_hub_is_asked_only_if_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def load(name: str, config: str | None, download_config: object) -> object:
        asked.append((name, config, download_config.local_files_only))  # type: ignore[attr-defined]
        raise ConnectionError("no way there.\nand more")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setenv("RESNESTKIT_OFFLINE", "1")
    with pytest.raises(UserError, match=r"^Cannot load hf:a/b:c: no way there\.$"):
        load_source("hf:a/b:c")
    assert asked == [("a/b", "c", True)]
