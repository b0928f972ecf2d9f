"""Exported files: in their runtimes, at shapes that nobody traced, against the model itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from builders import randomize_norms
from numpy.typing import NDArray
from PIL import Image

from resnestkit.deploy import export as export_module
from resnestkit.deploy.checking import check, check_shapes, compare, find_check_images, refuse
from resnestkit.deploy.export import export
from resnestkit.deploy.form import make_deploy_form
from resnestkit.detectors import create_detector, save_detector
from resnestkit.errors import UserError
from resnestkit.factory import load_model, save_model
from resnestkit.models.resnet import ResNet
from resnestkit.models.spec import NetSpec
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.card import Check, InputForm, read_card
from resnestkit.runtime.openvino_core import openvino_core
from resnestkit.segmenters import create_segmenter, load_segmenter, save_segmenter

Run = Callable[..., tuple[int, str, str]]

CLASSES = ("cat", "dog", "owl")
SIDE = 24
SHAPES = ((1, 9, 9), (2, 17, 23), (5, 32, 16))
"""Batches and sizes, none of them traced."""


def make_net(**options: Any) -> ResNet:
    """A small net of the family's hardest parts: split attention, averages that round up, avd."""
    spec = NetSpec(
        layers=(1, 1),
        widths=(8, 8),
        stem="small",
        stem_width=8,
        pool="none",
        shortcut="avg",
        radix=2,
        avd="before",
    )
    net = ResNet(spec, **options)
    randomize_norms(net, torch.randn(4, 3, SIDE, SIDE))
    return net


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that passes for a trained one."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    net = make_net(classes=len(CLASSES))
    net.head_is_new = False
    save_model(net, path, CLASSES, Preprocessing(SIDE, crop_ratio=1.0))
    return path


def draw(batch: int, height: int, width: int) -> NDArray[np.float32]:
    return torch.randn(batch, 3, height, width).numpy()


