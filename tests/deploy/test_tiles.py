"""Tiles: what they cover, what they hold, and what they make of a net that looks around."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.deploy.tiles import (
    ALIGN,
    SIDE,
    WHOLE_PIXELS,
    Read,
    Tiling,
    best_class,
    choose_tiling,
    cut,
    label_in_tiles,
    label_type,
)
from resnestkit.errors import UserError

SMALL = Tiling(64, 32, 8)


class Looker(nn.Module):
    """Down to stride 8 and up again, as an encoder and a decoder; sees 45 pixels around."""

    reach = 45

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv2d(*c, 3, 2, 1, bias=False) for c in pairwise([3, 8, 8, 8])
        )
        self.deep = nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False)
        self.last = nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        y = x = F.pad(x, (0, -width % 8, 0, -height % 8))
        for layer in self.down:
            y = F.leaky_relu(layer(y))
        y = self.last(self.deep(y))
        y = F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)
        return y[:, :, :height, :width]


def still(net: nn.Module) -> nn.Module:
    """In double precision, where sums in another order are as good as equal."""
    return net.double().requires_grad_(requires_grad=False)


def scorer(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda part: net(part[None].double() / 255 - 0.5)[0].softmax(0)


def reader(image: Tensor) -> Read:
    return lambda top, left, bottom, right: image[:, top:bottom, left:right]


def draw_noise(height: int, width: int) -> Tensor:
    """Coarse enough for neighbours to be alike."""
    coarse = torch.rand(1, 3, height // 5 + 2, width // 5 + 2)
    return (255 * F.interpolate(coarse, (height, width), mode="bilinear")[0]).byte()


@given(st.integers(1, 3000), st.integers(2, 9), st.data())
def test_tiles_cover_a_side_and_their_weights_add_to_one(
    length: int, sides: int, data: st.DataObject
) -> None:
    side = ALIGN * sides
    overlap = ALIGN * data.draw(st.integers(0, sides - 1))
    most = max(ALIGN, (side - overlap) // 2 // ALIGN * ALIGN)
    ramp = data.draw(st.integers(0, min(overlap, most)))
    spans = cut(length, Tiling(side, overlap, ramp))
    weights = np.zeros(length)
    for span in spans:
        assert 0 <= span.start <= span.first < span.last <= span.stop <= length
        assert span.start % ALIGN == 0
        assert span.stop - span.start <= side
        mine = np.ones(len(span))
        mine[: span.rise] *= (np.arange(span.rise) + 0.5) / max(1, span.rise)
        mine[len(span) - span.fall :] *= 1 - (np.arange(span.fall) + 0.5) / max(1, span.fall)
        weights[span.first : span.last] += mine
    assert np.allclose(weights, 1)
    for before, after in pairwise(spans):
        assert before.stop - after.start >= overlap
        assert before.last - after.first == ramp
    # No more is seen than the length asks for: the time is in proportion to it.
    assert len(spans) == max(1, -(-(length - overlap) // (side - overlap)))
    seen = sum(span.stop - span.start for span in spans)
    assert seen <= length + (len(spans) - 1) * overlap + ALIGN * len(spans)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(2, 5))
def test_a_net_that_sees_one_pixel_labels_as_in_the_whole(h: int, w: int, classes: int) -> None:
    torch.manual_seed(h * w)
    score, image = scorer(still(nn.Conv2d(3, classes, 1))), draw_noise(h, w)
    labels = label_in_tiles(reader(image), score, (h, w), classes, SMALL)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, best_class(score(image)))


def test_a_net_that_looks_around_labels_as_in_the_whole_if_the_overlap_is_enough() -> None:
    net = still(Looker())
    image = draw_noise(331, 417)
    whole = best_class(scorer(net)(image))
    assert len(np.unique(whole)) > 1
    enough = Tiling(160, 96, 4)
    assert (enough.overlap - enough.ramp) // 2 >= net.reach
    labels = label_in_tiles(reader(image), scorer(net), (331, 417), 4, enough)
    assert np.array_equal(labels, whole)
    labels = label_in_tiles(reader(image), scorer(net), (331, 417), 4, Tiling(96, 0, 0))
    assert 0.9 < np.mean(labels == whole) < 1, "nothing is shared"


def test_neighbours_fade_into_each_other() -> None:
    """Each tile says another class, as surely as the ramp is long: the border is its middle."""

    def score(part: Tensor) -> Tensor:
        left = float(part[0, 0, 0] == 0)
        return torch.tensor([left, 1 - left]).view(2, 1, 1).repeat(1, *part.shape[1:])

    image = torch.arange(96, dtype=torch.uint8).repeat(3, 10, 1)
    labels = label_in_tiles(reader(image), score, (10, 96), 2, SMALL)
    assert (labels[:, :48] == 0).all()
    assert (labels[:, 48:] == 1).all()


def test_a_tile_at_a_time_is_seen_and_only_ramps_are_held() -> None:
    seen: list[tuple[int, int]] = []
    done: list[int] = []

    def score(part: Tensor) -> Tensor:
        seen.append((part.shape[1], part.shape[2]))
        return torch.rand(300, *part.shape[1:])

    image = torch.zeros(3, 150, 180, dtype=torch.uint8)
    labels = label_in_tiles(reader(image), score, (150, 180), 300, SMALL, done.append)
    assert max(max(size) for size in seen) == SMALL.side
    assert len(seen) == len(done) == sum(done) == len(cut(150, SMALL)) * len(cut(180, SMALL))
    assert (labels.dtype, labels.max() > 255) == (np.uint16, True)


def test_tiles_are_of_a_size_that_memory_allows() -> None:
    assert choose_tiling(1080, 1920, 21) is None
    assert choose_tiling(1024, 2048, 19) is None
    assert choose_tiling(1536, 1537, 21) == Tiling(SIDE, SIDE // 4, SIDE // 16)
    assert WHOLE_PIXELS == 1536**2
    for classes in (11, 150, 1000, 20_000):
        tiling = choose_tiling(10_000, 10_000, classes)
        assert tiling is not None
        assert classes * tiling.side**2 <= 2**26 or tiling.side == 64
        assert classes * tiling.ramp * 10_000 <= 2**26
        larger = choose_tiling(10_000, 10_000, classes, growth=2)
        assert larger is not None
        assert larger.side <= tiling.side
    assert choose_tiling(700, 700, 1000) is not None, "too many scores to be held"


def test_the_side_of_tiles_may_be_chosen() -> None:
    assert choose_tiling(10_000, 10_000, 11, 0) is None
    assert choose_tiling(200, 200, 11, 224) is None
    assert choose_tiling(200, 225, 11, 224) == Tiling(224, 32, 8)
    assert choose_tiling(500, 500, 11, 250) == Tiling(256, 64, 16)
    assert choose_tiling(500, 500, 11, 64) == Tiling(64, 32, 8)
    for side in (1, 63, -5):
        with pytest.raises(UserError, match=f"--tile is {side}; it must be 64 or more, or 0"):
            choose_tiling(500, 500, 11, side)
    for wrong in (
        (60, 32, 8),
        (64, 30, 8),
        (64, 64, 8),
        (64, 32, 33),
        (96, 64, 33),
        (256, 128, 65),
    ):
        with pytest.raises(ValueError, match="tiles"):
            Tiling(*wrong)


def test_labels_take_a_byte_where_that_is_enough() -> None:
    assert [label_type(classes) for classes in (2, 255, 256)] == [np.uint8, np.uint8, np.uint16]
