"""Exported files answer without torch, and refuse in one sentence what they cannot do."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from exported_files import CLASSES, expected_logits, write_colour_net
from PIL import Image

from resnestkit.errors import UserError
from resnestkit.runtime import session as session_module
from resnestkit.runtime.card import read_card
from resnestkit.runtime.classifier import ExportedClassifier, rank
from resnestkit.runtime.loading import has_bfloat16, load, name_processor
from resnestkit.runtime.session import measure_precisions, open_session

FORMATS = ("net.onnx", "net.xml")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_the_net(tmp_path: Path, name: str) -> None:
    path = write_colour_net(tmp_path / name)
    for threads in (1, 2, None):
        session = open_session(path, threads)
        assert session.card.classes == CLASSES
        assert session.precision == "float32"
        for shape in ((1, 3, 16, 16), (5, 3, 16, 16), (2, 3, 9, 23)):
            images = noise(*shape)
            assert np.abs(session.run(images) - expected_logits(images)).max() < 1e-5
            assert set(session.run_all(images)) == {"logits"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_known_size_takes_any_batch(tmp_path: Path, name: str) -> None:
    session = open_session(write_colour_net(tmp_path / name), size=(16, 16))
    for batch in (1, 4, 13):
        images = noise(batch, 3, 16, 16)
        assert np.abs(session.run(images) - expected_logits(images)).max() < 1e-5


def test_openvino_meets_powers_of_two_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps kernels for every batch size it has met."""
    met: list[int] = []
    infer = openvino.InferRequest.infer

    def watched(request: Any, inputs: list[Any], **options: Any) -> Any:
        met.append(len(inputs[0]))
        return infer(request, inputs, **options)

    monkeypatch.setattr(openvino.InferRequest, "infer", watched)
    session = open_session(write_colour_net(tmp_path / "net.xml"), size=(16, 16))
    for batch in range(1, 17):
        assert session.run(noise(batch, 3, 16, 16)).shape == (batch, 3)
    assert set(met) == {1, 2, 4, 8, 16}
    assert sum(met) == sum(range(1, 17))


@pytest.mark.parametrize("name", FORMATS)
def test_images_of_other_shapes_are_refused(tmp_path: Path, name: str) -> None:
    session = open_session(write_colour_net(tmp_path / name, batch=2, dynamic=False))
    assert session.run(noise(2, 3, 16, 16)).shape == (2, 3)
    for shape in ((1, 3, 16, 16), (2, 1, 16, 16), (2, 3, 16, 17)):
        with pytest.raises(UserError, match="takes 2 images of 3 channels and 16 x 16"):
            session.run(noise(*shape))


@pytest.mark.parametrize("name", FORMATS)
def test_a_fixed_batch_is_filled_up(tmp_path: Path, name: str) -> None:
    path = write_colour_net(tmp_path / name, batch=3, dynamic=False)
    classifier = ExportedClassifier(path)
    squares = [np.full((16, 16, 3), (40 * i, 9, 200), np.uint8) for i in range(5)]
    together = classifier.logits(squares)
    alone = np.concatenate([classifier.logits([square]) for square in squares])
    assert together.shape == (5, 3)
    assert np.array_equal(together, alone)


def test_bfloat16_is_close_where_there_is_some(tmp_path: Path) -> None:
    path = write_colour_net(tmp_path / "net.xml")
    if not has_bfloat16():
        with pytest.raises(UserError, match="does not multiply in bfloat16"):
            open_session(path, precision="bfloat16")
        return
    session = open_session(path, precision="bfloat16")
    assert session.precision == "bfloat16"
    images = noise(2, 3, 16, 16)
    apart = np.abs(session.run(images) - expected_logits(images)).max()
    assert apart < 0.02 * np.abs(expected_logits(images)).max()