def expect(checkpoint: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    model, _ = load_model(checkpoint)
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
    return logits


def test_onnx(checkpoint: Path, tmp_path: Path) -> None:
    exported = export(checkpoint, "onnx", tmp_path / "net.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    onnx.checker.check_model(onnx.load(exported.path), full_check=True)
    session = onnxruntime.InferenceSession(exported.path)
    [images_in], [logits_out] = session.get_inputs(), session.get_outputs()
    assert (images_in.name, images_in.shape) == ("images", ["batch", 3, "height", "width"])
    assert (logits_out.name, logits_out.shape) == ("logits", ["batch", len(CLASSES)])
    for shape in SHAPES:
        images = draw(*shape)
        [logits] = session.run(None, {"images": images})
        assert compare([logits], [expect(checkpoint, images)]) < 1e-5
    card = read_card(exported.path)
    assert card == exported.card
    assert (card.kind, card.classes, card.outputs) == ("classifier", CLASSES, ("logits",))
    assert card.preprocessing == Preprocessing(SIDE, crop_ratio=1.0)
    assert [(row.batch, row.height, row.width) for row in card.checked] == check_shapes(card.input)
    assert all(row.difference < 1e-5 and row.agreement == 1 for row in card.checked)
    assert all(row.runtime_ms > 0 and row.torch_ms > 0 for row in card.checked)
    assert "digits" in card.checked_on
    assert card.versions["onnxruntime"] == onnxruntime.__version__


def test_openvino_by_the_command(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    output, said = tmp_path / "net.xml", tmp_path / "said.json"
    code, out, err = run(
        "export", checkpoint, "--to", "openvino", "--output", output, "--json", said
    )
    assert code == 0, err
    assert f"{SIDE} x {SIDE}" in out
    assert f"file        {output}" in out
    assert json.loads(said.read_text())["classes"] == list(CLASSES)
    compiled = openvino_core().compile_model(output, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert [port.get_any_name() for port in compiled.inputs] == ["images"]
    assert [port.get_any_name() for port in compiled.outputs] == ["logits"]
    for shape in SHAPES:
        images = draw(*shape)
        assert compare([compiled([images])[0]], [expect(checkpoint, images)]) < 1e-5
    assert read_card(output).format == "openvino"


def test_torch_program(checkpoint: Path, tmp_path: Path) -> None:
    exported = export(checkpoint, "torch", tmp_path / "net.pt2")
    program = torch.export.load(exported.path).module()
    for shape in SHAPES:
        images = draw(*shape)
        found = program(torch.from_numpy(images)).detach().numpy()
        assert compare([found], [expect(checkpoint, images)]) < 1e-5
    assert read_card(exported.path) == exported.card


def test_a_static_file_takes_its_own_shape_alone(checkpoint: Path, tmp_path: Path) -> None:
    exported = export(checkpoint, "torch", tmp_path / "net.pt2", size=20, static=True, batch=2)
    program = torch.export.load(exported.path).module()
    images = draw(2, 20, 20)
    found = program(torch.from_numpy(images)).detach().numpy()
    assert compare([found], [expect(checkpoint, images)]) < 1e-5
    with pytest.raises(AssertionError):
        program(torch.zeros(1, 3, 20, 20))
    assert exported.card.preprocessing.size == 20
    assert (exported.card.input.batch, exported.card.input.dynamic) == (2, False)
    assert [(row.batch, row.height) for row in exported.card.checked] == [(2, 20)]


def test_a_backbone_gives_its_stages(tmp_path: Path) -> None:
    net = make_net(classes=0).eval()
    save_model(net, tmp_path / "net.safetensors", preprocessing=Preprocessing(SIDE))
    exported = export(tmp_path / "net.safetensors", "openvino")
    assert exported.path == tmp_path / "net.xml"
    assert (exported.card.kind, exported.card.outputs) == ("backbone", tuple(net.stage_names))
    compiled = openvino_core().compile_model(
        exported.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    images = draw(2, 19, 26)
    with torch.no_grad():
        features = net.forward_features(torch.from_numpy(images))
    found = compiled([images])
    for name, expected in features.items():
        assert compare([found[name]], [expected.numpy()]) < 1e-5


def test_a_segmenter_gives_every_pixel(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    model = create_segmenter("fcn", "resnet18", classes=3, settings="light")
    randomize_norms(model, torch.randn(2, 3, 64, 64))
    model.head_is_new = False
    save_segmenter(model, path, CLASSES, palette=[(0, 0, 0), (9, 9, 9), (1, 2, 3)])
    exported = export(path, "openvino", size=(33, 48))
    card = exported.card
    assert (card.kind, card.palette[2]) == ("segmenter", (1, 2, 3))
    compiled = openvino_core().compile_model(
        exported.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    model, _ = load_segmenter(path)
    images = draw(2, 41, 27)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    found = compiled([images])[0]
    assert found.shape == (2, 3, 41, 27)
    assert compare([found], [expected]) < 1e-5


def test_a_dilated_resnest_with_deeplabs_head_gives_every_pixel(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    model = create_segmenter("deeplabv3", "resnest23_small", classes=3, settings="light")
    randomize_norms(model, torch.randn(2, 3, 64, 64))
    model.head_is_new = False
    save_segmenter(model, path, CLASSES)
    exported = export(path, "onnx", size=(33, 48))
    assert (exported.card.kind, exported.card.classes) == ("segmenter", CLASSES)
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    images = draw(2, 41, 27)
    with torch.no_grad():
        expected = load_segmenter(path)[0](torch.from_numpy(images)).numpy()
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    assert found.shape == (2, 3, 41, 27)
    assert compare([found], [expected]) < 1e-5


def test_a_file_that_differs_is_not_kept(
    checkpoint: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check compares with the model, not with the form that the file was made of."""

    def make_wrong_form(model: torch.nn.Module, in_channels: int) -> torch.nn.Module:
        form = make_deploy_form(model, in_channels)
        form.get_submodule("fc").weight.data[0, 0] += 0.01
        return form

    output = tmp_path / "net.pt2"
    output.write_text("an earlier one")
    monkeypatch.setattr(export_module, "make_deploy_form", make_wrong_form)
    code, _, err = run("export", checkpoint, "--to", "torch", "--output", output)
    assert code == 2
    assert "differ" in err
    assert len(err.strip().splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]
    assert output.read_text() == "an earlier one"


def test_what_cannot_be_exported_is_said_in_one_sentence(
    checkpoint: Path, tmp_path: Path, run: Run
) -> None:
    new, detector = tmp_path / "new.safetensors", tmp_path / "boxes.safetensors"
    save_model(make_net(classes=3), new)
    save_detector(create_detector("retinanet", "resnet18", 2, settings="light"), detector)
    (tmp_path / "empty").mkdir()
    cases: list[tuple[list[str | Path], str]] = [
        ([new], "never trained"),
        ([detector], "holds a detector"),
        ([tmp_path / "none.safetensors"], "no checkpoint"),
        ([checkpoint, "--to", "onnx", "--output", tmp_path / "net.xml"], "must end in .onnx"),
        ([checkpoint, "--size", "0"], "--size is"),
        ([checkpoint, "--size", "20", "24"], "looks at squares"),
        ([checkpoint, "--batch", "2"], "goes with --static"),
        ([checkpoint, "--static", "--batch", "0"], "--batch is 0"),
        ([checkpoint, "--images", tmp_path / "empty"], "no images in"),
        ([checkpoint, "--output", checkpoint / "net.xml"], "Cannot make"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for words, expected in cases:
        code, _, err = run("export", *words)
        assert code == 2, words
        assert expected in err, (words, err)
        assert len(err.strip().splitlines()) == 1, err
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(UserError, match="Did you mean onnx"):
        export(checkpoint, "onx")  # type: ignore[arg-type]


def test_refuses_what_rounding_does_not_explain() -> None:
    row = Check(1, 8, 8, difference=9e-5, agreement=1.0, torch_ms=1.0, runtime_ms=1.0)
    refuse([row], "net.onnx")
    for difference in (1.1e-4, float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"net\.onnx was not written: for 1 x 8 x 8"):
            refuse([row, replace(row, difference=difference)], "net.onnx")


def test_a_file_that_fails_at_another_size_is_not_kept() -> None:
    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        if images.shape[2:] != (16, 16):
            raise RuntimeError("index out of bounds")
        return [images.mean((2, 3))]

    form = InputForm(3, 16, 16)
    pictures = [torch.zeros(3, 20, 20, dtype=torch.uint8)]
    with pytest.raises(UserError, match=r"fails for 3 x 3 x 11 x 11; give --static.*index out of"):
        check(run, run, form, pictures, Preprocessing(16), decides=True)
    rows = check(
        run, run, replace(form, batch=2, dynamic=False), pictures, Preprocessing(16), decides=True
    )
    assert [(row.batch, row.difference, row.agreement) for row in rows] == [(2, 0.0, 1.0)]


def test_compare_takes_shares_of_the_largest_output() -> None:
    one = np.array([[1.0, -4.0]])
    assert compare([one], [one]) == 0
    assert compare([one + np.array([0, 0.4])], [one]) == pytest.approx(0.1)
    assert compare([one, one], [one, one * 2]) == pytest.approx(0.5)
    assert compare([one.T], [one]) == float("inf")
    assert compare([one * np.nan], [one]) == float("inf")


def test_check_shapes_fit_what_a_file_takes() -> None:
    form = InputForm(3, 224, 224, least_side=33)
    assert check_shapes(form) == [(1, 224, 224), (3, 224, 224), (3, 160, 160), (1, 169, 253)]
    assert all(side >= 33 for row in check_shapes(replace(form, height=33)) for side in row[1:])
    rows = check_shapes(InputForm(3, 96, 64, least_side=64, multiple=32))
    assert all(side % 32 == 0 and side >= 64 for row in rows for side in row[1:])
    assert check_shapes(InputForm(3, 40, 50, batch=4, dynamic=False)) == [(4, 40, 50)]


def test_check_images_are_the_folders_then_the_models_own(tmp_path: Path) -> None:
    (tmp_path / "own" / "red").mkdir(parents=True)
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "own" / "red" / "0.png")
    (tmp_path / "own" / "red" / "1.png").write_bytes(b"")
    images, words = find_check_images(str(tmp_path / "own"), None, 3)
    assert [image.shape for image in images] == [(3, 10, 20)]
    assert "own" in words
    (tmp_path / "other").mkdir()
    Image.new("L", (7, 7), 9).save(tmp_path / "other" / "0.png")
    images, words = find_check_images(str(tmp_path / "own"), tmp_path / "other", 1)
    assert [image.shape for image in images] == [(1, 7, 7)]
    assert "other" in words
    images, words = find_check_images(str(tmp_path / "gone"), None, 5)
    assert {image.shape for image in images} == {(5, 8, 8)}
    assert "not at hand" in words


def test_reading_a_card_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; import resnestkit.runtime.card\n"
        "assert not {'torch', 'onnx', 'openvino', 'onnxruntime'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
