"""A mask follows its image, whatever becomes of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from resnestkit.data.detection.shapes import draw_shapes
from resnestkit.data.seeding import seeded
from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.data.segmentation.transforms import (
    SegmentationAugmentation,
    SegmentationTransform,
    crop_resized,
    draw_size,
    pad,
)
from resnestkit.preprocessing import Preprocessing

SEEDS = st.integers(0, 300)
SIDES = st.integers(1, 60)
PREPROCESSING = Preprocessing(mean=(0.2, 0.4, 0.6), std=(0.1, 0.1, 0.1))
FILL = (51, 102, 153)


def scene(seed: int) -> tuple[Tensor, Tensor]:
    """A picture that shows its own mask: each class has its own flat colour."""
    drawing = draw_shapes(np.random.default_rng(seed))
    mask = torch.zeros(drawing.pixels.shape[:2], dtype=torch.uint8)
    for shape, label in zip(drawing.masks, drawing.labels, strict=True):
        mask[torch.from_numpy(shape)] = label
    return (mask * 80).expand(3, -1, -1).contiguous(), mask


def agree(image: Tensor, mask: Tensor) -> float:
    """The share of pixels whose colour is that of their class."""
    shown = mask != IGNORE
    return float(((image[0].int() - mask.int() * 80).abs() <= 40)[shown].float().mean())


@given(SEEDS, st.floats(0.3, 3.0), st.integers(40, 200))
def test_images_and_masks_stay_together(seed: int, scale: float, side: int) -> None:
    image, mask = scene(seed)
    augmentation = SegmentationAugmentation(round(128 * scale), (0.7, 1.4), side)
    with seeded(seed):
        made, truth = SegmentationTransform(augmentation, PREPROCESSING)(image, mask)
    assert made.shape == (3, side, side)
    assert truth.shape == (side, side)
    assert made.dtype == truth.dtype == torch.uint8
    assert set(truth.unique().tolist()) <= {0, 1, 2, 3, IGNORE}
    shown = truth != IGNORE
    # Only on the shapes' edges, which resizing blurs in an image, may they differ.
    assert agree(made, truth) > 0.85
    assert shown.any()
    empty = made.permute(1, 2, 0)[~shown]
    assert (empty == torch.tensor(FILL, dtype=torch.uint8)).all()


@given(SEEDS)
def test_nothing_changes_where_nothing_is_asked(seed: int) -> None:
    image, mask = scene(seed)
    side = max(mask.shape)
    plain = SegmentationAugmentation(side, (1.0, 1.0), side, flip=False)
    made, truth = SegmentationTransform(plain, PREPROCESSING)(image, mask)
    height, width = mask.shape
    assert torch.equal(made[:, :height, :width], image)
    assert torch.equal(truth[:height, :width], mask)
    assert (truth == IGNORE).sum() == side * side - height * width


@given(SEEDS, st.integers(20, 400), st.integers(10, 60))
def test_a_crop_shows_a_part_at_the_scale_of_the_whole(seed: int, longer: int, side: int) -> None:
    across = torch.arange(200, dtype=torch.uint8).repeat(120, 1)
    along = torch.arange(120, dtype=torch.uint8).view(-1, 1).repeat(1, 200)
    image = torch.stack([across, along, across])
    with seeded(seed):
        whole = draw_size(across.shape, longer, (1.0, 1.0))
        made, truth = crop_resized(image, across, whole, side)
    scale = 200 / longer
    assert made.shape[1:] == truth.shape == tuple(min(side, one) for one in whole)
    steps = made.float()[:, 1:-1, 1:-1]  # at its edges a filter is cut off
    for steepness in (steps[0].diff(dim=1), steps[1].diff(dim=0)):
        if steepness.numel() > 100:
            assert float(steepness.mean()) == pytest.approx(scale, rel=0.15)
    apart = (made[0].float() - truth.float()).abs()[:, 1:-1]
    assert not apart.numel() or float(apart.max()) <= 0.5 * scale + 1


@given(SIDES, SIDES, st.integers(1, 80), st.integers(1, 50))
def test_any_size_is_taken(height: int, width: int, base: int, side: int) -> None:
    image = torch.full((height, width, 3), 200, dtype=torch.uint8).permute(2, 0, 1)  # as decoded
    mask = torch.ones(height, width, dtype=torch.uint8)
    augmentation = SegmentationAugmentation(base, (0.5, 2.0), side, jitter=0.2)
    made, truth = SegmentationTransform(augmentation, PREPROCESSING)(image, mask)
    assert made.shape == (3, side, side)
    assert set(truth.unique().tolist()) <= {1, IGNORE}
    assert truth[0, 0] == 1


def test_strips_do_not_grow() -> None:
    image, mask = torch.zeros(3, 2, 20_000, dtype=torch.uint8), torch.zeros(2, 20_000).byte()
    made, truth = SegmentationTransform(SegmentationAugmentation(), PREPROCESSING)(image, mask)
    assert made.shape == (3, 480, 480)
    assert (truth[1:] == IGNORE).all()


def test_longer_sides_are_drawn_evenly_from_the_range() -> None:
    sizes = [draw_size((30, 60), 40, (0.5, 2.0)) for _ in range(2000)]
    longer = [width for _, width in sizes]
    assert (min(longer), max(longer)) == (20, 80)
    assert np.mean(longer) == pytest.approx(50, abs=1.5)
    assert all(abs(height - width / 2) <= 0.5 for height, width in sizes)


def test_crops_come_from_everywhere() -> None:
    mask = torch.arange(100, dtype=torch.uint8).view(1, 100).repeat(100, 1)
    image = torch.stack([mask, mask.T, mask])
    starts = {
        tuple(crop_resized(image, mask, (100, 100), 90)[0][:2, 0, 0].tolist()) for _ in range(900)
    }
    assert {left for left, _ in starts} == {top for _, top in starts} == set(range(11))


def test_half_of_the_images_are_mirrored() -> None:
    mask = torch.arange(20, dtype=torch.uint8).repeat(20, 1)
    augmentation = SegmentationAugmentation(20, (1.0, 1.0), 20)
    transform = SegmentationTransform(augmentation, PREPROCESSING)
    mirrored = 0
    for _ in range(200):
        image, truth = transform(mask.expand(3, -1, -1), mask)
        assert torch.equal(image[0], truth)
        mirrored += int(truth[0, 0] == 19)
    assert 70 < mirrored < 130


def test_what_is_missing_is_of_the_mean_colour_in_rgb() -> None:
    image, mask = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.uint8)
    turned = Preprocessing(mean=(0.2, 0.4, 0.6), std=(0.1,) * 3, channel_order="BGR")
    for preprocessing, fill in ((PREPROCESSING, FILL), (turned, FILL[::-1])):
        transform = SegmentationTransform(SegmentationAugmentation(2, (1.0, 1.0), 3), preprocessing)
        made, truth = transform(image, mask)
        assert made[:, 2, 2].tolist() == list(fill)
        assert truth.tolist() == [[0, 0, IGNORE], [0, 0, IGNORE], [IGNORE] * 3]
    grey = torch.tensor([7], dtype=torch.uint8)
    assert pad(image[:1], mask, 3, grey)[0][:, 2, 0].tolist() == [7]


def test_draws_follow_torchs_generator() -> None:
    transform = SegmentationTransform(
        SegmentationAugmentation(100, (0.5, 2.0), 64, jitter=0.3), PREPROCESSING
    )
    image, mask = scene(3)

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        with seeded(seed):
            return transform(image, mask)

    (one, first), (two, second), (other, _) = draw(1), draw(1), draw(2)
    assert torch.equal(one, two)
    assert torch.equal(first, second)
    assert not torch.equal(one, other)
