"""`resnestkit benchmark` from end to end, on nets and images that are small."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnestkit import UserError, create_model, save_model
from resnestkit.bench.contenders import Contender, Plan
from resnestkit.bench.floors import LINKS, _chain, open_floor
from resnestkit.bench.making import Workshop, quantise
from resnestkit.bench.memory import ask_peak
from resnestkit.bench.results import Heat, Row
from resnestkit.bench.running import Settings, _Bench, benchmark
from resnestkit.bench.subjects import make_subject
from resnestkit.deploy.int8_joins import free_joins
from resnestkit.models.zoo import find_net
from resnestkit.progress import Reporter
from resnestkit.runtime.openvino_core import openvino_core

Run = Callable[..., tuple[int, str, str]]
ONLY = ("resnestkit*float32", "timm, eager*", "torchvision*eager*")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Where resnest14's contenders are made, each file once for all tests."""
    return Workshop(make_subject("resnest14", 64), tmp_path_factory.mktemp("shop"))


@pytest.fixture
def quiet() -> _Bench:
    return _Bench(Settings((1,), 2, 1, memory=False), Reporter(quiet=True))


def test_benchmark_measures_ours_beside_the_peers(run: Run, tmp_path: Path) -> None:
    files = ["--json", tmp_path / "out.json", "--plot", tmp_path / "out.png"]
    flags = ["--size", "64", "--batch", "1", "2", "--rounds", "2", "--threads", "1"]

    code, out, err = run("benchmark", "resnest14", *flags, "--no-memory", "--only", *ONLY, *files)

    assert (code, err) == (0, "")
    assert "resnest14, 64x64, batch 2" in out
    values = json.loads((tmp_path / "out.json").read_text())
    assert values["left_out"] == []
    for heat in values["heats"]:
        whos = {row["who"]: row for row in heat["rows"]}
        assert set(whos) == {"resnestkit, OpenVINO", "timm, eager", "torchvision resnet50, eager"}
        assert whos["timm, eager"]["net"] == "resnest14d"
        assert all(len(row["seconds"]) == 2 for row in heat["rows"])
        assert all(row["share_of_floor"] > 0 for row in heat["rows"])
    assert [r["peer"] for r in values["ratios"]] == ["timm, eager, float32"] * 2
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_checkpoint_is_measured_by_its_own_settings(tmp_path: Path, quiet: _Bench) -> None:
    model = create_model("resnest23_small", classes=3)
    save_model(model, tmp_path / "mine.safetensors", classes=["a", "b", "c"])

    subject = make_subject(str(tmp_path / "mine.safetensors"), None)

    assert (subject.name, subject.classes, subject.net.name) == ("mine", 3, "resnest23_small")
    assert subject.size == 32
    assert subject.macs == pytest.approx(find_net("resnest23_small").gmacs * 1e9, rel=0.01)
    shop = Workshop(subject, tmp_path)
    assert quiet._try("timm, eager", lambda: shop.make(Plan("timm", "eager"))) == []
    assert quiet.left_out == ["timm, eager: timm has no resnest23_small"]


def test_net_is_meant_where_a_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resnest23_small").mkdir()
    monkeypatch.chdir(tmp_path)

    assert make_subject("resnest23_small", None).net.name == "resnest23_small"
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="runs"):
        make_subject("runs", None)


def test_ours_in_int8_is_close_to_the_net(shop: Workshop) -> None:
    contender = shop.make(Plan("resnestkit", "OpenVINO", "int8"))

    check_rounding(shop, shop.subject.model, contender)
    assert Path(contender.path).name == "resnestkit-int8.xml"
    assert free_joins(openvino_core().read_model(contender.path)) == 0  # they are free already


def test_peer_in_int8_is_close_to_the_net(shop: Workshop) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 9, 3), nn.Flatten()).eval()
    shop._write_onnx(net, shop.folder / "small.onnx")

    made = quantise(shop.folder / "small.onnx", shop.noise(2), finished=False)

    plan = Plan("timm", "ONNX Runtime", "int8")
    check_rounding(shop, net, Contender(plan, str(made), "small", 9, 3, 1))


def check_rounding(shop: Workshop, net: nn.Module, contender: Contender) -> None:
    """What int8 gives is neither what float32 gives, nor anything else."""
    images = shop.noise(2)
    with torch.inference_mode():
        expected = net(torch.from_numpy(images)).numpy()
    found = open_all(contender)(images)[0]
    assert np.abs(found - expected).max() > 1e-4 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9


def open_all(contender: Contender) -> Any:
    from resnestkit.bench.contenders import open_contender  # noqa: PLC0415  (as the child does)

    return open_contender(contender, 1, 64)


