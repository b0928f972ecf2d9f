"""Loading cannot fool anyone: strict unless told otherwise, and a new head never answers."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from resnestkit import Predictor, UserError, cli, create_model, load_model, save_model
from resnestkit.models.layers import is_norm
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.convert import convert, inspect
from resnestkit.weights.loading import load_weights
from resnestkit.weights.manifest import find_published

SMALL = "resnest23_small"
CAFFE = Preprocessing(32, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), channel_order="BGR")


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Weights of a net of 5 classes, without a card."""
    torch.manual_seed(0)
    path = tmp_path / "whole.safetensors"
    save_file(create_model(SMALL, classes=5, zero_gamma=False).state_dict(), path)
    return path


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """The same, where the last block of another width is missing."""
    state = create_model(SMALL, classes=5, zero_gamma=False).state_dict()
    state = {name: t for name, t in state.items() if not name.startswith("layer4.1.")}
    state["layer3.0.conv1.weight"] = torch.zeros(3, 3)
    save_file(state | {"extra": torch.zeros(1)}, tmp_path / "half.safetensors")
    return tmp_path / "half.safetensors"


def test_half_a_net_is_refused_unless_asked_for(half: Path) -> None:
    with pytest.raises(UserError, match=r"1 unexpected \(extra\), 1 reshaped.*Say partial"):
        create_model(SMALL, classes=5, weights=half)
    with pytest.warns(UserWarning, match=r"loaded in part: \d+ tensors fit, \d+ missing") as seen:
        model = create_model(SMALL, classes=5, weights=half, partial=True)
    assert len(seen) == 1
    assert not model.head_is_new


