"""The command line for detectors, and what is wrong with data of boxes, as a user meets it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boxed_pictures import NUMBERS, TINY, draw_boxed_shapes
from PIL import Image

from resnestkit.deploy.drawings import Drawings
from resnestkit.training.recipe import BaseRecipe, DetectionRecipe, Recipe

Run = Callable[..., tuple[int, str, str]]


def flags(recipe: BaseRecipe, **changes: Any) -> list[str]:
    """A recipe as it is typed: what differs from the defaults."""
    words = []
    usual = type(recipe)()
    for field in fields(recipe):
        value = changes.get(field.name, getattr(recipe, field.name))
        if value != getattr(usual, field.name):
            parts = value if isinstance(value, tuple) else (value,)
            words += [f"--{field.name.replace('_', '-')}", *map(str, parts)]
    return words


ONE = flags(TINY, epochs=1, norm="group", batch_size=1, precise_norm=0)


def change(root: Path, split: str, edit: Callable[[dict[str, Any]], object]) -> None:
    """Write an annotation file anew."""
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def boxed(tmp_path: Path) -> Path:
    return draw_boxed_shapes(tmp_path / "boxed", {"train": 4, "val": 2})


def test_evaluate_prints_the_twelve_numbers_and_each_class(
    found: Path, run: Run, tmp_path: Path
) -> None:
    written = tmp_path / "e.json"
    words = ["evaluate", found / "run/best.safetensors", found / "shapes"]
    code, out, err = run(*words, "--json", written, "--results", tmp_path / "r.json")
    assert code == 0, err
    lines = [line.split("  ")[0] for line in out.splitlines()]
    for name in ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large"):
        assert name in lines
    for name in ("AR1", "AR10", "AR100", "AR small", "AR medium", "AR large", *NUMBERS):
        assert name in lines
    values = json.loads(written.read_text())
    assert values["classes"] == ["rectangle", "triangle", "circle"]
    assert len(values["boxes"]["all"]) == 12
    assert json.loads((tmp_path / "r.json").read_text())
    code, _, err = run(*words, "--results", "/nowhere/r.json")
    assert (code, "Cannot write /nowhere/r.json" in err) == (2, True)


def test_predict_draws_writes_and_goes_on(
    found: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name, size in (("dot.png", (1, 1)), ("strip.jpg", (20_000, 50)), ("plain.jpg", (64, 48))):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "words.jpg").write_text("no image")
    before = (tmp_path / "pictures" / "plain.jpg").read_bytes()
    best = found / "run/best.safetensors"
    words = ["predict", best, "pictures", found / "shapes/images/val0.png"]
    code, out, err = run(*words, "--score", "0.06", "--json", "p.json", "--csv", "p.csv")
    assert code == 1
    assert "words.jpg: not an image" in err
    assert len(err.strip().splitlines()) == 1
    assert {path.name for path in Path("detections").iterdir()} == {
        *("dot.jpg", "strip.jpg", "plain.jpg", "val0.jpg")
    }
    results = json.loads(Path("p.json").read_text())
    assert any(result["image_id"] == str(words[-1]) for result in results)
    assert {result["category_id"] for result in results} <= set(NUMBERS.values())
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    assert len(rows) == len(results)
    line = next(line for line in out.splitlines() if "val0.png" in line)
    here = [row for row in rows if row["image"] == str(words[-1])]
    assert line.split()[1] == str(len(here))
    # Into the images' own folder: they stay, and so does what another program left.
    code, _, _ = run("predict", best, "pictures/plain.jpg", "--output", "pictures")
    assert code == 0
    assert (tmp_path / "pictures" / "plain.jpg").read_bytes() == before
    assert (tmp_path / "pictures" / "plain-2.jpg").exists()
    # Nor are drawings drawn on again.
    code, out, _ = run("predict", best, ".", "--score", "1")
    assert code == 1
    assert "detections/" not in out.split("score")[0]
    code, _, err = run("predict", best, "detections")
    assert (code, "is a drawing" in err) == (2, True)
    for flag, words in (("--top", "is for classifiers"), ("--score", "must be from 0 to 1")):
        code, _, err = run("predict", best, "pictures", flag, "3")
        assert (code, words in err) == (2, True), err


def test_drawings_replace_their_like_alone(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    (tmp_path / "b.jpg").write_bytes(b"somebody's")
    names = [
        [drawings.write(image, pixels).name for image in ("x/a.png", "y/a.png", "x/b.png")]
        for drawings in (Drawings(tmp_path, []), Drawings(tmp_path, []))
    ]
    assert names == [["a.jpg", "a-2.jpg", "b-2.jpg"]] * 2
    assert (tmp_path / "b.jpg").read_bytes() == b"somebody's"
    kept = Drawings(tmp_path, [tmp_path / "a.jpg"])
    assert kept.write("a.jpg", pixels).name == "a-2.jpg"


def test_doctor_looks_at_boxes(found: Path, run: Run, tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    code, out, err = run("doctor", found / "shapes", *flags(TINY), "--json", facts)
    assert code == 0, err
    for part in ("train       8 images", "objects", "smallest anchor", "speed", "verdict"):
        assert part in out
    values = json.loads(facts.read_text())
    assert values["counted"] == "objects"
    assert set(values["splits"]["val"]["classes"]) == set(NUMBERS)
    assert values["speed"]["stepping"] > 0
    assert any("--warmup-steps 1000" in one["text"] for one in values["findings"])


def test_images_of_any_shape_and_without_objects_are_trained_on(
    boxed: Path, colours: Path, run: Run, tmp_path: Path
) -> None:
    """Each alone in its batch; and a class of the validation alone is said, and no more."""
    Image.new("RGB", (1, 1), "red").save(boxed / "images" / "dot.png")
    Image.effect_noise((20_000, 50), 90).convert("RGB").save(boxed / "images" / "strip.png")
    Image.new("RGB", (60, 40), "grey").save(boxed / "images" / "bare.png")

    def add(content: dict[str, Any]) -> None:
        sizes = {"dot.png": (1, 1), "strip.png": (20_000, 50), "bare.png": (60, 40)}
        content["images"] = [
            {"id": number, "file_name": name, "width": width, "height": height}
            for number, (name, (width, height)) in enumerate(sizes.items(), 1)
        ]
        boxes = {1: [0, 0, 1, 1], 2: [900, 5, 4000, 40]}
        content["annotations"] = [
            {"id": number, "image_id": number, "category_id": 10, "bbox": box, "iscrowd": 0,
             "area": box[2] * box[3]}
            for number, box in boxes.items()
        ]  # fmt: skip

    change(boxed, "train", add)
    code, out, err = run("train", "--data", boxed, *ONE, "--output", tmp_path / "run")
    assert code == 0, err
    assert "The classes 'triangle', 'circle' are seen in val alone, never in training." in out
    record = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert np.isfinite(record["train_loss"])
    assert json.loads((tmp_path / "run/config.json").read_text())["task"] == "detection"
    compare = ["compare", "--output", tmp_path / "c.png", tmp_path / "run"]
    code, out, err = run(*compare)
    assert code == 0, err
    assert "best AP" in out
    assert "parameters of the net" in out
    small = Recipe(model="resnest23_small", epochs=1, size=8, batch_size=8, device="cpu")
    code, _, err = run("train", "--data", colours, *flags(small), "--output", tmp_path / "named")
    assert code == 0, err
    code, _, err = run(*compare, tmp_path / "named")
    assert code == 2
    assert "cannot be compared" in err


def _corners(content: dict[str, Any]) -> None:
    for one in content["annotations"]:
        left, top, width, height = one["bbox"]
        one["bbox"] = [left, top, left + width, top + height]


def _caption(content: dict[str, Any]) -> None:
    content["annotations"] = [{"id": 1, "image_id": 1, "caption": "a shape"}]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_corners, "boxes as [left, top, right, bottom]"),
        (_caption, "captions"),
        (None, "is not JSON"),
    ],
)
def test_annotations_that_are_none_are_one_sentence(
    boxed: Path, run: Run, found: Path, edit: Callable[[dict[str, Any]], None] | None, words: str
) -> None:
    if edit is None:
        (boxed / "annotations/instances_val.json").write_text("{")
    else:
        change(boxed, "val", edit)
    typed = [
        ["train", "--data", boxed, *ONE],
        ["evaluate", found / "run/best.safetensors", boxed],
    ]
    for command in typed:
        code, _, err = run(*command)
        assert code == 2, command
        assert words in err, err
        assert len(err.strip().splitlines()) == 1
    code, out, err = run("doctor", boxed, *ONE, "--no-speed")
    assert code == 2
    assert words in out + err


def test_the_task_is_told_by_the_data_or_the_user(boxed: Path, run: Run, tmp_path: Path) -> None:
    assert "--short-sides" in run("train", "--data", "shapes", "--help")[1]
    assert "--short-sides" in run("train", "--data", boxed, "--help")[1]
    assert "--short-sides" in run("train", "--task", "detection", "--help")[1]
    assert "--mixup" in run("train", "--data", boxed, "--task", "classification", "--help")[1]
    code, _, err = run("train", "--task", "detection", "--recipe", "digits")
    assert code == 2
    assert "is for classification, not for detection" in err
    recipe = tmp_path / "mine.py"
    recipe.write_text("from resnestkit import DetectionRecipe as recipe\n")
    code, _, err = run("train", "--task", "classification", "--recipe", recipe)
    assert code == 2
    assert "is for detection, not for classification" in err


RESULTS = '[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 1}]'


@pytest.mark.parametrize(
    ("place", "text", "words"),
    [
        ("labels.json", "{", "is not JSON"),
        ("labels.json", RESULTS, "holds results, not annotations"),
        ("labels.json", '{"annotations": {}}', "lacks a list of images"),
        ("annotations/labels.json", "{", "is not JSON"),
    ],
)
def test_wrong_files_are_named_whoever_tells_the_task(
    run: Run, tmp_path: Path, place: str, text: str, words: str
) -> None:
    """The file or its folder, as train and doctor are told of them."""
    (tmp_path / "set/images").mkdir(parents=True)
    file = tmp_path / "set" / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    for verb in (["train", "--data"], ["doctor"]):
        for data in (file, tmp_path / "set"):
            code, _, err = run(*verb, data)
            assert (code, len(err.strip().splitlines())) == (2, 1), err
            assert words in err


def test_files_that_are_no_data_tell_no_task(run: Run, colours: Path) -> None:
    """Another program's, beside class folders; and what doctor is to write."""
    (colours / "facts.json").write_text("{")
    assert "--mixup" in run("train", "--data", colours, "--help")[1]
    words = ["doctor", "--json", colours / "facts.json", colours, "--help"]
    assert "--mixup" in run(*words)[1]