def test_peer_that_computes_something_else_is_left_out(shop: Workshop, quiet: _Bench) -> None:
    contender = shop.make(Plan("timm", "eager"))
    images = shop.noise(1)
    expected = open_all(contender)(images)

    assert quiet._open([contender], images, lambda _: expected)
    assert not quiet._open([contender], images, lambda _: [expected[0] + 1])

    [line] = quiet.left_out
    assert line.startswith("timm, eager, float32, batch 1: its logits differ from the net's by")


def test_peer_that_breaks_is_left_out_with_a_line(quiet: _Bench) -> None:
    def fail() -> None:
        raise RuntimeError("no such kernel\nand a long story")

    assert quiet._try("timm, torch.compile", fail) == []
    assert quiet.left_out == ["timm, torch.compile: RuntimeError: no such kernel"]


def test_floor_multiplies_in_the_precision_that_it_says() -> None:
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(_chain("int8"), "CPU", settings)
    ran = [
        op.get_rt_info()["runtimePrecision"].astype(str)
        for op in compiled.get_runtime_model().get_ordered_ops()
        if op.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]

    assert len(ran) == LINKS
    assert set(ran) <= {"u8", "i8"}
    assert open_floor("float32", 1)() is not None


def test_memory_is_that_of_a_process_without_torch(shop: Workshop) -> None:
    contender = shop.make(Plan("resnestkit", "OpenVINO"))

    peak = ask_peak(contender, 1, 1, 64)

    weights = Path(contender.path).with_suffix(".bin").stat().st_size / 1e6
    assert peak is not None
    assert weights < peak < weights + 2000
    loaded = "import sys, resnestkit.bench.memory; print('torch' in sys.modules)"
    answer = subprocess.check_output([sys.executable, "-c", loaded], text=True)
    assert answer.strip() == "False"


def test_memory_of_what_cannot_be_opened_is_unknown(tmp_path: Path) -> None:
    gone = Contender(Plan("timm", "OpenVINO"), str(tmp_path / "gone.xml"), "gone", 2, 3, 1)

    assert ask_peak(gone, 1, 1, 64) is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["resnest5"], "There is no net and no file 'resnest5'. Did you mean resnest50"),
        (["resnest14", "--rounds", "0"], "--rounds is 0; it must be 1 or more"),
        (["resnest14", "--batch", "0"], "--batch is 0; it must be 1 or more"),
        (["resnest14", "--threads", "0"], "--threads is 0; it must be 1 or more"),
        (["resnest14", "--only", "openvino"], "Nobody's name fits openvino"),
        (["resnest14", "--size", "0"], "--size is 0; it must be 1 or more"),
        (["resnest14", "--batch"], "--batch names no number of images"),
        (["resnest14", "--json", "no/such/place.json"], "there is no folder no/such"),
        (["resnest14", "--plot", "."], "it is a folder"),
    ],
)
def test_mistakes_are_said(run: Run, words: list[str], sentence: str) -> None:
    code, _, err = run("benchmark", *words)

    assert code == UserError.exit_code
    assert sentence in err


def test_every_word_is_looked_at_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[str] = []
    monkeypatch.setattr(_Bench, "run", lambda _self, word, _size: measured.append(word) or [])
    (tmp_path / "text.safetensors").write_text("no checkpoint")

    for words, sentence in (
        (["resnest14", "resnest5"], "no net and no file 'resnest5'"),
        (["resnest14", str(tmp_path / "text.safetensors")], "is not a checkpoint"),
        ([], "Give the nets"),
    ):
        with pytest.raises(UserError, match=sentence):
            benchmark(words, Settings(memory=False))
    assert measured == []


def test_what_was_measured_before_ctrl_c_is_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contender = Row(Plan("resnestkit", "OpenVINO"), "resnest14", 1, 1.0, (0.5,))
    heat = Heat("resnest14", 1, 64, None, (contender,), ())

    def measure(_self: object, word: str, _size: object) -> list[Heat]:
        if word != "resnest14":
            raise KeyboardInterrupt
        return [heat]

    monkeypatch.setattr(_Bench, "run", measure)
    words = ["benchmark", "resnest14", "resnest26", "resnest50", "--json", tmp_path / "out.json"]
    code, out, _ = run(*words)

    assert code == 130
    assert "500.00" in out
    values = json.loads((tmp_path / "out.json").read_text())
    assert [one["net"] for one in values["heats"]] == ["resnest14"]
    assert values["left_out"] == ["resnest26, and all nets behind it: stopped"]
    code, _, err = run("benchmark", "resnest26")
    assert (code, err) == (130, "resnestkit: stopped.\n")


def test_nobody_left_is_said(quiet: _Bench) -> None:
    only = Settings((1,), 1, 1, only=("timm, eager*",), memory=False)
    with pytest.raises(UserError, match=r"There is nothing to measure.*has no resnest23_small"):
        benchmark(["resnest23_small"], only)
