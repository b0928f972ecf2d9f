"""A compiled detector answers as before, and is not traced anew for every size of image."""

import pytest
import torch
from small_detectors import make
from torch._dynamo.utils import counters

from resnestkit import compile_detector

SIZES = ((60, 80), (64, 64), (80, 60), (50, 90), (90, 90), (70, 96))


def _images(count: int, first: int = 0) -> list[torch.Tensor]:
    return [torch.rand(3, *SIZES[(first + i) % len(SIZES)]) for i in range(count)]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    counters.clear()


def test_one_graph_serves_every_size() -> None:
    model = make("cascade_rcnn", "resnest14", min_size=64, max_size=160).eval()
    batches = [_images(2, first) for first in range(len(SIZES))] + [_images(3)]
    with torch.no_grad():
        expected = [model(images) for images in batches]
        names = set(model.state_dict())
        compile_detector(model, backend="eager")
        assert set(model.state_dict()) == names
        shapes = set()
        for images, before in zip(batches, expected, strict=True):
            shapes.add(tuple(model.transform(images)[0].tensors.shape))
            for one, other in zip(model(images), before, strict=True):
                torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-3, atol=1e-2)
    assert len(shapes) > 3
    assert counters["stats"]["unique_graphs"] == 1


def test_few_graphs_serve_single_images() -> None:
    """As a predictor gives them; a batch of one is traced apart, and so is the first square."""
    model = compile_detector(make("faster_rcnn", "resnest14", max_size=160).eval(), backend="eager")
    with torch.no_grad():
        for first in range(len(SIZES)):
            model(_images(1, first))
    assert 1 <= counters["stats"]["unique_graphs"] <= 2


def test_training_is_compiled_too() -> None:
    model = compile_detector(make("faster_rcnn", "resnest14"), backend="eager")
    for first in range(3):
        images = _images(2, first)
        boxes = torch.tensor([[5.0, 5.0, 40.0, 40.0]])
        targets = [{"boxes": boxes, "labels": torch.tensor([1])} for _ in images]
        sum(model(images, targets).values()).backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert model.backbone.body.conv1[0].weight.grad is not None


def test_fewer_sizes_by_more_padding() -> None:
    model = compile_detector(make("faster_rcnn", "resnet18"), multiple=128)
    assert model.eval().transform(_images(2))[0].tensors.shape[2:] == (128, 128)
    for multiple in (0, 33):
        with pytest.raises(ValueError, match="multiple of 32"):
            compile_detector(model, multiple=multiple)
