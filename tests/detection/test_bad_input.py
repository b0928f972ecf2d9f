"""Images of any shape, batches without objects, bad targets: no crash, but one sentence."""

from typing import Any

import pytest
import torch
from small_detectors import empty_target, make, scene
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnestkit import UserError
from resnestkit.detection.detector import Detector
from resnestkit.detection.spec import KINDS, Kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (20_000, 50), (20_000, 3), (5, 9000)])
def test_images_of_any_shape(kind: Kind, size: tuple[int, int]) -> None:
    model = make(kind, "resnet18")
    height, width = size
    image = torch.rand(3, height, width)
    found = model.eval()([image])[0]
    assert (found["boxes"][:, 2] <= width + 1e-3).all()
    assert (found["boxes"][:, 3] <= height + 1e-3).all()
    whole = torch.tensor([[0.0, 0.0, width, height]])
    target = {"boxes": whole, "labels": torch.tensor([1])}
    target["masks"] = torch.ones(1, height, width, dtype=torch.uint8)
    assert all(loss.isfinite() for loss in model.train()([image], [target]).values())


def test_a_flat_image_first_leads_no_later_one_astray() -> None:
    model = make("faster_rcnn", "resnet18").eval()
    image = torch.rand(3, 60, 80)
    before = model([image])[0]["boxes"]
    model([torch.rand(3, 1, 900)])
    assert torch.equal(model([image])[0]["boxes"], before)


class _Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that is computed."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.most = max(self.most, found.numel())
        return found


def test_a_strip_takes_no_more_memory_than_it_has_pixels() -> None:
    model = make("faster_rcnn", "resnet18").eval()
    for size in ((1, 50_000), (50_000, 2)):
        image = torch.rand(3, *size)
        with _Largest() as largest:
            small, _ = model.transform.resize(image)
        assert sorted(small.shape[1:]) == [1, 96]
        assert largest.most <= image.numel()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_batch_without_objects(kind: Kind, count: int, norm: str) -> None:
    if (norm, count) == ("batch", 1):
        norm = "group"
    model = make(kind, "resnet18", norm=norm)
    images = [torch.rand(3, 60, 80) for _ in range(count)]
    losses = model(images, [empty_target(60, 80) for _ in range(count)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(weight.grad is not None for weight in _heads(model).parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())


def _heads(model: Detector) -> nn.Module:
    return model.get_submodule("head" if model.spec.kind == "retinanet" else "roi_heads")


BAD_TARGETS = {
    "without area": {"boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0]])},
    "not all numbers": {"boxes": torch.tensor([[5.0, float("nan"), 9.0, 9.0]])},
    r"the label 0; labels are 1 to 3": {"labels": torch.tensor([0])},
    r"the label 4; labels are 1 to 3": {"labels": torch.tensor([4])},
    "has no labels": {"labels": None},
    "has no masks": {"masks": None},
    "has no boxes": {"boxes": [[1, 2, 3, 4]]},
    r"give floats \(n, 4\)": {"boxes": torch.tensor([1.0, 2.0, 3.0, 4.0])},
    "give an int64 a box": {"labels": torch.tensor([1.0])},
    r"masks of shape \(1, 5, 5\)": {"masks": torch.ones(1, 5, 5)},
}


@pytest.mark.parametrize("said", BAD_TARGETS)
def test_bad_targets_in_one_sentence(said: str) -> None:
    model = make("mask_rcnn", "resnet18")
    good = {
        "boxes": torch.tensor([[5.0, 5.0, 9.0, 9.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 60, 80, dtype=torch.uint8),
    }
    images, target = [torch.rand(3, 60, 80)], {**good, **BAD_TARGETS[said]}
    with pytest.raises(UserError, match=f"Target 0 .*{said}"):
        model(images, [target])
    with pytest.raises(UserError, match="needs targets"):
        model(images)
    with pytest.raises(UserError, match="1 images, but 2 targets"):
        model(images, [good, good])


def test_bad_images_in_one_sentence() -> None:
    model = make("retinanet", "resnet18").eval()
    for image, said in (
        (torch.rand(4, 60, 80), r"must be \(3, height"),
        (torch.rand(60, 80), r"must be \(3, height"),
        (torch.rand(3, 0, 80), r"must be \(3, height"),
        (torch.zeros(3, 60, 80, dtype=torch.uint8), "whole numbers"),
    ):
        with pytest.raises(UserError, match=said):
            model([image])
    with pytest.raises(UserError, match="no image"):
        model([])


@pytest.mark.parametrize("norm", ["batch", "sync"])
@pytest.mark.parametrize("net", ["resnest14", "skresnet18"])
def test_one_image_under_batch_norms_has_a_remedy(net: str, norm: str) -> None:
    model = make("faster_rcnn", net, norm=norm)
    images, targets = scene()
    with pytest.raises(UserError, match=r"1 image leaves a norm.*group.*frozen.*sync"):
        model(images[:1], targets[:1])
    model(images, targets)
