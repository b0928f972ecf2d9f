"""torchvision's detectors load, by their names of today and of old, and compute the same here."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import (
    FasterRCNN,
    fasterrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
)
from torchvision.ops import FrozenBatchNorm2d

from resnestkit import UserError, create_detector, create_model
from resnestkit.detection.detector import Detector
from resnestkit.detection.spec import Kind, torchvision_settings

BUILDERS: dict[Kind, Callable[..., nn.Module]] = {
    "faster_rcnn": fasterrcnn_resnet50_fpn,
    "mask_rcnn": maskrcnn_resnet50_fpn,
    "retinanet": retinanet_resnet50_fpn,
}
CLASSES = 3
SIZES = {"min_size": 64, "max_size": 96}
FEW = {
    "rpn_post_nms_top_n_train": 20,
    "rpn_post_nms_top_n_test": 20,
    "box_batch_size_per_image": 12,
    "box_detections_per_img": 6,
    "box_score_thresh": 0.2,
}


@torch.no_grad()
def _theirs(kind: Kind) -> nn.Module:
    """torchvision's, every norm and every head alive."""
    few = {} if kind == "retinanet" else FEW
    model = BUILDERS[kind](
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, **SIZES, **few
    )
    for name, part in model.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.uniform_(0.1, 0.3) if name.endswith("bn3") else part.weight.uniform_(
                0.7, 1.2
            )
            part.bias.normal_(0, 0.2)
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2.0)
        elif isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            part.weight.normal_(0, 0.03)
            part.bias.normal_(0, 0.1)
    if kind == "retinanet":
        bias = model.head.classification_head.cls_logits.bias
        bias.view(-1, CLASSES + 1)[:, 0] = -100.0  # the background, which ours never answers
    return model.double()


def _scene() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images = [torch.rand(3, 80, 100, dtype=torch.float64), torch.rand(3, 90, 70).double()]
    boxes = [torch.tensor([[5.0, 5, 40, 60], [30, 10, 90, 70]]), torch.tensor([[8.0, 9, 60, 80]])]
    labels = [torch.tensor([1, 3]), torch.tensor([2])]
    masks = [torch.zeros(2, 80, 100), torch.zeros(1, 90, 70)]
    for box, mask in zip(boxes, masks, strict=True):
        for (left, top, right, bottom), plane in zip(box.int().tolist(), mask, strict=True):
            plane[top:bottom, left:right] = 1
    return images, [
        {"boxes": b.double(), "labels": n, "masks": m.to(torch.uint8)}
        for b, n, m in zip(boxes, labels, masks, strict=True)
    ]


def _save(model: nn.Module, path: Path) -> Path:
    torch.save(model.state_dict(), path)
    return path


def _load(kind: Kind, path: Path, **options: Any) -> Detector:
    return create_detector(kind, "resnet50", weights=path, **SIZES, **options).double()


@pytest.mark.parametrize("kind", BUILDERS)
def test_detections_losses_and_gradients_are_equal(kind: Kind, tmp_path: Path) -> None:
    theirs = _theirs(kind)
    few = replace(
        torchvision_settings(kind), post_nms=(20, 20), box_batch=12, detections=6, score=0.2
    )
    options = {} if kind == "retinanet" else {"settings": few}
    ours = _load(kind, _save(theirs, tmp_path / "theirs.pth"), norm="batch", **options)
    assert not ours.head_is_new
    assert ours.spec.classes == CLASSES
    images, targets = _scene()
    with torch.no_grad():
        expected, found = theirs.eval()(images), ours.eval()(images)
    for one, other in zip(found, expected, strict=True):
        assert len(other["labels"]) > 3
        assert torch.equal(one["labels"], other["labels"])
        for name in other.keys() - {"labels"}:
            torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-9)
    torch.manual_seed(3)
    expected = theirs.train()(images, copy.deepcopy(targets))
    torch.manual_seed(3)
    losses = ours.train()(images, targets)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        # Of the objectness torchvision keeps 32 bits even here.
        tolerance = 1e-6 if name == "loss_objectness" else 1e-9
        torch.testing.assert_close(
            loss, expected[name], rtol=tolerance, atol=tolerance, check_dtype=False
        )
    sum(loss for name, loss in expected.items() if name != "loss_objectness").backward()
    sum(loss for name, loss in losses.items() if name != "loss_objectness").backward()
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in ours.named_parameters():
        if gradients[name] is not None:
            torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", BUILDERS)
