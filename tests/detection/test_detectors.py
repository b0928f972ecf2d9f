"""Every kind of detector on every kind of net: called as torchvision's, trained, refused."""

import re
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_detectors import CLASSES, few_regions, make, scene
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

import resnestkit
from resnestkit import (
    UserError,
    create_detector,
    create_model,
    create_panoptic,
    save_detector,
    save_model,
)
from resnestkit.detection.detector import build_body, build_detector
from resnestkit.detection.pyramid import PyramidBackbone
from resnestkit.detection.spec import KINDS, DetectorSpec, Kind, has_masks, is_cascade
from resnestkit.models.layers import SyncBatchNorm
from resnestkit.models.spec import NetSpec, Spec
from resnestkit.models.zoo import TABLE

NETS = ("resnest14", "resnet18", "seresnet50", "skresnet18", "bn_inception", "resnest23_small")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS)
def test_losses_and_detections(kind: Kind, net: str) -> None:
    model = make(kind, net)
    images, targets = scene()
    losses = model(images, targets)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    assert all(loss > 0 for loss in losses.values())
    lacking = [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.isfinite().all()
    ]
    assert not lacking
    with torch.no_grad():
        detections = model.eval()(images)
    for image, found in zip(images, detections, strict=True):
        _check_detections(model.spec, image, found)


