"""Things and stuff become one map: who wins, who is left out, what is void."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from resnestkit.panoptic.merge import OTHER, FoundSegment, Things, merge
from resnestkit.panoptic.spec import PanopticSettings

SIZE = (4, 10)
NO_LIMITS = PanopticSettings(stuff_area=0)


def columns(first: int, last: int) -> Tensor:
    """A mask of whole columns, the last one not among them."""
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[:, first:last] = True
    return mask


def things(*found: tuple[Tensor, int, float]) -> Things:
    masks = [mask for mask, *_ in found]
    return Things(
        masks.__getitem__, [label for _, label, _ in found], [score for *_, score in found]
    )


def stripes(*parts: tuple[int, int]) -> Tensor:
    """(columns, class) from left to right."""
    row = torch.cat([torch.full((wide,), label) for wide, label in parts])
    return row.repeat(SIZE[0], 1)


def join(
    found: Things, stuff: Tensor, settings: PanopticSettings = NO_LIMITS, sure: float = 0.5
) -> tuple[list[int], list[FoundSegment]]:
    """The first row of the map, which all rows are, and the segments."""
    numbers, segments = merge(found, stuff, torch.full(SIZE, sure), settings)
    assert numbers.dtype == torch.int32
    assert (numbers == numbers[0]).all()
    return numbers[0].tolist(), segments


def labels(segments: Sequence[FoundSegment]) -> list[int]:
    return [one.label for one in segments]


def test_the_surer_thing_keeps_what_both_cover() -> None:
    found = things((columns(0, 5), 1, 0.6), (columns(3, 8), 2, 0.9))
    row, segments = join(found, stripes((10, 0)))
    assert row == [2, 2, 2, 1, 1, 1, 1, 1, 3, 3]
    assert segments == [
        FoundSegment(1, 2, True, 0.9),
        FoundSegment(2, 1, True, 0.6),
        FoundSegment(3, 0, False, 0.5),
    ]


@pytest.mark.parametrize(("start", "kept"), [(2, True), (1, False)], ids=["half", "more"])
def test_a_thing_that_is_hidden_by_more_than_half_is_left_out(start: int, kept: bool) -> None:
    # Of four columns, those before column 4 are hidden: two, or three.
    found = things((columns(0, 4), 1, 0.9), (columns(start, start + 4), 2, 0.8))
    row, segments = join(found, stripes((10, 0)))
    assert labels(segments) == ([1, 2, 0] if kept else [1, 0])
    assert row[4] == 2


def test_what_was_left_out_hides_nothing() -> None:
    found = things((columns(0, 4), 1, 0.9), (columns(1, 5), 2, 0.8), (columns(4, 6), 2, 0.7))
    row, segments = join(found, stripes((10, 0)))
    assert labels(segments) == [1, 2, 0]
    assert row[:7] == [1, 1, 1, 1, 2, 2, 3]


def test_in_a_crowd_everybody_who_is_seen_is_told() -> None:
    found = things(*((columns(i, i + 2), 1, 0.99 - i / 100) for i in range(9)))
    row, segments = join(found, stripes((10, 0)))
    # Each is hidden by half, which is not too much.
    assert row == [1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [one.score for one in segments] == sorted((one.score for one in segments), reverse=True)


def test_things_below_the_score_are_left_out() -> None:
    found = things((columns(0, 3), 1, 0.49), (columns(5, 8), 2, 0.5))
    row, segments = join(found, stripes((10, 3)))
    assert labels(segments) == [2, 3]
    assert row == [2, 2, 2, 2, 2, 1, 1, 1, 2, 2]


def test_stuff_is_where_no_thing_is_and_other_is_void() -> None:
    row, segments = join(things((columns(2, 4), 1, 0.9)), stripes((3, 0), (4, OTHER), (3, 5)))
    assert row == [2, 2, 1, 1, 0, 0, 0, 3, 3, 3]
    assert labels(segments) == [1, 0, 5]


@pytest.mark.parametrize(("limit", "kept"), [(12, True), (13, False)], ids=["at", "below"])
def test_little_stuff_becomes_void(limit: int, kept: bool) -> None:
    # Five columns of which a thing takes two: 12 pixels are left.
    settings = PanopticSettings(stuff_area=limit)
    row, segments = join(things((columns(0, 2), 1, 0.9)), stripes((5, 0), (5, 3)), settings)
    assert labels(segments) == ([1, 0, 3] if kept else [1, 3])
    assert row[2:5] == ([2] * 3 if kept else [0] * 3)
    assert row[5:] == [3 if kept else 2] * 5


def test_an_empty_mask_is_no_thing() -> None:
    row, segments = join(things((columns(3, 3), 1, 0.9)), stripes((10, 0)))
    assert row == [1] * 10
    assert labels(segments) == [0]


def test_nothing_found_at_all() -> None:
    assert join(things(), stripes((10, OTHER))) == ([0] * 10, [])


def test_stuff_is_as_sure_as_its_pixels() -> None:
    sure = torch.full(SIZE, 0.2)
    sure[:, :5] = 0.8
    _, segments = merge(things(), stripes((10, 0)), sure, NO_LIMITS)
    assert segments[0].score == pytest.approx(0.5)