def test_a_partial_load_takes_all_that_fits_and_nothing_else(half: Path) -> None:
    torch.manual_seed(1)
    model = create_model(SMALL, classes=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    coverage = load_weights(model, half, partial=True)
    after = model.state_dict()
    assert coverage.reshaped == ("layer3.0.conv1.weight",)
    assert coverage.unexpected == ("extra",)
    kept = [*coverage.missing, *coverage.reshaped]
    assert all(torch.equal(after[name], before[name]) for name in kept)
    assert not torch.equal(after["conv1.weight"], before["conv1.weight"])


def test_partial_is_no_excuse_for_another_net(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="does not hold the weights of a resnest23_small"):
        create_model(SMALL, weights=tmp_path / "other.safetensors", partial=True)


def test_a_whole_load_with_partial_warns_of_nothing(whole: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = create_model(SMALL, classes=5, weights=whole, partial=True)
    assert not model.head_is_new


def test_a_head_that_was_not_loaded_does_not_predict(whole: Path, tmp_path: Path) -> None:
    model = create_model(SMALL, classes=3, weights=whole)
    save_model(model, tmp_path / "new.safetensors")
    assert load_model(tmp_path / "new.safetensors")[0].head_is_new
    with pytest.raises(UserError, match=r"new.safetensors has a classifier that was never trained"):
        Predictor(tmp_path / "new.safetensors", "cpu")
    model.head_is_new = False
    save_model(model, tmp_path / "trained.safetensors", ["a", "b", "c"])
    assert Predictor(tmp_path / "trained.safetensors", "cpu").card.classes == ("a", "b", "c")


def test_the_command_line_refuses_it_in_one_sentence(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(create_model(SMALL, classes=3, weights=whole), tmp_path / "new.safetensors")
    with pytest.raises(SystemExit) as left:
        cli.main(["predict", str(tmp_path / "new.safetensors"), str(whole)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "never trained" in said
    assert said.count("\n") == 1


def test_a_random_net_is_new_and_loading_makes_it_known(whole: Path) -> None:
    model = create_model(SMALL, classes=5)
    assert model.head_is_new
    model.load_state_dict({"conv1.weight": model.state_dict()["conv1.weight"]}, strict=False)
    assert model.head_is_new
    model.load_state_dict(create_model(SMALL, classes=5).state_dict())
    assert not model.head_is_new
    with pytest.raises(UserError, match="no classifier"):
        create_model(SMALL, classes=0, weights=whole).require_head()


@pytest.mark.parametrize("norm", ["sync", "frozen"])
def test_batch_statistics_load_under_the_norms_that_use_them(whole: Path, norm: str) -> None:
    images = torch.randn(2, 3, 32, 32)
    plain = create_model(SMALL, classes=5, weights=whole).eval()
    other = create_model(SMALL, classes=5, weights=whole, norm=norm).eval()
    torch.testing.assert_close(other(images), plain(images))


def test_batch_statistics_are_no_group_norms_unless_asked_for(whole: Path) -> None:
    with pytest.raises(UserError, match="norm 'group' has no use"):
        create_model(SMALL, classes=5, weights=whole, norm="group")
    with pytest.warns(UserWarning, match=r"unexpected \(bn1.running_mean"):
        model = create_model(SMALL, classes=5, weights=whole, norm="group", partial=True)
    plain = create_model(SMALL, classes=5, weights=whole)
    assert any(isinstance(part, nn.GroupNorm) for part in model.modules() if is_norm(part))
    assert torch.equal(model.layer4[1].conv3.weight, plain.layer4[1].conv3.weight)


def test_stages_freeze_only_with_weights(whole: Path) -> None:
    model = create_model(SMALL, classes=9, weights=whole, frozen_stages=2)
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4", "fc"}
    with pytest.raises(UserError, match="freeze random weights"):
        create_model(SMALL, frozen_stages=0)


def test_preprocessing_travels_with_the_weights(whole: Path, tmp_path: Path) -> None:
    model = create_model(SMALL, classes=5, weights=whole)
    assert model.preprocessing is None
    save_model(model, tmp_path / "a.safetensors", preprocessing=CAFFE)
    assert load_model(tmp_path / "a.safetensors")[0].preprocessing == CAFFE
    again = create_model(SMALL, classes=2, weights=tmp_path / "a.safetensors")
    assert again.preprocessing == CAFFE
    assert create_model(SMALL, 2, 1, weights=tmp_path / "a.safetensors").preprocessing is None
    save_model(again, tmp_path / "b.safetensors")
    assert load_model(tmp_path / "b.safetensors")[1].preprocessing == CAFFE


def test_a_saved_model_is_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("resnest14", classes=4, in_channels=1, output_stride=16, norm="group")
    card = save_model(model, tmp_path / "a.safetensors", metrics={"top1": 0.5})
    assert (card.net, card.norm, card.output_stride) == ("resnest14", "group", 16)
    loaded, card = load_model(tmp_path / "a.safetensors")
    assert card.metrics == {"top1": 0.5}
    images = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(loaded(images), model.eval()(images))
    assert inspect(tmp_path / "a.safetensors").kind == "classifier"
    with pytest.raises(UserError, match="3 names of classes for 4 logits"):
        save_model(model, tmp_path / "b.safetensors", ["a", "b", "c"])


def test_a_published_file_converts_with_its_own_preprocessing(tmp_path: Path) -> None:
    state = create_model("resnet18").state_dict()
    torch.save(state, tmp_path / "resnet18_a1_0-d63eafa0.pth")
    assert inspect(tmp_path / "resnet18_a1_0-d63eafa0.pth").kind == "weights of a classifier"
    convert(tmp_path / "resnet18_a1_0-d63eafa0.pth", tmp_path / "a.safetensors")
    card = load_model(tmp_path / "a.safetensors")[1]
    assert (card.preprocessing.crop_ratio, card.preprocessing.interpolation) == (0.95, "bicubic")
    assert card.metrics == {}  # the name alone says nothing of what is inside


def test_published_accuracy_needs_the_published_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(create_model("resnet18").state_dict(), tmp_path / "a.pth")
    digits = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()[:8]
    path = (tmp_path / "a.pth").rename(tmp_path / f"resnet18-{digits}.pth")
    entry = replace(find_published("resnet18"), file=path.name)
    monkeypatch.setattr("resnestkit.weights.convert.recognise", lambda _: entry)
    convert(path, tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors")[1].metrics == {"top1": 0.71504}
    monkeypatch.setattr("resnestkit.weights.loading.recognise", lambda _: entry)
    torch.save(create_model("resnet34").state_dict(), tmp_path / "b.pth")
    assert create_model("resnet18", weights=path).preprocessing == entry.preprocessing
    assert create_model("resnet34", weights=tmp_path / "b.pth").preprocessing is None


def test_what_was_not_loaded_is_not_frozen(half: Path) -> None:
    with (
        pytest.warns(UserWarning, match="loaded in part"),
        pytest.raises(
            UserError, match=r"has no layer3\.0\.conv1\.weight that fits, which would be"
        ),
    ):
        create_model(SMALL, classes=5, weights=half, partial=True, frozen_stages=3)
    with pytest.warns(UserWarning, match="loaded in part"):
        create_model(SMALL, classes=5, weights=half, partial=True, frozen_stages=2)


def test_counters_alone_are_no_weights(tmp_path: Path) -> None:
    state = create_model(SMALL, classes=5).state_dict()
    counters = {name: t for name, t in state.items() if name.endswith("num_batches_tracked")}
    save_file(counters, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="does not hold the weights"):
        create_model(SMALL, classes=5, weights=tmp_path / "a.safetensors", partial=True)


def test_weights_are_named_by_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNESTKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("RESNESTKIT_OFFLINE", "1")
    (tmp_path / "imagenet1k").mkdir()
    with pytest.raises(UserError, match="the network is off"):
        create_model("resnet18", weights="imagenet1k")
    with pytest.raises(UserError, match="name of the weights is empty"):
        create_model("resnet18", weights="")
    with pytest.raises(UserError, match="Cannot look at"):
        create_model("resnet18", weights="a" * 300)
