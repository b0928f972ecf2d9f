"""Boxes and masks follow the image, whatever becomes of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import masks_to_boxes

from resnestkit.data.detection.shapes import draw_shapes
from resnestkit.data.detection.table import Target
from resnestkit.data.detection.transforms import (
    DetectionAugmentation,
    DetectionTransform,
    Sampling,
    crop,
    draw_crop,
    fit_size,
    flip,
    hull,
    resize,
)
from resnestkit.data.seeding import seeded

SEEDS = st.integers(0, 500)


def scene(seed: int) -> tuple[Tensor, Target]:
    """Shapes with tight boxes, and an image whose first channel is their masks, added up."""

    drawing = draw_shapes(np.random.default_rng(seed))
    masks = torch.from_numpy(drawing.masks).byte()
    weights = torch.arange(1, len(masks) + 1, dtype=torch.uint8).view(-1, 1, 1)
    image = torch.from_numpy(drawing.pixels).permute(2, 0, 1).clone()
    image[0] = (masks * weights).sum(0)
    return image, Target(hull(masks), torch.tensor(drawing.labels), masks)


@given(SEEDS)
def test_hulls_are_tight(seed: int) -> None:
    _, target = scene(seed)
    assert target.masks is not None
    theirs = masks_to_boxes(target.masks)
    theirs[:, 2:] += 1  # torchvision gives the last pixel, not its edge
    assert torch.equal(hull(target.masks), theirs)
    assert torch.equal(hull(torch.zeros(2, 5, 7, dtype=torch.uint8)), torch.zeros(2, 4))


@given(SEEDS)
def test_flipped_twice_is_as_before(seed: int) -> None:
    image, target = scene(seed)
    once, flipped = flip(image, target)
    assert flipped.masks is not None
    assert torch.equal(hull(flipped.masks), flipped.boxes)
    twice, back = flip(once, flipped)
    assert torch.equal(twice, image)
    assert torch.equal(back.boxes, target.boxes)
    assert back.masks is not None
    assert torch.equal(back.masks, target.masks)


@given(SEEDS, st.floats(0.3, 2.5))
def test_boxes_stay_tight_when_resized(seed: int, scale: float) -> None:
    image, target = scene(seed)
    size = fit_size(image.shape[1:], round(min(image.shape[1:]) * scale), 10_000)
    resized, made = resize(image, target, size)
    assert resized.shape[1:] == size
    assert resized.dtype == torch.uint8
    assert made.masks is not None
    shown = made.masks.flatten(1).any(1).bool()
    # No mask leaves its box by more than rounding; enlarged, it also reaches the box's sides. Made
    # smaller, the tip of a triangle may fall between the pixels, but its box still has room for it.
    out = (hull(made.masks) - made.boxes)[shown] * torch.tensor([-1, -1, 1, 1])
    assert not len(out) or out.max() <= 0.5 + 1e-3
    assert not len(out) or scale < 1 or out.min() >= -0.5 - 1e-3
    ratio = torch.tensor([size[1] / image.shape[2], size[0] / image.shape[1]] * 2)
    assert torch.allclose(made.boxes / ratio, target.boxes, atol=1e-3)


@given(SEEDS, st.floats(0.3, 0.95))
def test_crops_keep_exactly_what_is_in_them(seed: int, least: float) -> None:
    image, target = scene(seed)
    assert target.masks is not None
    with seeded(seed):
        window = draw_crop(image, target, least)
    _, _, height, width = window
    assert least * image.shape[1] - 1 <= height <= image.shape[1]
    cut, made = crop(image, target, window)
    assert cut.shape[1:] == (height, width)
    assert made.masks is not None
    assert torch.equal(hull(made.masks), made.boxes)
    assert (made.boxes[:, 2:] - made.boxes[:, :2] >= 1).all()
    # The picture says where each object is: none was lost, none was moved.
    there = {int(value) for value in cut[0].unique() if value}
    kept = [int(cut[0][mask.bool()][0]) for mask in made.masks]
    assert there == set(kept)
    for value, mask in zip(kept, made.masks, strict=True):
        assert torch.equal(cut[0] == value, mask.bool())
        assert made.labels[kept.index(value)] == target.labels[value - 1]
    assert len(made.boxes) >= 1 or not len(target.boxes)


def test_without_masks_boxes_end_at_the_edge() -> None:
    boxes = torch.tensor([[2.0, 2, 10, 10], [0, 0, 3, 3], [5, 5, 40, 40], [3.5, 3.5, 4.2, 30]])
    target = Target(boxes, torch.arange(1, 5))
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    _, made = crop(image, target, (4, 4, 10, 12))
    assert made.labels.tolist() == [1, 3]  # the last one keeps a fifth of a pixel
    assert made.boxes.tolist() == [[0, 0, 6, 6], [1, 1, 12, 10]]
    _, whole = crop(image, target, (0, 0, 40, 40))
    assert torch.equal(whole.boxes, boxes)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((50, 20_000), (3, 1333)),
        ((20_000, 2), (1333, 1)),
        ((1, 1), (800, 800)),
        ((600, 1200), (666, 1333)),
    ],
)
def test_short_and_long_sides(size: tuple[int, int], expected: tuple[int, int]) -> None:
    made = fit_size(size, 800, 1333)
    assert made == expected
    image = torch.zeros(3, *size, dtype=torch.uint8)
    target = Target(torch.tensor([[0.0, 0, size[1], size[0]]]), torch.ones(1, dtype=torch.int64))
    transform = DetectionTransform(DetectionAugmentation(crop=0.5, jitter=0.2))
    out, after = transform(image, target)
    assert min(out.shape[1:]) >= 1
    assert (after.boxes[:, 2:] > after.boxes[:, :2]).all()
    assert (after.boxes[:, 2:] <= torch.tensor(out.shape[1:]).flip(0) + 1e-3).all()


@pytest.mark.parametrize(
    ("sides", "sampling", "expected"),
    [
        ((40, 48), "range", set(range(40, 49))),
        ((40, 44, 48), "choice", {40, 44, 48}),
        ((44,), "range", {44}),
    ],
)
def test_short_sides_are_drawn(
    sides: tuple[int, ...], sampling: Sampling, expected: set[int]
) -> None:
    transform = DetectionTransform(DetectionAugmentation(0.0, sides, sampling, 100, flip=False))
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert {transform(image, empty)[0].shape[1] for _ in range(200)} == expected


def test_draws_follow_torchs_generator() -> None:
    transform = DetectionTransform(DetectionAugmentation(0.6, (60, 90), jitter=0.3))
    image, target = scene(3)

    def draw(seed: int) -> tuple[Tensor, Target]:
        with seeded(seed):
            return transform(image, target)

    (one, first), (two, second), (other, _) = draw(1), draw(1), draw(2)
    assert torch.equal(one, two)
    assert torch.equal(first.boxes, second.boxes)
    assert one.shape != other.shape or not torch.equal(one, other)
