"""Models by name, and the package's face."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import resnestkit
from resnestkit import UserError, create_model, list_models, load_model
from resnestkit.weights.manifest import find_published


def test_alias_classes_channels_and_stride() -> None:
    model = create_model("resnest50d", classes=7, in_channels=4, output_stride=16).eval()
    assert model(torch.zeros(1, 4, 64, 64)).shape == (1, 7)
    assert model.forward_features(torch.zeros(1, 4, 64, 64))["layer4"].shape == (1, 2048, 4, 4)


def test_without_classes_the_call_gives_pooled_features() -> None:
    assert create_model("resnet18", classes=0).eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 512)


def test_meta_device() -> None:
    with torch.device("meta"):
        model = create_model("resnest269")
    assert all(parameter.is_meta for parameter in model.parameters())


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="Did you mean resnest50"):
        create_model("resnest5O")
    with pytest.raises(ValueError, match="8, 16 or 32"):
        create_model("resnet18", output_stride=4)
    with pytest.raises(ValueError, match="batch, sync"):
        create_model("resnet18", norm="layer")


def test_published_weights_are_fetched_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the cache, so that no network is needed: the file is put where a download would."""
    monkeypatch.setenv("RESNESTKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("RESNESTKIT_OFFLINE", "1")
    with pytest.raises(UserError, match=r"resnet18_a1_0-d63eafa0\.pth or timm-"):
        create_model("resnet18", weights="imagenet1k")
    model = create_model("resnet18", classes=1000)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    digits = hashlib.sha256((tmp_path / "mine.pth").read_bytes()).hexdigest()[:8]
    (tmp_path / "mine.pth").rename(tmp_path / f"resnet18-{digits}.pth")
    entry = replace(find_published("resnet18"), file=f"resnet18-{digits}.pth")
    monkeypatch.setattr("resnestkit.weights.loading.find_published", lambda *_: entry)
    monkeypatch.setattr("resnestkit.weights.loading.recognise", lambda *_: entry)
    loaded = create_model("resnet18", classes=7, weights="imagenet1k")
    assert loaded.head_is_new
    assert loaded.preprocessing == entry.preprocessing
    assert entry.preprocessing.interpolation == "bicubic"
    assert torch.equal(loaded.layer4[1].conv2.weight, model.layer4[1].conv2.weight)


def test_weights_must_be_this_nets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        create_model("resnet18", weights=tmp_path / "missing.safetensors")
    with pytest.raises(UserError, match="no checkpoint"):
        load_model(tmp_path / "missing.safetensors")


def test_the_face_is_lazy_and_complete() -> None:
    program = "import sys, resnestkit; resnestkit.list_models(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    for name in resnestkit.__all__:
        assert getattr(resnestkit, name) is not None
        assert name in dir(resnestkit)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = resnestkit.nothing
    assert list_models("resnest2*") == ["resnest26", "resnest200", "resnest269", "resnest23_small"]
