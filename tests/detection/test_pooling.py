"""Pooling by kernels in a detector, against the pooling without."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_detectors import make, scene
from torch import Tensor

from resnestkit.deploy.detection_predictor import DetectionPredictor
from resnestkit.detection.regions import AlignedPool
from resnestkit.detection.spec import DetectionSettings
from resnestkit.detectors import save_detector
from resnestkit.ops import kernels, regions
from resnestkit.ops.fused import use_kernels

WHY = kernels.why_no_kernels()
needs_compiler = pytest.mark.skipif(WHY is not None, reason=f"kernels cannot be compiled: {WHY}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many regions the kernels pooled, call by call."""
    counted: list[int] = []
    real = regions.pool_regions

    def pool_regions(levels: Any, boxes: Tensor, *rest: Any) -> Tensor:
        counted.append(len(boxes))
        return real(levels, boxes, *rest)

    monkeypatch.setattr(regions, "pool_regions", pool_regions)
    return counted


def make_levels(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    sides = {"a": 40, "b": 20, "c": 10, "d": 5}
    made = {name: torch.randn(2, 12, side, side).to(dtype) for name, side in sides.items()}
    return {
        name: level.contiguous(memory_format=torch.channels_last).requires_grad_()
        for name, level in made.items()
    }


def make_boxes() -> list[Tensor]:
    """Boxes for every level on the first image, none on the second."""
    corners = torch.rand(50, 2) * 60
    sides = torch.rand(50, 2) * 20 * 2.0 ** torch.arange(50)[:, None].remainder(6)
    return [torch.cat([corners, corners + sides], dim=1), torch.zeros(0, 4)]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("flat", [True, False])
def test_a_pyramid_is_pooled_as_without_kernels(
    dtype: torch.dtype, flat: bool, calls: list[int]
) -> None:
    pool = AlignedPool(list("abcd"), [4, 8, 16, 32], 7, DetectionSettings(), flat=flat)
    levels, boxes = make_levels(dtype), make_boxes()
    found = []
    for enabled in (False, True):
        with use_kernels(enabled=enabled):
            pooled = pool(levels, boxes, [(160, 160), (160, 160)])
        wanted = torch.arange(float(pooled.numel())).sin().reshape(pooled.shape).to(dtype)
        gradients = torch.autograd.grad(pooled, list(levels.values()), wanted)
        assert all(gradient.any() for gradient in gradients)
        found.append([pooled.detach(), *gradients])
    assert calls == [50]
    closeness = (
        {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    )
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype == dtype
        torch.testing.assert_close(one, other, **closeness)


@needs_compiler
@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_rcnn"])
def test_a_detector_learns_the_same(kind: Any, calls: list[int]) -> None:
    model = make(kind).to(memory_format=torch.channels_last).train()
    images, targets = scene()
    found = []
    for enabled in (False, True):
        torch.manual_seed(3)  # the draw of the proposals
        with use_kernels(enabled=enabled):
            losses = model(images, targets)
        sum(losses.values()).backward()
        gradient = model.backbone.body.conv1[0].weight.grad
        assert gradient is not None
        found.append([*(loss.detach() for loss in losses.values()), gradient.clone()])
        model.zero_grad()
    assert len(calls) == {"mask_rcnn": 2, "cascade_rcnn": 3}[kind]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


@needs_compiler
def test_a_predictor_finds_the_same_by_kernels(tmp_path: Path, calls: list[int]) -> None:
    model = make("mask_rcnn").eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.3)
    model.head_is_new = False
    save_detector(model, tmp_path / "net.safetensors", ["one", "two", "three"])
    predictor = DetectionPredictor(tmp_path / "net.safetensors", "cpu", score=0.0)
    image = (scene()[0][0] * 255).to(torch.uint8)
    ours = predictor.find(image)
    assert len(calls) == 2
    predictor.kernels = False
    plain = predictor.find(image)
    assert len(calls) == 2
    assert len(plain.scores)
    np.testing.assert_allclose(ours.boxes, plain.boxes, atol=1e-2)
    np.testing.assert_allclose(ours.scores, plain.scores, atol=1e-4)
    assert ours.masks == plain.masks


@needs_compiler
@pytest.mark.filterwarnings("ignore:`torch.jit.trace", "ignore::torch.jit.TracerWarning")
def test_a_tracer_sees_torchvisions_operator(calls: list[int]) -> None:
    pool = AlignedPool(list("abcd"), [4, 8, 16, 32], 7, DetectionSettings(sampling_ratio=2))
    levels = {name: level.detach() for name, level in make_levels().items()}
    boxes = make_boxes()[:1]

    class Pool(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor, box: Tensor) -> Tensor:
            pooled: Tensor = pool(dict(zip("abcd", (a, b, c, d), strict=True)), [box], [(160, 160)])
            return pooled

    inputs = (*levels.values(), boxes[0])
    with use_kernels():
        traced = torch.jit.trace(Pool(), inputs, check_trace=False)
        assert "roi_align" in str(traced.inlined_graph)
        assert not calls
        torch.testing.assert_close(Pool()(*inputs), traced(*inputs), rtol=1e-4, atol=1e-4)
    assert calls == [50]
