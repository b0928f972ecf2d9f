"""The authors' detectors load: files with Detectron2's names, its classes put in our order."""

from collections.abc import Callable
from pathlib import Path

import detectron2_files as files
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from resnestkit import UserError, create_detector
from resnestkit.detection.detector import Detector
from resnestkit.detection.spec import Kind, paper_settings
from resnestkit.weights.detector_names import from_detectron2
from resnestkit.weights.detectors import PUBLISHED_DETECTORS
from resnestkit.weights.identify import compare

CLASSES = 5
KINDS: dict[Kind, dict[str, int | bool]] = {
    "faster_rcnn": {"cascade": False},
    "mask_rcnn": {"cascade": False, "mask_convs": 4},
    "cascade_rcnn": {"cascade": True},
    "cascade_mask_rcnn": {"cascade": True, "mask_convs": 8},
}


def _load(kind: Kind, state: files.State, path: Path) -> Detector:
    torch.save({"model": state, "iteration": 89_999}, path)
    return create_detector(kind, "resnest14", weights=path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_has_its_place(kind: Kind, tmp_path: Path) -> None:
    state = files.regions(CLASSES, **KINDS[kind])  # type: ignore[arg-type]
    model = _load(kind, state, tmp_path / "theirs.pth")
    assert not model.head_is_new
    assert (model.spec.classes, model.spec.fpn_channels) == (CLASSES, 32)
    assert model.spec.head_norm == "batch"
    assert model.spec.settings.mask_convs == (KINDS[kind].get("mask_convs") or 4)
    assert model.spec.settings.post_nms == paper_settings(kind).post_nms
    # What arrived is what was sent, but for counters, anchors, and rows of zeros.
    kept = [t for n, t in state.items() if "tracked" not in n and "anchors" not in n]
    found = [t for n, t in model.state_dict().items() if "tracked" not in n]
    assert len(found) == len(kept)
    total = sum(float(t.double().abs().sum()) for t in kept)
    assert sum(float(t.double().abs().sum()) for t in found) == pytest.approx(total, rel=1e-6)
    own = model.state_dict()
    for ours, theirs in (
        ("backbone.body.layer4.0.conv2.fc1.weight", "backbone.bottom_up.res5.0.conv2.fc1.weight"),
        ("backbone.body.bn1.running_var", "backbone.bottom_up.stem.conv1_3.norm.running_var"),
        ("backbone.fpn.inner_blocks.0.0.weight", "backbone.fpn_lateral2.weight"),
        ("backbone.fpn.layer_blocks.3.1.bias", "backbone.fpn_output5.norm.bias"),
        ("rpn.head.conv.0.0.bias", "proposal_generator.rpn_head.conv.bias"),
        ("rpn.head.cls_logits.bias", "proposal_generator.rpn_head.objectness_logits.bias"),
        ("rpn.head.bbox_pred.bias", "proposal_generator.rpn_head.anchor_deltas.bias"),
    ):
        assert torch.equal(own[ours], state[theirs]), ours


@pytest.mark.parametrize("kind", KINDS)
def test_heads_answer_as_theirs_with_the_background_first(kind: Kind, tmp_path: Path) -> None:
    state = files.regions(CLASSES, **KINDS[kind])  # type: ignore[arg-type]
    model = _load(kind, state, tmp_path / "theirs.pth").eval()
    pooled = torch.randn(6, 32, 7, 7)
    for stage in (".0", ".1", ".2") if KINDS[kind]["cascade"] else ("",):
        scores, boxes = _their_box_head(state, stage, pooled)
        place = stage[1:]
        heads, predictors = model.roi_heads.box_head, model.roi_heads.box_predictor
        head = heads[int(place)] if place else heads
        predictor = predictors[int(place)] if place else predictors
        logits, deltas = predictor(head(pooled))
        torch.testing.assert_close(logits[:, 1:], scores[:, :-1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[:, 0], scores[:, -1], rtol=1e-4, atol=1e-5)
        mine = deltas if stage else deltas[:, 4:]
        torch.testing.assert_close(mine, boxes, rtol=1e-4, atol=1e-5)
    if model.roi_heads.has_mask():
        masks = _their_mask_head(state, pooled)
        found = model.roi_heads.mask_predictor(model.roi_heads.mask_head(pooled))
        torch.testing.assert_close(found[:, 1:], masks, rtol=1e-4, atol=1e-5)


def _conv(state: files.State, name: str, x: Tensor) -> Tensor:
    x = F.conv2d(x, state[f"{name}.weight"], padding=1)
    mean, var, weight, bias = (
        state[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.relu(F.batch_norm(x, mean, var, weight, bias, eps=1e-5))


def _their_box_head(state: files.State, stage: str, x: Tensor) -> tuple[Tensor, Tensor]:
    for number in range(1, 5):
        x = _conv(state, f"roi_heads.box_head{stage}.conv{number}", x)
    head, predictor = f"roi_heads.box_head{stage}.fc1", f"roi_heads.box_predictor{stage}"
    x = F.relu(F.linear(x.flatten(1), state[f"{head}.weight"], state[f"{head}.bias"]))
    scores, boxes = (
        F.linear(x, state[f"{predictor}.{part}.weight"], state[f"{predictor}.{part}.bias"])
        for part in ("cls_score", "bbox_pred")
    )
    return scores, boxes


def _their_mask_head(state: files.State, x: Tensor) -> Tensor:
    head = "roi_heads.mask_head"
    convs = sum(name.startswith(f"{head}.mask_fcn") and ".norm." not in name for name in state)
    for number in range(1, convs + 1):
        x = _conv(state, f"{head}.mask_fcn{number}", x)
    up = F.conv_transpose2d(x, state[f"{head}.deconv.weight"], state[f"{head}.deconv.bias"], 2)
    return F.conv2d(F.relu(up), state[f"{head}.predictor.weight"], state[f"{head}.predictor.bias"])


def test_retinanet_answers_as_theirs(tmp_path: Path) -> None:
    state = files.dense(CLASSES)
    model = _load("retinanet", state, tmp_path / "theirs.pth").eval()
    x = torch.randn(1, 32, 4, 6)
    outputs = model.head([x])
    for tower, name in (("cls_subnet", "cls_score"), ("bbox_subnet", "bbox_pred")):
        y = x
        for place in (0, 2, 4, 6):
            part = f"head.{tower}.{place}"
            y = F.relu(F.conv2d(y, state[f"{part}.weight"], state[f"{part}.bias"], padding=1))
        y = F.conv2d(y, state[f"head.{name}.weight"], state[f"head.{name}.bias"], padding=1)
        numbers = CLASSES if name == "cls_score" else 4
        theirs = y.view(1, 9, numbers, 4, 6).permute(0, 3, 4, 1, 2).reshape(1, -1, numbers)
        if name == "cls_score":
            found = outputs["cls_logits"]
            assert (found[..., 0].sigmoid() == 0).all()
            torch.testing.assert_close(found[..., 1:], theirs, rtol=1e-4, atol=1e-5)
        else:
            torch.testing.assert_close(outputs["bbox_regression"], theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        features = {name: torch.randn(1, 2048, 2, 2) for name in ("layer4",)}
        p6 = model.backbone.fpn.extra_blocks.p6(features["layer4"])
    top = state["backbone.top_block.p6.weight"], state["backbone.top_block.p6.bias"]
    torch.testing.assert_close(p6, F.conv2d(features["layer4"], *top, 2, 1))


def test_how_images_are_wanted(tmp_path: Path) -> None:
    state = files.regions(CLASSES, cascade=False)
    images = _load("faster_rcnn", state, tmp_path / "a.pth").preprocessing
    assert images.channel_order == "RGB"
    assert images.mean[0] * 255 == pytest.approx(123.68)
    assert images.std[0] * 255 == pytest.approx(58.393)
    state["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    state["pixel_std"] = torch.ones(3, 1, 1)
    model = _load("faster_rcnn", state, tmp_path / "b.pth")
    assert model.preprocessing.channel_order == "BGR"
    image = torch.rand(3, 64, 64)
    seen = model.transform.normalize(image)
    expected = image.flip(0) * 255 - state["pixel_mean"]
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-3)


def test_what_differs_is_said(tmp_path: Path) -> None:
    state = files.regions(CLASSES, cascade=False)
    path = tmp_path / "theirs.pth"
    name = "proposal_generator.anchor_generator.cell_anchors.0"
    with pytest.raises(UserError, match="trained with other anchors"):
        _load("faster_rcnn", {**state, name: state[name] * 2}, path)
    offset = {"backbone.bottom_up.res3.0.conv2_offset.weight": torch.zeros(27, 128, 3, 3)}
    with pytest.raises(UserError, match=r"unexpected \(.*conv2_offset"):
        _load("faster_rcnn", state | offset, path)
    torch.save(state, path)
    with pytest.raises(UserError, match="trained with aligned regions"):
        create_detector("faster_rcnn", "resnest14", weights=path, settings="torchvision")
    with pytest.raises(UserError, match="cascade_rcnn, not a faster_rcnn"):
        _load("faster_rcnn", files.regions(CLASSES, cascade=True), path)
    grouped = {n: t for n, t in state.items() if "running" not in n and "tracked" not in n}
    with pytest.raises(UserError, match="group norms"):
        _load("faster_rcnn", grouped, path)


def test_a_published_name_says_the_net(tmp_path: Path) -> None:
    known = next(one for one in PUBLISHED_DETECTORS if one.net == "resnest50")
    path = tmp_path / f"{known.file}.pth"
    torch.save(files.regions(80, cascade=False), path)
    with pytest.raises(UserError, match="has resnest50 as its backbone, not resnest14"):
        create_detector("faster_rcnn", "resnest14", weights=path)


def test_the_largest_has_their_shapes(tmp_path: Path) -> None:
    """A Cascade Mask R-CNN of ResNeSt-50, 80 classes, at full width, without its values."""
    with torch.device("meta"):
        state = files.regions(
            80,
            cascade=True,
            mask_convs=4,
            body=files.resnest((3, 4, 6, 3), 32),
            width=256,
            units=1024,
        )
        model = create_detector("cascade_mask_rcnn", "resnest50", classes=80)
    renamed, anchors = from_detectron2(state)
    assert compare(model.state_dict(), renamed).is_complete
    assert len(anchors) == 5


BODIES: dict[str, Callable[[], files.State]] = {
    "resnet50a": lambda: files.resnet((3, 4, 6, 3)),
    "resnet101a": lambda: files.resnet((3, 4, 23, 3)),
    "resnest50": lambda: files.resnest((3, 4, 6, 3), 32),
    "resnest101": lambda: files.resnest((3, 4, 23, 3), 64),
    "resnest200": lambda: files.resnest((3, 24, 36, 3), 64),
}
"""The backbones of the authors' detectors, as their files name them."""


@pytest.mark.parametrize("net", BODIES)
def test_every_backbone_has_their_shapes(net: str) -> None:
    with torch.device("meta"):
        state = files.regions(80, cascade=False, body=BODIES[net](), width=256, units=1024)
        model = create_detector("faster_rcnn", net, classes=80)
    assert compare(model.state_dict(), from_detectron2(state)[0]).is_complete


def test_every_published_backbone_is_among_them() -> None:
    theirs = {one.net for one in PUBLISHED_DETECTORS if "_coco-" not in one.file}
    assert theirs == set(BODIES)
