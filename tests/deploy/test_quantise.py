"""Classifiers in int8: what that costs is measured, kept under a bound, or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exported_files import PREPROCESSING, save_tiny_net, write_colour_net
from pictures import draw_class_folders

from resnestkit import Predictor, UserError
from resnestkit.data.images import read_image
from resnestkit.deploy.int8_joins import free_joins
from resnestkit.deploy.quantise import quantise
from resnestkit.deploy.quantisers import find_quantiser
from resnestkit.progress import Reporter
from resnestkit.runtime.card import read_card
from resnestkit.runtime.images import normalise, read_square
from resnestkit.runtime.session import open_session

Run = Callable[..., tuple[int, str, str]]

FORMATS = ("net.onnx", "net.xml")
QUIET = Reporter(quiet=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images by class, in a train and a test folder."""
    draw_class_folders(tmp_path / "data" / "train", 6)
    draw_class_folders(tmp_path / "data" / "test", 5)
    return tmp_path / "data"


@pytest.mark.parametrize("name", FORMATS)
def test_weights_become_eight_bits(tmp_path: Path, data: Path, name: str) -> None:
    source = write_colour_net(tmp_path / name)
    made = quantise(source, data, images=12, reporter=QUIET)
    assert made.path == tmp_path / f"net.int8{source.suffix}"
    assert (made.cost.images, made.cost.float32, made.cost.int8) == (15, 1.0, 1.0)
    assert made.cost.agreement == 1.0
    card = read_card(made.path)
    assert card == made.card
    assert card.precision == "int8"
    assert card.quantised is not None
    assert (card.quantised["learnt_from"], card.quantised["layers"]) == (12, 2)
    assert card.quantised["kept"] == []
    quantiser = find_quantiser(card.format)
    assert all(quantiser.layers(quantiser.read(made.path)).values())
    assert not any(quantiser.layers(quantiser.read(source)).values())
    # It computes with fewer bits: nearly the same, and not the same.
    squares = [read_square(path, PREPROCESSING) for path in sorted(data.rglob("test/*/*.png"))]
    batch = normalise(squares, PREPROCESSING)
    exact, rough = open_session(source).run(batch), open_session(made.path).run(batch)
    assert 0 < np.abs(exact - rough).max() < 0.03 * np.abs(exact).max()
    assert Predictor(made.path).predict([data / "test" / "red" / "00.png"])[0].label == "red"


@pytest.mark.parametrize("name", FORMATS)
def test_layers_that_suffer_stay_in_float32(tmp_path: Path, data: Path, name: str) -> None:
    source = write_colour_net(tmp_path / name, loud=3000.0)
    # The layer that reads the loud map is lost in int8.
    assert quantise(source, data, max_drop=0.9, reporter=QUIET).cost.drop > 0.3
    made = quantise(source, data, max_drop=0.0, reporter=QUIET)
    assert made.cost.drop <= 0
    assert made.card.quantised is not None
    assert len(made.card.quantised["kept"]) >= 1


def test_nothing_is_written_where_the_bound_is_not_met(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_colour_net(tmp_path / "net.onnx", loud=3000.0)
    before = tmp_path / "net.int8.onnx"
    before.write_text("what was there before")
    from resnestkit.deploy import quantising  # noqa: PLC0415  (its method is replaced)

    monkeypatch.setattr(quantising.Work, "_restore", quantising.Work._quantise)
    with pytest.raises(UserError, match="Nothing was written"):
        quantise(source, data, max_drop=0.0, reporter=QUIET)
    assert before.read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "net.int8.onnx", "net.onnx"]


