"""A detector's checkpoint brings it back, says what it is, and serves as weights."""

import json
from pathlib import Path

import pytest
import torch
from small_detectors import few_regions, make, scene

from resnestkit import (
    UserError,
    compile_detector,
    create_detector,
    create_model,
    load_detector,
    load_model,
    save_detector,
    save_model,
)
from resnestkit.detection.spec import KINDS, Kind
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.card import ModelCard
from resnestkit.weights.checkpoint import save_tensors
from resnestkit.weights.convert import convert

NAMES = ["red", "white", "platelet"]
BGR = Preprocessing(224, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), channel_order="BGR")


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_the_same(kind: Kind, tmp_path: Path) -> None:
    model = make(kind, norm="batch", preprocessing=BGR).eval()
    model.head_is_new = False
    card = save_detector(model, tmp_path / "a.safetensors", NAMES, {"AP": 0.5})
    loaded, read = load_detector(tmp_path / "a.safetensors")
    assert read == card
    assert (read.kind, read.net, read.classes) == ("detector", "resnest14", tuple(NAMES))
    assert loaded.spec == model.spec
    assert loaded.preprocessing == BGR
    assert not loaded.head_is_new
    images, _ = scene()
    with torch.no_grad():
        for one, other in zip(loaded(images), model(images), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in other)


def test_wrappers_are_taken_off(tmp_path: Path) -> None:
    model = make("faster_rcnn", "resnet18")
    save_detector(compile_detector(model), tmp_path / "a.safetensors")
    wrapped = torch.nn.DataParallel(model)
    assert save_detector(wrapped, tmp_path / "b.safetensors").classes[0] == "class 1"
    assert load_detector(tmp_path / "b.safetensors")[1].head_is_new


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_detector(make("faster_rcnn", "resnet18"), path)
    with pytest.raises(UserError, match=r"holds a detector; a classifier is needed here\. It find"):
        load_model(path)
    with pytest.raises(UserError, match="holds a detector, and nets alone are converted"):
        convert(path, tmp_path / "b.safetensors", to="detectron2")
    save_model(create_model("resnest23_small", classes=2), path)
    with pytest.raises(UserError, match="holds a classifier; a detector is needed here"):
        load_detector(path)
    with pytest.raises(UserError, match="a detector of create_detector can"):
        save_detector(torch.nn.Linear(1, 1), path)


def test_a_card_that_makes_no_sense(tmp_path: Path) -> None:
    model = make("faster_rcnn", "resnet18")
    with pytest.raises(UserError, match="2 names for 3 classes"):
        save_detector(model, tmp_path / "a.safetensors", NAMES[:2])
    card = json.loads(json.dumps(save_detector(model, tmp_path / "a.safetensors").to_dict()))
    assert ModelCard.from_dict(card).detector == model.spec
    for name, value, said in (
        ("classes", 4, "has a detector of"),
        ("kind", "yolo", "kind is 'yolo'"),
        ("later", 1, "newer version"),
        ("max_size", "big", "describes no net"),
        ("settings", {"beta": "none"}, "detector.settings.beta is 'none'; it must be a number"),
        ("max_size", 9.5, "detector.max_size is 9.5; it must be a whole number"),
        ("settings", {"later": 1}, "newer version"),
        ("net", {"layers": [2]}, "widths"),
    ):
        forged = {**card, "detector": {**card["detector"], name: value}}
        with pytest.raises(ValueError, match=said):
            ModelCard.from_dict(forged)
        save_tensors(tmp_path / "b.safetensors", model.state_dict(), forged)
        with pytest.raises(UserError, match="The card of"):
            load_detector(tmp_path / "b.safetensors")
    lost = {**card, "kind": "classifier"}
    with pytest.raises(ValueError, match="has a kind of 'classifier'"):
        ModelCard.from_dict(lost)


def test_the_card_of_a_net_is_what_it_was() -> None:
    model = create_model("resnest23_small", classes=2)
    card = ModelCard("classifier", "a", model.spec, ("x", "y"), Preprocessing())
    assert "detector" not in card.to_dict()


def test_a_checkpoint_of_ours_as_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = make("cascade_rcnn", "resnet18", preprocessing=BGR, min_size=48, norm="batch")
    model.head_is_new = False
    save_detector(model, path, NAMES)
    again = create_detector("cascade_rcnn", "resnet18", weights=path, frozen_stages=1)
    assert again.spec == model.spec
    assert again.preprocessing == BGR
    assert not again.head_is_new
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in again.state_dict().items())
    frozen = create_detector("cascade_rcnn", "resnet18", weights=path, norm="frozen", max_size=80)
    assert (frozen.spec.norm, frozen.spec.head_norm) == ("frozen", "frozen")
    assert (frozen.spec.min_sizes, frozen.spec.max_size) == ((48,), 80)
    with pytest.warns(UserWarning, match="a classifier of 7 is new"):
        other = create_detector("cascade_rcnn", "resnet18", classes=7, weights=path)
    assert other.head_is_new
    kept = "roi_heads.box_predictor.2.bbox_pred.weight"
    assert torch.equal(other.state_dict()[kept], model.state_dict()[kept])
    with pytest.raises(UserError, match="has resnet18 as its backbone, not resnest14"):
        create_detector("cascade_rcnn", "resnest14", weights=path)


def test_a_backbones_weights_and_how_they_want_images(tmp_path: Path) -> None:
    net = create_model("resnest14", classes=2)
    net.head_is_new = False
    save_model(net, tmp_path / "net.safetensors", ["a", "b"], BGR)
    model = make(
        "faster_rcnn", norm="frozen", weights=tmp_path / "net.safetensors", frozen_stages=1
    )
    assert model.preprocessing.channel_order == "BGR"
    assert model.spec.head_norm == "none"
    assert torch.equal(model.backbone.body.conv1[0].weight, net.conv1[0].weight)
    assert not model.backbone.body.layer1[0].conv1.weight.requires_grad
    assert model.backbone.body.layer2[0].conv1.weight.requires_grad
    images, targets = scene()
    assert all(loss.isfinite() for loss in model(images[:1], targets[:1]).values())
    seen = model.transform.normalize(images[0])
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (BGR.mean, BGR.std))
    torch.testing.assert_close(seen, (images[0].flip(0) - mean) / std)


def test_weights_of_ours_without_a_card(tmp_path: Path) -> None:
    model = make("cascade_mask_rcnn", "resnet18", norm="batch")
    torch.save(model.state_dict(), tmp_path / "a.pth")
    few = few_regions("cascade_mask_rcnn")
    again = create_detector(
        "cascade_mask_rcnn",
        "resnet18",
        weights=tmp_path / "a.pth",
        settings=few,
        min_size=64,
        max_size=96,
    )
    assert again.spec == model.spec
