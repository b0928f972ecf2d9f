"""Panoptic nets on every kind of net: called as detectors are, trained, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_files import FEW, make_net, scene
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from resnestkit import UserError, create_model, create_panoptic, save_model
from resnestkit.models.layers import SyncBatchNorm
from resnestkit.panoptic.branch import read_stuff
from resnestkit.panoptic.network import PanopticNet, build_panoptic
from resnestkit.panoptic.spec import PanopticSettings, PanopticSpec

NETS = ("resnest14", "resnet18", "skresnet18", "bn_inception", "resnest23_small")


def check_segments(model: PanopticNet, image: Tensor, found: dict[str, Any]) -> None:
    numbers, listed = found["segments"], found["segments_info"]
    assert numbers.shape == image.shape[1:]
    assert numbers.dtype == torch.int32
    assert [one.number for one in listed] == list(range(1, len(listed) + 1))
    shown = set(numbers.unique().tolist())
    assert shown - {0} == {one.number for one in listed}
    for one in listed:
        assert one.is_thing == model.spec.things[one.label]
        assert 0 <= one.score <= 1
    stuff = [one.label for one in listed if not one.is_thing]
    assert len(stuff) == len(set(stuff))
    assert set(found) == {"boxes", "labels", "scores", "segments", "segments_info"}
    assert len(found["boxes"]) == len(found["labels"]) == len(found["scores"])


@pytest.mark.parametrize("net", NETS)
def test_losses_gradients_and_segments(net: str) -> None:
    settings = PanopticSettings(channels=32, score=0.0, stuff_area=1)
    model = make_net(net, panoptic=settings)
    images, targets = scene()
    losses = model(images, targets)
    names = {"classifier", "box_reg", "mask", "objectness", "rpn_box_reg", "semantic"}
    assert set(losses) == {f"loss_{name}" for name in names}
    total = sum(losses.values())
    total.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        # Behind a last gamma of 0, as every block starts, a gradient of 0 is right.
        assert weight.grad.any() or not name.startswith(("stuff.", "detector.backbone.fpn.")), name
    with torch.no_grad():
        outputs = model.eval()(images)
    for image, found in zip(images, outputs, strict=True):
        check_segments(model, image, found)


def test_a_cascade_finds_the_things_as_well() -> None:
    model = make_net("resnet18", kind="cascade_mask_rcnn")
    assert "loss_box_reg_stage3" in model(*scene())


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (33, 65)])
def test_images_of_odd_sizes(size: tuple[int, int]) -> None:
    model = make_net("resnet18", panoptic=PanopticSettings(channels=16, stuff_area=0)).eval()
    image = torch.rand(3, *size)
    with torch.no_grad():
        (found,) = model([image])
    check_segments(model, image, found)


@pytest.mark.parametrize("size", [(97, 130), (31, 40), (58, 45), (1, 200)])
def test_stuff_is_read_channel_by_channel(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    padded = torch.randn(1, 6, 64, 64).contiguous(memory_format=torch.channels_last)
    logits = padded[0, :, :58, :45]
    whole = F.interpolate(logits.contiguous()[None], size, mode="bilinear")[0]
    made = []

    def resize(maps: Tensor, *rest: Any, **options: Any) -> Tensor:
        made.append(maps.shape[1])
        return interpolate(maps, *rest, **options)

    interpolate = F.interpolate
    monkeypatch.setattr(F, "interpolate", resize)
    channels, sureness = read_stuff(logits, size)
    assert torch.equal(channels, whole.argmax(0))
    assert torch.allclose(sureness, whole.softmax(0).amax(0), atol=1e-6)
    assert max(made) == 1


def test_masks_are_pasted_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sure = PanopticSettings(channels=16, score=0.0, stuff_area=0)
    few = replace(FEW, score=0.0)
    model = make_net("resnet18", panoptic=sure, settings=few).eval()
    pasted = []
    real = model.detector.transform.paste

    def paste(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
        pasted.append((len(mask), size))
        return real(mask, box, size)

    monkeypatch.setattr(model.detector.transform, "paste", paste)
    with torch.no_grad():
        (found,) = model([torch.rand(3, 61, 83)])
    assert pasted == [(1, (61, 83))] * len(found["boxes"])
    assert len(pasted) > 1


def test_a_few_steps_on_one_picture() -> None:
    model = make_net("resnet18")
    images, targets = scene()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    seen = []
    for _ in range(15):
        torch.manual_seed(1)  # the same proposals drawn, so that losses compare
        losses = model(images, targets)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        seen.append((total.item(), losses["loss_semantic"].item()))
    assert min(total for total, _ in seen[-3:]) < 0.8 * seen[0][0]
    assert min(stuff for _, stuff in seen[-3:]) < 0.8 * seen[0][1]


def test_the_branch_learns_stuff_and_one_class_for_all_things() -> None:
    model = make_net("resnet18").eval()
    images, targets = scene()
    seen, _ = model.detector.transform(images[:1])
    seen.image_sizes = [(61, 83)]
    seen.tensors = torch.zeros(1, 3, 64, 96)
    wanted = model._wanted(targets[:1], seen)[0]
    assert model.stuff.classifier.out_channels == 3
    semantic = targets[0]["semantic"]
    expected = torch.full((64, 96), -100)
    inside = torch.zeros(61, 83, dtype=torch.int64)
    inside[semantic == 0] = 1
    inside[semantic == 3] = 2
    expected[:61, :83] = inside
    assert torch.equal(wanted, expected)


def test_the_loss_of_stuff_is_a_weighed_mean_over_what_is_labelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = {}
    for weight in (0.5, 2.0):
        torch.manual_seed(0)
        model = make_net("resnet18", panoptic=PanopticSettings(channels=16, loss_weight=weight))
        monkeypatch.setattr(model.detector.transform, "_skip_resize", True)
        images, targets = scene()
        losses[weight] = model(images, targets)["loss_semantic"]
    seen, _ = model.detector.transform(images, [{**t} for t in targets])
    logits = model._stuff_logits(model.detector.backbone(seen.tensors), seen)
    wanted = model._wanted(targets, seen)
    chosen = logits.permute(0, 2, 3, 1)[wanted >= 0]
    assert losses[2.0].item() == pytest.approx(
        2 * F.cross_entropy(chosen, wanted[wanted >= 0]).item()
    )
    assert losses[2.0].item() == pytest.approx(4 * losses[0.5].item())


def test_without_a_label_there_is_nothing_to_learn_of_stuff() -> None:
    model = make_net("resnet18")
    images, targets = scene()
    for target in targets:
        target["semantic"] = torch.full_like(target["semantic"], 255)
    losses = model(images, targets)
    assert losses["loss_semantic"].item() == 0
    sum(losses.values()).backward()
    assert not model.stuff.classifier.weight.grad.any()


def test_under_autocast_the_losses_are_numbers() -> None:
    model = make_net("resnet18")
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(*scene())
        found = model.eval()(scene()[0])[0]
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_semantic"].dtype == torch.float32
    assert found["segments"].dtype == torch.int32


@pytest.mark.parametrize("norm", ["batch", "sync", "group"])
def test_norms_are_everywhere_as_asked(norm: Any) -> None:
    kind = {"batch": nn.BatchNorm2d, "sync": SyncBatchNorm, "group": nn.GroupNorm}[norm]
    model = make_net("resnet18", norm=norm)
    for place in ("detector.backbone.body", "detector.backbone.fpn", "stuff"):
        norms = [
            type(part)
            for part in model.get_submodule(place).modules()
            if isinstance(part, nn.BatchNorm2d | nn.GroupNorm | FrozenBatchNorm2d)
        ]
        assert set(norms) == {kind}, place


def test_frozen_norms_leave_the_branch_its_group_norms(tmp_path: Path) -> None:
    net = create_model("resnet18", classes=2)
    net.head_is_new = False
    save_model(net, tmp_path / "net.safetensors", ["a", "b"])
    model = make_net(
        "resnet18", norm="frozen", weights=tmp_path / "net.safetensors", frozen_stages=1
    )
    assert model.spec.detector.head_norm == "none"
    assert model.spec.stuff_norm == "group"
    assert torch.equal(model.body.conv1.weight, net.conv1.weight)
    assert not model.body.layer1[0].conv1.weight.requires_grad
    images, targets = scene()
    assert all(loss.isfinite() for loss in model(images[:1], targets[:1]).values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"semantic": None}, "Target 0 has no semantic"),
        ({"semantic": torch.zeros(5, 5, dtype=torch.uint8)}, r"semantic of shape \(5, 5\)"),
        ({"semantic": torch.zeros(61, 83)}, "torch.float32; it must be"),
        ({"labels": torch.tensor([1, 4])}, "has the label 4; labels are 1 to 3"),
        ({"masks": None}, "has no masks"),
    ],
    ids=["no_semantic", "another_size", "no_bytes", "no_label", "no_masks"],
)
def test_bad_targets(change: dict[str, Any], said: str) -> None:
    model = make_net("resnet18")
    images, targets = scene()
    targets[0] = {**targets[0], **change}
    with pytest.raises(UserError, match=said):
        model(images, targets)


def test_what_there_is_not() -> None:
    with pytest.raises(UserError, match="Say how many classes there are, and which"):
        create_panoptic("resnet18")
    with pytest.raises(UserError, match="Say how many classes there are beside"):
        create_panoptic("resnet18", things=(1,))
    for things in ((), (0, 1, 2), (3,), (-1,)):
        with pytest.raises(UserError, match="they must be some of 0 to 2, and not all"):
            create_panoptic("resnet18", 3, things)
    with pytest.raises(UserError, match="frozen_stages would freeze random"):
        make_net("resnet18", frozen_stages=1)
    with pytest.raises(ValueError, match="overlap is 2"):
        spec_with(overlap=2.0)
    with pytest.raises(ValueError, match="score is -1"):
        spec_with(score=-1.0)


def spec_with(**changes: Any) -> PanopticSpec:
    return PanopticSpec(
        make_net("resnet18").spec.detector,
        (False, True, True, False, True),
        PanopticSettings(**changes),
    )


def test_light_settings_are_light_in_both() -> None:
    with torch.device("meta"):
        light = create_panoptic("resnest14", 5, (1, 2, 4), settings="light")
        usual = create_panoptic("resnest14", 5, (1, 2, 4))
    assert (light.spec.settings.channels, usual.spec.settings.channels) == (64, 128)
    assert usual.spec.settings.stuff_area == 4096
    assert light.spec.detector.settings.box_units < usual.spec.detector.settings.box_units


def test_a_spec_is_plain_values_and_comes_back() -> None:
    model = make_net("resnet18")
    spec = PanopticSpec.from_dict(model.spec.to_dict())
    assert spec == model.spec
    assert spec.detector.settings == FEW
    assert (spec.thing_classes, spec.stuff_classes) == ((1, 2, 4), (0, 3))
    with torch.device("meta"):
        again = build_panoptic(spec)
    assert again.state_dict().keys() == model.state_dict().keys()