def test_the_quicker_precision_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_colour_net(tmp_path / "net.xml")
    assert set(measure_precisions(path)) <= {"float32", "bfloat16"}
    monkeypatch.setattr(session_module, "has_bfloat16", lambda: True)
    real = load
    monkeypatch.setattr(
        session_module, "load", lambda p, _precision, *rest: real(p, "float32", *rest)
    )
    for quicker, spent in (("bfloat16", (2.0, 1.0)), ("float32", (1.0, 0.99))):
        fresh = write_colour_net(tmp_path / "net.xml")
        times = dict(zip(("float32", "bfloat16"), spent, strict=True))
        monkeypatch.setattr(session_module, "measure_precisions", lambda *_, t=times: t)
        assert open_session(fresh, precision="auto").precision == quicker
        assert read_card(fresh).quickest == {name_processor(): quicker}
        # From now on the card knows, and nothing is measured.
        monkeypatch.setattr(session_module, "measure_precisions", None)
        assert open_session(fresh, precision="auto").precision == quicker
        assert open_session(fresh).precision == quicker
        assert open_session(fresh, precision="float32").precision == "float32"


def test_onnx_runtime_computes_in_float32(tmp_path: Path) -> None:
    path = write_colour_net(tmp_path / "net.onnx")
    assert open_session(path, precision="auto").precision == "float32"
    assert read_card(path).quickest == {}
    with pytest.raises(UserError, match="openvino"):
        open_session(path, precision="bfloat16")


def test_what_cannot_be_loaded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FORMATS:
        with pytest.raises(UserError, match="There is no file"):
            open_session(tmp_path / name)
    whole = write_colour_net(tmp_path / "net.onnx")
    with pytest.raises(UserError, match="--threads is 0"):
        open_session(whole, threads=0)
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x07\x3a\x02\x01\x01" + b"\x72\x04\x0a\x01a\x12")
    with pytest.raises(UserError, match=r"cut\.onnx"):
        open_session(tmp_path / "cut.onnx")
    (tmp_path / "text.onnx").write_bytes(b"\x0a\x03abc")
    with pytest.raises(UserError, match="ONNX Runtime cannot load"):
        load(tmp_path / "text.onnx")
    xml = write_colour_net(tmp_path / "net.xml")
    xml.with_suffix(".bin").unlink()
    with pytest.raises(UserError, match=r"needs net\.bin beside it"):
        open_session(xml)
    with pytest.raises(UserError, match="no runtime known"):
        load(tmp_path / "net.pt2")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"resnestkit\[deploy\]"):
        open_session(whole)


def test_ranks_are_softmax_in_order() -> None:
    logits = np.array([[1.0, 3.0, 2.0], [1000.0, 0.0, 1000.0]], np.float32)
    first, second = rank(logits, ("a", "b", "c"), 2)
    assert [guess.label for guess in first] == ["b", "c"]
    assert first[0].score == pytest.approx(np.exp(3) / np.exp([1, 2, 3]).sum())
    assert [(guess.label, guess.score) for guess in second] == [("a", 0.5), ("c", 0.5)]
    assert len(rank(logits, ("a", "b", "c"), 9)[0]) == 3


PROGRAM = """
import sys
import resnestkit
from resnestkit.cli import run

label = resnestkit.Predictor(sys.argv[1]).predict([sys.argv[2]])[0].label
run(["predict", sys.argv[1], sys.argv[2]])
loaded = {"torch", "torchvision", "torchmetrics", "sklearn", "matplotlib"} & set(sys.modules)
print(label, sorted(loaded))
"""


@pytest.mark.parametrize("name", FORMATS)
def test_predicting_loads_no_torch(tmp_path: Path, name: str) -> None:
    path, image = write_colour_net(tmp_path / name), tmp_path / "green.bmp"
    Image.new("RGB", (20, 30), (10, 250, 20)).save(image)
    words = [sys.executable, "-c", PROGRAM, str(path), str(image)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "green []"
    assert "green.bmp" in done.stdout
