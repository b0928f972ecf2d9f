"""Whole images by one pass, several scales, mirrored, and windows."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from resnestkit import UserError
from resnestkit.segmentation.scales import (
    PAPER_SCALES,
    Protocol,
    _starts,
    known_protocol,
    scale_size,
    score_images,
)


def by_pixel(images: Tensor) -> Tensor:
    """A net that looks at one pixel at a time: no window or mirror changes what it says."""
    return torch.cat([images, images.square() - 1], 1)


def by_place(images: Tensor) -> Tensor:
    """A net that says where in its input a pixel lies."""
    height, width = images.shape[-2:]
    across = torch.linspace(0, 1, width).expand(len(images), 1, height, width)
    return torch.cat([across, -across], 1)


def test_a_single_pass_is_the_nets_own() -> None:
    images = torch.randn(2, 3, 11, 17)
    assert torch.equal(score_images(by_pixel, images), by_pixel(images))


@pytest.mark.parametrize(
    "protocol", [Protocol(flip=True), Protocol(window=8), Protocol(window=8, flip=True)]
)
def test_windows_and_mirrors_leave_a_local_net_as_it_is(protocol: Protocol) -> None:
    images = torch.randn(2, 3, 11, 27)
    found = score_images(by_pixel, images, protocol).softmax(1)
    torch.testing.assert_close(found, by_pixel(images).softmax(1))


def test_a_mirror_is_the_mean_of_both_sides() -> None:
    images = torch.randn(1, 3, 4, 9)
    found = score_images(by_place, images, Protocol(flip=True)).softmax(1)
    plain = by_place(images).softmax(1)
    torch.testing.assert_close(found, (plain + plain.flip(3)) / 2)


def test_scales_are_a_mean_of_probabilities_at_the_images_size() -> None:
    images = torch.randn(1, 3, 20, 30)
    seen: list[tuple[int, ...]] = []

    def net(part: Tensor) -> Tensor:
        seen.append(tuple(part.shape[-2:]))
        return by_pixel(part)

    found = score_images(net, images, Protocol(scales=(0.5, 1.0)))
    assert seen == [(10, 15), (20, 30)]
    small = F.interpolate(images, (10, 15), mode="bilinear", antialias=True)
    enlarged = F.interpolate(by_pixel(small).softmax(1), (20, 30), mode="bilinear")
    expected = (enlarged + by_pixel(images).softmax(1)) / 2
    torch.testing.assert_close(found.softmax(1), expected)
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_a_side_is_that_of_the_longer_side() -> None:
    seen: list[tuple[int, ...]] = []

    def net(part: Tensor) -> Tensor:
        seen.append(tuple(part.shape[-2:]))
        return by_pixel(part)

    found = score_images(net, torch.randn(1, 3, 20, 40), Protocol(side=30))
    assert found.shape == (1, 6, 20, 40)
    assert seen == [(15, 30)]
    assert scale_size((1, 5000), 100) == (1, 100)


@given(st.integers(1, 400), st.integers(8, 200))
def test_windows_cover_and_overlap(length: int, window: int) -> None:
    starts = _starts(length, window)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - window)
    steps = [after - before for before, after in itertools.pairwise(starts)]
    # Two thirds of a window at most, as the authors have it.
    assert all(0 < step <= window - round(window / 3) + 1 for step in steps)


def test_pixels_under_several_windows_are_their_mean() -> None:
    found = score_images(by_place, torch.randn(1, 3, 8, 12), Protocol(window=8)).softmax(1)
    alone = by_place(torch.randn(1, 3, 8, 8)).softmax(1)
    torch.testing.assert_close(found[..., :4], alone[..., :4])
    torch.testing.assert_close(found[..., 8:], alone[..., 4:])
    torch.testing.assert_close(found[..., 4:8], (alone[..., 4:] + alone[..., :4]) / 2)


def test_a_protocol_is_said_and_kept() -> None:
    assert str(Protocol()) == "single scale"
    full = Protocol(520, PAPER_SCALES, flip=True, window=480)
    assert str(full) == (
        "6 scales from 0.5 to 1.75, mirrored, windows of 480 pixels, longer side of 520 pixels"
    )
    assert known_protocol({**full.to_dict(), "scales": list(PAPER_SCALES)}) == full
    for nonsense in (None, 3, {"side": "large"}, {"sides": 3}):
        assert known_protocol(nonsense) == Protocol()
    assert full.but(windows=0) == Protocol(520, PAPER_SCALES, flip=True)
    assert full.but((1.0,), flip=False) == Protocol(520, window=480)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"side": 0}, "--side is 0"),
        ({"scales": ()}, "--scales"),
        ({"scales": (1.0, 0.0)}, "--scales is 1 0; it must be from 0.0625 to 16"),
        ({"window": 4}, "--windows is 4"),
    ],
)
def test_protocols_without_sense_are_refused(values: dict[str, object], flag: str) -> None:
    with pytest.raises(UserError, match=flag):
        Protocol(**values)  # type: ignore[arg-type]