def test_names_of_old_files(kind: Kind, tmp_path: Path) -> None:
    state = _theirs(kind).float().state_dict()
    old = {_old_name(name): tensor for name, tensor in state.items()}
    assert old.keys() != state.keys()
    # The published ones have frozen norms, which count no batches.
    plain = {name: t for name, t in old.items() if not name.endswith("num_batches_tracked")}
    torch.save(plain, tmp_path / "old.pth")
    model = create_detector(kind, "resnet50", weights=tmp_path / "old.pth")
    assert model.spec.norm == "frozen"
    found = model.state_dict()
    assert all(torch.equal(found[name], state[name]) for name in found)


def _old_name(name: str) -> str:
    """The name in the files that torchvision published before version 0.13."""
    name = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name)
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    name = re.sub(
        r"mask_head\.(\d)\.0\.", lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}.", name
    )
    return re.sub(r"(head\.\w+_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", name)


def test_the_published_files_have_norms_without_epsilon(tmp_path: Path) -> None:
    state = _theirs("faster_rcnn").float().state_dict()
    plain = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    path = tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
    torch.save(plain, path)
    model = create_detector("faster_rcnn", "resnet50", weights=path)
    norms = [part for part in model.modules() if isinstance(part, FrozenBatchNorm2d)]
    assert len(norms) == 53
    assert {part.eps for part in norms} == {0.0}
    with pytest.raises(UserError, match="has resnet50 as its backbone, not resnet50a"):
        create_detector("faster_rcnn", "resnet50a", weights=path)


def test_another_number_of_classes_starts_a_new_classifier(tmp_path: Path) -> None:
    path = _save(_theirs("mask_rcnn").float(), tmp_path / "theirs.pth")
    with pytest.warns(UserWarning, match="knows 3 classes: a classifier of 7 is new"):
        model = create_detector("mask_rcnn", "resnet50", classes=7, weights=path, frozen_stages=1)
    assert model.head_is_new
    with pytest.raises(UserError, match="never trained"):
        model.require_head()
    assert model.roi_heads.mask_predictor.mask_fcn_logits.weight.shape[0] == 8
    frozen = [n for n, weight in model.named_parameters() if not weight.requires_grad]
    assert {name.split(".")[2] for name in frozen} == {"conv1", "bn1", "layer1"}


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    state = _theirs("faster_rcnn").float().state_dict()
    path = tmp_path / "theirs.pth"
    torch.save(state, path)
    with pytest.raises(UserError, match=r"holds a faster_rcnn, not a mask_rcnn"):
        create_detector("mask_rcnn", "resnet50", weights=path)
    with pytest.raises(UserError, match="was trained with unaligned regions"):
        create_detector("faster_rcnn", "resnet50", weights=path, settings="paper")
    with pytest.raises(UserError, match=r"does not hold .* missing"):
        create_detector("faster_rcnn", "resnest50", weights=path)
    with pytest.raises(UserError, match="3 channels, not 1"):
        create_detector("faster_rcnn", "resnet50", weights=path, in_channels=1)
    lost = state.pop("rpn.head.bbox_pred.bias")
    assert lost is not None
    torch.save(state, path)
    with pytest.raises(UserError, match=r"1 missing \(rpn\.head\.bbox_pred\.bias\)"):
        create_detector("faster_rcnn", "resnet50", weights=path)
    with pytest.warns(UserWarning, match=r"loaded in part.*1 missing"):
        create_detector("faster_rcnn", "resnet50", weights=path, partial=True)


def test_a_detectors_backbone_makes_a_net(tmp_path: Path) -> None:
    theirs = _theirs("faster_rcnn").float()
    assert isinstance(theirs, FasterRCNN)
    net = create_model("resnet50", classes=0, weights=_save(theirs, tmp_path / "theirs.pth"))
    assert torch.equal(net.conv1.weight, theirs.backbone.body.conv1.weight)
