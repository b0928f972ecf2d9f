"""A panoptic net's checkpoint brings it back, says what it is, and serves as weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_files import make_net, scene

from resnestkit import (
    UserError,
    create_detector,
    create_panoptic,
    load_detector,
    load_panoptic,
    save_detector,
    save_panoptic,
)
from resnestkit.panoptic.spec import PanopticSettings
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.card import ModelCard
from resnestkit.weights.checkpoint import save_tensors

NAMES = ["sky", "cat", "dog", "sea", "ship"]
COLOURS = [(number, 2 * number, 100) for number in range(5)]
BGR = Preprocessing(224, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), channel_order="BGR")


def test_it_comes_back_the_same(tmp_path: Path) -> None:
    model = make_net("resnest14", norm="batch", preprocessing=BGR).eval()
    model.head_is_new = False
    path = tmp_path / "a.safetensors"
    card = save_panoptic(model, path, NAMES, {"pq": 0.5}, COLOURS)
    loaded, read = load_panoptic(path)
    assert read == card
    assert (read.kind, read.net, read.classes) == ("panoptic", "resnest14", tuple(NAMES))
    assert read.palette == tuple(COLOURS)
    assert loaded.spec == model.spec
    assert loaded.preprocessing == BGR
    assert not loaded.head_is_new
    images, _ = scene()
    with torch.no_grad():
        for one, other in zip(loaded(images), model(images), strict=True):
            assert torch.equal(one["segments"], other["segments"])
            assert one["segments_info"] == other["segments_info"]


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = make_net("resnet18")
    save_panoptic(torch.nn.DataParallel(model), path)
    assert load_panoptic(path)[0].head_is_new
    with pytest.raises(UserError, match="holds a panoptic net; a detector is needed here"):
        load_detector(path)
    save_detector(model.detector, path)
    with pytest.raises(UserError, match="holds a detector; a panoptic net is needed here"):
        load_panoptic(path)
    with pytest.raises(UserError, match="a panoptic net of create_panoptic can"):
        save_panoptic(model.detector, path)
    with pytest.raises(UserError, match="2 names for 5 classes"):
        save_panoptic(model, path, NAMES[:2])
    with pytest.raises(UserError, match="1 colours for 5 classes"):
        save_panoptic(model, path, NAMES, palette=COLOURS[:1])


def _forge(card: dict[str, Any], part: str, value: Any) -> dict[str, Any]:
    forged: dict[str, Any] = json.loads(json.dumps(card))
    place, names = forged["panoptic"], part.split(".")
    for name in names[:-1]:
        place = place[name]
    place[names[-1]] = value
    return forged


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("later", 1, "newer version"),
        ("settings.later", 1, "newer version"),
        ("detector.later", 1, "newer version"),
        ("settings.score", "high", "describes no net|panoptic.settings.score is 'high'"),
        ("settings.channels", 1.5, "panoptic.settings.channels is 1.5"),
        ("detector.max_size", 9.5, "panoptic.detector.max_size is 9.5"),
        ("detector.classes", 4, "describes no net"),
        ("detector.kind", "faster_rcnn", "it must find masks"),
        ("things", [True, True, True, True, True], "things are all"),
        ("things", [1, 1, 1, 0, 0], "things is"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_a_card_that_makes_no_sense(part: str, value: Any, said: str, tmp_path: Path) -> None:
    model = make_net("resnet18")
    path = tmp_path / "a.safetensors"
    card = save_panoptic(model, path, NAMES).to_dict()
    assert ModelCard.from_dict(json.loads(json.dumps(card))).panoptic == model.spec
    forged = _forge(card, part, value)
    with pytest.raises(ValueError, match=said):
        ModelCard.from_dict(forged)
    save_tensors(path, model.state_dict(), forged)
    with pytest.raises(UserError, match="The card of"):
        load_panoptic(path)


def test_a_card_is_of_one_model_alone(tmp_path: Path) -> None:
    model = make_net("resnet18")
    card = save_panoptic(model, tmp_path / "a.safetensors").to_dict()
    detector = card["panoptic"]["detector"] | {"classes": 5}
    with pytest.raises(ValueError, match="has a kind of 'panoptic'"):
        ModelCard.from_dict({**card, "detector": detector})


def test_a_checkpoint_of_ours_as_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = make_net("resnet18", norm="batch", preprocessing=BGR)
    model.head_is_new = False
    save_panoptic(model, path, NAMES)
    again = create_panoptic("resnet18", weights=path, frozen_stages=1)
    assert again.spec == model.spec
    assert again.preprocessing == BGR
    assert not again.head_is_new
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in again.state_dict().items())
    assert not again.body.conv1.weight.requires_grad
    asked = PanopticSettings(channels=7, loss_weight=1.0, score=0.3)
    changed = create_panoptic("resnet18", weights=path, min_size=48, panoptic=asked)
    assert changed.spec.detector.min_sizes == (48,)
    assert changed.spec.settings == PanopticSettings(32, 1.0, 0.3)
    with pytest.warns(UserWarning, match="a classifier of 4 is new"):
        other = create_panoptic("resnet18", 4, (2, 3), weights=path)
    assert other.head_is_new
    kept = "detector.roi_heads.box_head.fc6.weight"
    assert torch.equal(other.state_dict()[kept], model.state_dict()[kept])
    with pytest.raises(UserError, match="takes other classes for things"):
        create_panoptic("resnet18", 5, (0, 2, 4), weights=path)
    with pytest.raises(UserError, match="has resnet18 as its backbone, not resnest14"):
        create_panoptic("resnest14", weights=path)
    with pytest.raises(UserError, match="holds a mask_rcnn, not a cascade_mask_rcnn"):
        create_panoptic("resnet18", weights=path, kind="cascade_mask_rcnn")
    with pytest.raises(UserError, match="images of 3 channels, not 1"):
        create_panoptic("resnet18", weights=path, in_channels=1)


def test_a_whole_detector_as_weights(tmp_path: Path) -> None:
    detector = create_detector("mask_rcnn", "resnet18", 3, settings="light", fpn_channels=16)
    detector.head_is_new = False
    save_detector(detector, tmp_path / "a.safetensors")
    model = create_panoptic("resnet18", 5, (1, 2, 4), tmp_path / "a.safetensors")
    assert model.head_is_new  # its branch for stuff is
    assert model.spec.detector == detector.spec
    state = model.detector.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in detector.state_dict().items())