def test_biases_are_corrected_at_once_where_they_cannot_be_one_by_one(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nncf.quantization.algorithms.bias_correction import (  # noqa: PLC0415  (slow to import)
        algorithm,
    )

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a cut went wrong")

    monkeypatch.setattr(algorithm.BiasCorrection, "apply", fail)
    source = write_colour_net(tmp_path / "net.onnx")
    assert quantise(source, data, images=12).cost.int8 == 1.0
    assert "a cut went wrong" in capsys.readouterr().out


def test_a_fixed_batch_and_images_without_splits(tmp_path: Path) -> None:
    source = write_colour_net(tmp_path / "net.onnx", batch=4, dynamic=False)
    undivided = draw_class_folders(tmp_path / "undivided", 7)
    made = quantise(source, undivided, images=5, reporter=QUIET)
    # Those that told the ranges do not measure.
    assert made.cost.images == 21 - 5
    assert made.cost.int8 == 1.0
    assert made.card.quantised is not None
    assert made.card.quantised["learnt_from"] == 5


def test_a_checkpoint_is_exported_first(tmp_path: Path, data: Path) -> None:
    net = save_tiny_net(tmp_path / "net.safetensors", PREPROCESSING)
    made = quantise(net, data, "onnx", max_drop=0.9, images=12, reporter=QUIET)
    assert made.path == tmp_path / "net.int8.onnx"
    assert made.card.quantised is not None
    assert made.card.quantised["layers"] > 10
    images = sorted(data.rglob("test/*/*.png"))
    exact, rough = (Predictor(path).predict(images) for path in (net, made.path))
    same = [ours.label == theirs.label for ours, theirs in zip(exact, rough, strict=True)]
    assert np.mean(same) == pytest.approx(made.cost.agreement)
    # Of the file in float32 nothing is left.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data",
        "net.int8.onnx",
        "net.safetensors",
    ]


def test_joins_for_openvino_are_free_of_steps(tmp_path: Path, data: Path) -> None:
    net = save_tiny_net(tmp_path / "net.safetensors", PREPROCESSING)
    made = quantise(net, data, "openvino", max_drop=0.9, images=4, reporter=QUIET)
    assert free_joins(find_quantiser("openvino").read(made.path)) == 0


def test_the_command_says_what_it_costs(tmp_path: Path, data: Path, run: Run) -> None:
    source = write_colour_net(tmp_path / "net.xml")
    code, out, _ = run("quantise", source, "--data", data, "--json", tmp_path / "card.json")
    assert code == 0
    assert "100.00%  100.00%  0.00 points" in out
    assert "2 of 2 in int8" in out
    assert json.loads((tmp_path / "card.json").read_text())["precision"] == "int8"
    code, out, _ = run("predict", tmp_path / "net.int8.xml", data / "test" / "blue")
    assert code == 0
    assert "green" not in out.split("then", maxsplit=1)[0]


def test_what_cannot_be_is_refused(tmp_path: Path, data: Path) -> None:
    source = write_colour_net(tmp_path / "net.onnx")
    for words, match in (
        ({"max_drop": -0.1}, "--max-drop"),
        ({"images": 0}, "--images"),
        ({"to": "openvino"}, "is for onnx"),
        ({"output": tmp_path / "a.xml"}, r"must end in \.onnx"),
        ({"output": source}, "itself"),
        ({"data": None}, "--data"),
        ({"data": tmp_path / "nowhere"}, "There is no folder"),
    ):
        options = {"data": data, "reporter": QUIET, **words}
        with pytest.raises(UserError, match=match):
            quantise(source, **options)  # type: ignore[arg-type]
    (tmp_path / "one" / "red").mkdir(parents=True)
    shutil.copy(data / "test" / "red" / "01.png", tmp_path / "one" / "red")
    with pytest.raises(UserError, match="holds one image"):
        quantise(source, tmp_path / "one", reporter=QUIET)
    lone = write_colour_net(tmp_path / "lone.xml")
    lone.with_suffix(".bin").unlink()
    with pytest.raises(UserError, match=r"needs lone\.bin beside it"):
        quantise(lone, data, reporter=QUIET)
    with pytest.raises(UserError, match="for PyTorch"):
        quantise(tmp_path / "net.pt2", data, reporter=QUIET)
    made = quantise(source, data, reporter=QUIET)
    with pytest.raises(UserError, match="already"):
        quantise(made.path, data, reporter=QUIET)
    (data / "test" / "red" / "00.png").write_text("no picture")
    with pytest.raises(UserError, match=r"00\.png"):
        quantise(source, data, reporter=QUIET)


def test_pixels_are_those_of_training(data: Path) -> None:
    """What the file was calibrated by and what it will be given are prepared alike."""
    path = data / "test" / "red" / "00.png"
    assert np.array_equal(read_square(path, PREPROCESSING), read_image(path).permute(1, 2, 0))