def test_a_voc_folder_is_converted_first(run: Run, tmp_path: Path) -> None:
    voc = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages"):
        (voc / folder).mkdir(parents=True)
    for number in range(3):
        Image.effect_noise((40, 30), 90).save(voc / "JPEGImages" / f"{number}.jpg")
        (voc / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename>"
            "<size><width>40</width><height>30</height></size><object><name>cat</name><bndbox>"
            "<xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>28</ymax></bndbox></object>"
            "</annotation>"
        )
    code, _, err = run("train", "--data", voc)
    assert code == 2
    assert f"resnestkit data convert {voc} TARGET" in err
    assert len(err.strip().splitlines()) == 1
    code, out, err = run("data", "convert", voc, tmp_path / "coco")
    assert code == 0, err
    assert "3 of 1 classes" in out
    code, out, err = run("doctor", tmp_path / "coco", *ONE, "--no-speed")
    assert code == 0, err
    assert "cat" in out
    assert run("data", "convert", voc, voc)[0] == 2
    code, _, err = run("data", "covert", voc, tmp_path / "coco")
    assert (code, "Did you mean convert" in err) == (2, True)
    assert "convert" in run("data", "--help")[1]


def test_flags_say_a_recipe() -> None:
    assert flags(DetectionRecipe()) == []
    assert flags(DetectionRecipe(short_sides=(1, 2))) == ["--short-sides", "1", "2"]