def _check_detections(spec: DetectorSpec, image: Tensor, found: dict[str, Tensor]) -> None:
    height, width = image.shape[1:]
    names = {"boxes", "scores", "labels"} | ({"masks"} if has_masks(spec.kind) else set())
    assert set(found) == names
    count = len(found["labels"])
    assert count <= spec.settings.detections
    assert found["boxes"].shape == (count, 4)
    assert found["boxes"].dtype == found["scores"].dtype == image.dtype
    assert found["labels"].dtype == torch.int64
    assert ((found["labels"] >= 1) & (found["labels"] <= CLASSES)).all()
    assert (found["boxes"] <= torch.tensor([width, height] * 2) + 1e-3).all()
    assert (found["scores"] > spec.settings.score).all()
    if "masks" in found:
        assert found["masks"].shape == (count, 1, height, width)
        assert ((found["masks"] >= 0) & (found["masks"] <= 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_have_torchvisions_names(kind: Kind) -> None:
    model = make(kind, "resnet18")
    names = set(model(*scene()))
    if kind == "retinanet":
        assert names == {"classification", "bbox_regression"}
        return
    stages = ("_stage1", "_stage2", "_stage3") if is_cascade(kind) else ("",)
    wanted = {f"loss_{part}{stage}" for part in ("classifier", "box_reg") for stage in stages}
    wanted |= {"loss_objectness", "loss_rpn_box_reg"}
    assert names == wanted | ({"loss_mask"} if has_masks(kind) else set())


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_on_one_picture(kind: Kind) -> None:
    model = make(kind, "resnet18")
    images, targets = scene()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    totals = []
    for _ in range(12):
        torch.manual_seed(1)  # the same proposals drawn, so that losses compare
        total = sum(model(images, targets).values())
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        totals.append(total.item())
    assert min(totals[-3:]) < 0.8 * totals[0]


def test_float64_all_the_way() -> None:
    model = make("cascade_mask_rcnn", "resnet18").double()
    images, targets = scene(torch.float64)
    assert all(loss.dtype == torch.float64 for loss in model(images, targets).values())
    assert model.eval()(images)[0]["boxes"].dtype == torch.float64


@pytest.mark.parametrize("kind", ["cascade_mask_rcnn", "retinanet"])
def test_boxes_keep_32_bits_under_autocast(kind: Kind) -> None:
    model = make(kind, "resnet18")
    images, targets = scene()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
        found = model.eval()(images)[0]
    assert all(loss.isfinite() for loss in losses.values())
    assert found["boxes"].dtype == torch.float32
    assert model.anchors.cell_anchors[0].dtype == torch.float32


def test_norms_are_everywhere_as_asked() -> None:
    for norm, kind in (("batch", nn.BatchNorm2d), ("sync", SyncBatchNorm), ("group", nn.GroupNorm)):
        model = make("mask_rcnn", "resnet18", norm=norm)
        places = ("backbone.body", "backbone.fpn", "roi_heads.box_head", "roi_heads.mask_head")
        for place in places:
            norms = [
                part
                for part in model.get_submodule(place).modules()
                if isinstance(part, nn.BatchNorm2d | nn.GroupNorm | FrozenBatchNorm2d)
            ]
            assert norms, place
            assert all(type(part) is kind for part in norms), place
        convs = [part for part in model.roi_heads.box_head.modules() if isinstance(part, nn.Conv2d)]
        assert len(convs) == 4
        assert all(part.bias is None for part in convs)


def test_the_papers_box_head_has_its_size() -> None:
    with torch.device("meta"):
        head = create_detector("faster_rcnn", "resnet50", classes=80).roi_heads.box_head
    wanted = 4 * (256 * 256 * 9 + 2 * 256) + 256 * 49 * 1024 + 1024
    assert sum(weight.numel() for weight in head.parameters()) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_light_settings_see_fewer_regions(kind: Kind) -> None:
    with torch.device("meta"):
        light = create_detector(kind, "resnest14", classes=3, settings="light")
        usual = create_detector(kind, "resnest14", classes=3, settings="paper")
    assert light.spec.settings.box_batch * 4 == usual.spec.settings.box_batch
    assert light.spec.head_norm == usual.spec.head_norm == "batch"
    if kind != "retinanet":  # which looks at no regions
        sizes = [sum(p.numel() for p in one.roi_heads.parameters()) for one in (light, usual)]
        assert 2 * sizes[0] < sizes[1]


@pytest.mark.parametrize("theirs", [fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn])
def test_torchvisions_names(theirs: typing.Any) -> None:
    kind: Kind = "faster_rcnn" if theirs is fasterrcnn_resnet50_fpn else "mask_rcnn"
    with torch.device("meta"):
        expected = theirs(weights=None, weights_backbone=None, num_classes=91).state_dict()
        ours = create_detector(kind, "resnet50", classes=90, settings="torchvision").state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in expected.items()}


def test_stages_by_name_and_stride() -> None:
    model = make("faster_rcnn")
    features = model.backbone(torch.rand(1, 3, 64, 96))
    assert list(features) == ["layer1", "layer2", "layer3", "layer4", "pool"]
    assert model.backbone.strides == (4, 8, 16, 32, 64)
    dense = make("retinanet")
    assert list(dense.backbone(torch.rand(1, 3, 64, 96))) == [
        "layer2",
        "layer3",
        "layer4",
        "p6",
        "p7",
    ]


def test_nothing_random_is_frozen() -> None:
    with pytest.raises(UserError, match="frozen_stages would freeze random"):
        make("faster_rcnn", frozen_stages=1)
    with pytest.raises(UserError, match="norm 'frozen' keeps"):
        make("faster_rcnn", norm="frozen")


def test_new_heads_have_no_statistics_to_freeze(tmp_path: Path) -> None:
    net = create_model("resnet18", classes=0)
    save_model(net, tmp_path / "net.safetensors")
    save_detector(make("faster_rcnn", "resnet18"), tmp_path / "whole.safetensors")
    save_detector(
        make("faster_rcnn", "resnet18", norm="batch", head_norm="none"),
        tmp_path / "bare.safetensors",
    )
    for weights, more in (
        (None, {}),
        ("net", {}),
        ("bare", {"norm": "batch", "partial": True}),
        ("whole", {"norm": "group", "partial": True}),
    ):
        path = weights and tmp_path / f"{weights}.safetensors"
        options = {"norm": "batch", **more, "settings": None}
        with pytest.raises(UserError, match="new heads have no statistics to keep; take 'none'"):
            make("faster_rcnn", "resnet18", weights=path, head_norm="frozen", **options)


def test_settings_by_name_are_those_of_the_file_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "light.safetensors"
    light = make("faster_rcnn", "resnet18", settings="light")
    save_detector(light, path)
    again = make("faster_rcnn", "resnet18", weights=path, settings="light")
    assert (
        again.spec
        == light.spec
        == make("faster_rcnn", "resnet18", weights=path, settings=None).spec
    )
    with pytest.raises(UserError, match=r"settings 'paper': its .*box_batch.* leave settings out"):
        make("faster_rcnn", "resnet18", weights=path, settings="paper")


def _shallow(spec: Spec) -> Spec:
    """A plain block for each stage: depth, groups and gates do not move a feature."""
    if not isinstance(spec, NetSpec):
        return replace(spec, dropout=0.0)
    plain = replace(spec, cardinality=1, base_width=64, reduce_first=1, se_reduction=0, dropout=0.0)
    return replace(plain, layers=(1,) * len(spec.layers))


def test_every_level_lies_where_its_stride_says_or_the_net_is_refused() -> None:
    height, width = 96, 160
    refused = set()
    for net in {_shallow(net.spec): net for net in TABLE}.values():
        spec = DetectorSpec("faster_rcnn", _shallow(net.spec), 1, fpn_channels=8)
        with torch.device("meta"):
            body = build_body(spec)
            if body.least_side > body.output_stride:
                with pytest.raises(UserError, match="it pads so little"):
                    PyramidBackbone(body, spec)
                refused.add(net.name)
                continue
            pyramid = PyramidBackbone(body, spec).eval()
            levels = pyramid(torch.empty(1, 3, height, width)).values()
        for level, stride in zip(levels, pyramid.strides, strict=True):
            assert level.shape[2:] == (-(-height // stride), -(-width // stride)), net.name
    assert refused == {"inception_resnet_v2", "se_inception_resnet_v2"}


def test_a_net_that_does_not_pad_makes_no_detector() -> None:
    with torch.device("meta"):
        with pytest.raises(UserError, match="choose another backbone"):
            create_detector("retinanet", "inception_resnet_v2")
        with pytest.raises(UserError, match="choose another backbone"):
            create_panoptic("inception_resnet_v2", 3, (1,))


def test_what_torchvision_keeps_private_is_imported_in_one_file() -> None:
    root = Path(resnestkit.__file__).parent
    named = re.compile(r"^\s*(from|import) torchvision\.models\.detection\b", re.MULTILINE)
    found = [path for path in root.rglob("*.py") if named.search(path.read_text())]
    assert [path.relative_to(root).as_posix() for path in found] == ["detection/parts.py"]


def test_what_there_is_not() -> None:
    with pytest.raises(UserError, match="Did you mean faster_rcnn"):
        create_detector("fast_rcnn")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must be one of paper, torchvision, light"):
        make("faster_rcnn", settings="mmdetection")
    with pytest.raises(UserError, match="no net called"):
        make("faster_rcnn", "resnest51")
    with pytest.raises(ValueError, match="classes is 0"):
        make("faster_rcnn", classes=0)


def test_a_spec_is_plain_values_and_comes_back() -> None:
    for kind in KINDS:
        spec = make(kind).spec
        assert DetectorSpec.from_dict(spec.to_dict()) == spec
        with torch.device("meta"):
            again = build_detector(DetectorSpec.from_dict(spec.to_dict()))
        assert again.state_dict().keys() == make(kind).state_dict().keys()


def test_several_short_sides_are_drawn_in_training_and_the_last_is_taken_at_test() -> None:
    model = make("faster_rcnn", "resnet18", min_size=(32, 48, 64))
    image = torch.rand(3, 64, 80)
    sizes = {tuple(model.train().transform([image])[0].image_sizes[0]) for _ in range(30)}
    assert {height for height, _ in sizes} == {32, 48, 64}
    assert model.eval().transform([image])[0].image_sizes == [(64, 80)]


def test_grey_images() -> None:
    model = make("retinanet", "resnet18", in_channels=1, settings=few_regions("retinanet"))
    assert model.preprocessing.channels == 1
    assert len(model.eval()([torch.rand(1, 60, 80)])) == 1
