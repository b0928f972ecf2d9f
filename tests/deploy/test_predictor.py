"""One predictor for checkpoints and for what was exported of them."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_files import CLASSES, save_tiny_net, write_colour_net
from pictures import draw_class_folders

from resnestkit import Predictor, UserError
from resnestkit.data.decoding import UnreadableImage
from resnestkit.deploy.export import export
from resnestkit.deploy.predictor import collect_images
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.card import read_card, write_card
from resnestkit.runtime.loading import has_bfloat16
from resnestkit.weights.checkpoint import load_checkpoint

Run = Callable[..., tuple[int, str, str]]

PREPROCESSING = Preprocessing(size=24, interpolation="bicubic", channel_order="BGR")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ResNeSt, made for blue, green and red, in every form; and images of these."""
    folder = tmp_path_factory.mktemp("exported")
    draw_class_folders(folder / "colours", 3)
    save_tiny_net(folder / "net.safetensors", PREPROCESSING)
    for to in ("openvino", "onnx", "torch"):
        export(folder / "net.safetensors", to, images=folder / "colours")
    return folder


def test_every_form_answers_alike(folder: Path) -> None:
    images = collect_images([str(folder / "colours")])
    expected = Predictor(folder / "net.safetensors", "cpu").predict(images, top=3)
    assert len({guess.score for one in expected for guess in one.guesses}) > 9
    for name in ("net.xml", "net.onnx", "net.pt2"):
        predictor = Predictor(folder / name)
        assert predictor.card.classes == CLASSES
        for found in (predictor.predict(images, top=3), list(predictor.iterate(images, 3, 2))):
            for ours, theirs in zip(found, expected, strict=True):
                assert ours.image == theirs.image
                assert [g.label for g in ours.guesses] == [g.label for g in theirs.guesses]
                scores = [
                    (g.score, w.score) for g, w in zip(ours.guesses, theirs.guesses, strict=True)
                ]
                assert np.ptp(scores, axis=1).max() < 1e-4


def test_threads_and_precision_are_passed_on(folder: Path) -> None:
    images = collect_images([str(folder / "colours")])
    before = torch.get_num_threads()
    try:
        one = Predictor(folder / "net.safetensors", "cpu", threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    exact = one.predict(images)
    rounded = Predictor(folder / "net.safetensors", "cpu", precision="bfloat16").predict(images)
    assert exact != rounded
    if has_bfloat16():
        rounded = Predictor(folder / "net.xml", precision="bfloat16").predict(images)
        assert rounded != Predictor(folder / "net.xml", threads=1).predict(images)


def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("net.xml", "net.pt2"):
        with pytest.raises(UserError, match="processor"):
            Predictor(folder / name, device="cuda")
    for name in ("net.safetensors", "net.onnx"):
        with pytest.raises(UserError, match="--threads is 0"):
            Predictor(folder / name, threads=0)
    with pytest.raises(UserError, match="float32 on the processor"):
        Predictor(folder / "net.pt2", precision="bfloat16")
    with pytest.raises(UserError, match="says nothing about itself"):
        read_card(_without_card(folder / "net.onnx", tmp_path / "foreign.onnx"))
    other = write_colour_net(tmp_path / "body.onnx")
    write_card(other, replace(read_card(other), kind="backbone", classes=(), outputs=("layer1",)))
    with pytest.raises(UserError, match="holds a backbone"):
        Predictor(other)


def _without_card(source: Path, target: Path) -> Path:
    import onnx  # noqa: PLC0415  (here alone)

    model = onnx.load(source)
    del model.metadata_props[:]
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("part", ["models/model.json", "weights_config.json"])
def test_a_program_that_lacks_a_part_is_said(
    folder: Path, tmp_path: Path, run: Run, part: str
) -> None:
    image = next((folder / "colours").rglob("*.png"))
    with zipfile.ZipFile(folder / "net.pt2") as whole:
        names = whole.namelist()
        assert any(part in name for name in names), names
        with zipfile.ZipFile(tmp_path / "net.pt2", "w") as cut:
            for name in names:
                cut.writestr(name, b"" if part in name else whole.read(name))
    code, _, err = run("predict", tmp_path / "net.pt2", image)
    assert code == 2
    assert "PyTorch cannot load" in err
    assert len(err.splitlines()) == 1


def test_guesses_have_a_place_before_they_are_made(folder: Path, tmp_path: Path, run: Run) -> None:
    for flag in ("--json", "--csv"):
        words = ("predict", folder / "net.xml", folder / "colours", flag)
        code, out, err = run(*words, tmp_path / "none" / "guesses")
        assert (code, out) == (2, "")
        assert "there is no folder" in err


def test_unreadable_images_are_left_out_or_raised(folder: Path, tmp_path: Path) -> None:
    good = collect_images([str(folder / "colours" / "red")])
    (tmp_path / "bad.png").write_text("no picture")
    mixed = [good[0], tmp_path / "bad.png", *good[1:]]
    for name in ("net.safetensors", "net.xml"):
        predictor = Predictor(folder / name)
        unreadable: list[UnreadableImage] = []
        found = list(predictor.iterate(mixed, unreadable=unreadable))
        assert [one.image for one in found] == [str(path) for path in good]
        assert [Path(one.name).name for one in unreadable] == ["bad.png"]
        with pytest.raises(UnreadableImage, match="not an image"):
            predictor.predict(mixed)


def test_the_command_predicts_with_every_form(folder: Path, run: Run, tmp_path: Path) -> None:
    tables = set()
    for name in ("net.safetensors", "net.xml", "net.onnx"):
        words = ["predict", folder / name, folder / "colours", "--threads", "1"]
        code, out, err = run(*words, "--json", tmp_path / "said.json")
        assert (code, err) == (0, "")
        tables.add(out)
    assert len(tables) == 1
    code, _, err = run("predict", folder / "net.xml", folder / "colours", "--score", "0.5")
    assert code == 2
    assert "--score is for detectors" in err


def test_a_checkpoint_is_left_as_it_was(folder: Path) -> None:
    card, _ = load_checkpoint(folder / "net.safetensors")
    assert card.preprocessing == PREPROCESSING == read_card(folder / "net.xml").preprocessing
