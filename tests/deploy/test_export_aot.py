"""Programs that AOTInductor compiled, at sizes that it did not see."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from builders import randomize_norms

from resnestkit.deploy.checking import compare
from resnestkit.deploy.export import export
from resnestkit.errors import UserError
from resnestkit.factory import load_model, save_model
from resnestkit.models.resnet import ResNet
from resnestkit.models.spec import NetSpec
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.card import read_card


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small net whose shortcut averages with rounding up."""
    spec = NetSpec((1, 1), "basic", (8, 8), "small", 8, pool="none", shortcut="avg")
    net = ResNet(spec, classes=3)
    randomize_norms(net, torch.randn(4, 3, 24, 24))
    net.head_is_new = False
    save_model(net, tmp_path / "net.safetensors", preprocessing=Preprocessing(24))
    return tmp_path / "net.safetensors"


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_averages_are_right_at_odd_sizes(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AOTInductor compiles rounding up for the example's size alone: ours must not round."""
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # helpers take long to start
    exported = export(checkpoint, "aot")
    assert exported.path.name == "net.aot.pt2"
    assert read_card(exported.path) == exported.card
    program = torch._inductor.aoti_load_package(str(exported.path))
    model, _ = load_model(checkpoint)
    for shape in ((1, 3, 9, 9), (2, 3, 17, 23), (5, 3, 32, 16)):
        images = torch.randn(shape)
        with torch.no_grad():
            found, expected = program(images), model(images)
        assert compare([found.numpy()], [expected.numpy()]) < 1e-5


def test_without_a_compiler_it_says_what_to_do(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no C\+\+ compiler no-such-compiler.*--to torch"):
        export(checkpoint, "aot")
    assert [file.name for file in checkpoint.parent.iterdir()] == ["net.safetensors"]
