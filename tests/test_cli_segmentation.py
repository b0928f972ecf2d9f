"""The command line for segmenters, and what is wrong with masks, as a user meets it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from masked_pictures import TINY, draw_masked_scenes
from PIL import Image
from test_cli_detection import flags

from resnestkit import create_model, save_model
from resnestkit.data.segmentation.scenes import CLASSES

Run = Callable[..., tuple[int, str, str]]

ONE = flags(TINY, epochs=1, precise_norm=0)


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    return draw_masked_scenes(tmp_path / "masked", {"train": 4, "val": 2})


def test_evaluate_prints_each_class_and_its_protocol(
    segmented: Path, run: Run, tmp_path: Path
) -> None:
    written = tmp_path / "e.json"
    words = ["evaluate", segmented / "run/best.safetensors", segmented / "scenes"]
    code, out, err = run(*words, "--json", written)
    assert code == 0, err
    rows = {line.split("  ")[0] for line in out.splitlines()}
    assert set(CLASSES) <= rows
    assert "mIoU" in out
    assert "protocol    single scale, longer side of 64 pixels" in out
    values = json.loads(written.read_text())
    assert values["classes"] == list(CLASSES)
    assert len(values["confusion"]) == len(values["per_class"]) == len(CLASSES)
    code, out, err = run(*words, "--scales", "0.5", "1", "--flip", "--windows", "48")
    assert code == 0, err
    assert "2 scales from 0.5 to 1, mirrored, windows of 48 pixels" in out
    code, out, err = run(*words, "--side", "0", "--no-flip")
    assert code == 0, err
    assert "protocol    single scale\n" in out
    code, _, err = run(*words, "--flip", "--no-flip")
    assert (code, "exclude each other" in err) == (2, True), err
    for flag, said in ((["--scales", "0"], "--scales is 0"), (["--results", "r.json"], "detector")):
        code, _, err = run(*words, *flag)
        assert (code, said in err) == (2, True), err


def test_a_segmenters_flags_are_refused_for_others(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_model(create_model(TINY.model, classes=2), file)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    flags = (["--scales", "1"], ["--flip"], ["--windows", "0"], ["--side", "0"])
    for flag in flags:
        code, _, err = run("evaluate", file, tmp_path, *flag)
        assert (code, f"{flag[0]} is for segmenters" in err) == (2, True), err
    for flag in (*flags, ["--tile", "0"], ["--max-megapixels", "9"]):
        code, _, err = run("predict", file, tmp_path / "a.png", *flag)
        assert (code, f"{flag[0]} is for segmenters" in err) == (2, True), err


def test_predict_writes_masks_overlays_and_a_legend(
    segmented: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name, size in (("dot.png", (1, 1)), ("plain.jpg", (64, 48))):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "words.jpg").write_text("no image")
    best = segmented / "run/best.safetensors"
    code, out, err = run("predict", best, "pictures", "--json", "p.json", "--csv", "p.csv")
    assert code == 1
    assert "words.jpg: not an image" in err
    assert len(err.strip().splitlines()) == 1
    assert "protocol    single scale, longer side of 64 pixels" in out
    with Image.open("segmentation/plain.png") as mask:
        assert (mask.mode, mask.size) == ("P", (64, 48))
        found = np.asarray(mask)
    assert found.max() < len(CLASSES)
    legend = json.loads(Path("segmentation/legend.json").read_text())
    assert [one["name"] for one in legend["classes"]] == list(CLASSES)
    with Image.open("segmentation/plain.overlay.png") as overlay:
        assert overlay.size == (64, 48)
    said = json.loads(Path("p.json").read_text())
    assert [Path(one["image"]).name for one in said] == ["dot.png", "plain.jpg"]
    shares = {CLASSES[k]: float((found == k).mean()) for k in np.unique(found)}
    assert said[1]["shares"] == pytest.approx(shares)
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    assert {row["class"] for row in rows if "plain" in row["image"]} == set(shares)
    code, _, err = run("predict", best, "pictures/plain.jpg", "--top", "3")
    assert (code, "--top is for classifiers" in err) == (2, True)
    code, out, err = run("predict", best, "pictures/plain.jpg", "--output", "more", "--flip")
    assert code == 0, err
    assert "mirrored" in out
    assert Path("more/plain.png").is_file()
    code, _, err = run(
        "predict", best, "pictures/plain.jpg", "--output", "new", "--csv", "new/p.csv"
    )
    assert (code, Path("new/p.csv").is_file()) == (0, True), err
    code, _, err = run(
        "predict", best, "pictures/plain.jpg", "--output", "not", "--json", "no/p.json"
    )
    assert (code, "there is no folder no" in err, Path("not").exists()) == (2, True, False)
    code, out, err = run("evaluate", best, segmented / "scenes", "--json", "no/e.json")
    assert (code, "there is no folder no" in err, out) == (2, True, "")


def test_doctor_looks_at_masks(segmented: Path, run: Run, tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    code, out, err = run("doctor", segmented / "scenes", *flags(TINY), "--json", facts)
    assert code == 0, err
    for part in ("train       8 images", "labelled pixels", "deeplabv3 on", "speed", "verdict"):
        assert part in out
    values = json.loads(facts.read_text())
    assert values["counted"] == "labelled pixels"
    assert set(values["splits"]["val"]["classes"]) == set(CLASSES)
    assert values["speed"]["stepping"] > 0
    assert values["memory"]["total"] > 0
    assert len(values["balanced_weights"]) == len(CLASSES)


def test_images_of_any_shape_are_trained_on(masked: Path, run: Run, tmp_path: Path) -> None:
    for name, size in (("dot.png", (1, 1)), ("strip.png", (2_000, 9))):
        Image.effect_noise(size, 90).convert("RGB").save(masked / "images/train" / name)
        Image.new("L", size, 255 if name == "dot.png" else 2).save(masked / "labels/train" / name)
    code, out, err = run("train", "--data", masked, *ONE, "--output", tmp_path / "run")
    assert code == 0, err
    assert "mIoU" in out
    record = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert np.isfinite(record["train_loss"])
    assert json.loads((tmp_path / "run/config.json").read_text())["task"] == "segmentation"
    code, out, err = run("compare", "--output", tmp_path / "c.png", tmp_path / "run")
    assert code == 0, err
    assert "best mIoU" in out


def _in_colours(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)


def _as_jpeg(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


def _of_another_size(folder: Path) -> None:
    path = next(folder.rglob("*.png"))
    Image.new("L", (7, 5)).save(path)


def _with_a_strange_number(folder: Path) -> None:
    path = next(folder.rglob("*.png"))
    Image.fromarray(np.full_like(np.asarray(Image.open(path)), 77)).save(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_in_colours, "saved in colours (RGB)"),
        (_as_jpeg, "JPEG"),
        (_of_another_size, "its mask is 7x5"),
        (_with_a_strange_number, "77"),
    ],
)
def test_masks_that_are_none_are_one_sentence(
    masked: Path, run: Run, segmented: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(masked / "labels")
    typed = [
        ["train", "--data", masked, *ONE],
        ["evaluate", segmented / "run/best.safetensors", masked, "--split", "train"],
        ["evaluate", segmented / "run/best.safetensors", masked, "--split", "val"],
    ]
    refused = 0
    for command in typed:
        code, _, err = run(*command)
        if code == 0 and command is not typed[0]:
            continue  # a mask of the other split
        refused += 1
        assert code == 2, command
        assert words in err, err
        assert len(err.strip().splitlines()) == 1
    assert refused >= 2
    code, out, err = run("doctor", masked, *ONE, "--no-speed")
    assert code == 2
    assert words in out + err


def test_the_task_is_told_by_the_data_or_the_user(masked: Path, run: Run) -> None:
    assert "--crop-size" in run("train", "--data", "scenes", "--help")[1]
    assert "--crop-size" in run("train", "--data", masked, "--help")[1]
    assert "--crop-size" in run("train", "--task", "segmentation", "--help")[1]
    assert "--mixup" in run("train", "--data", masked, "--task", "classification", "--help")[1]
    assert "--crop-size" in run("doctor", masked, "--help")[1]
    code, _, err = run("train", "--task", "detection", "--recipe", "ade20k_deeplabv3")
    assert code == 2
    assert "is for segmentation, not for detection" in err
