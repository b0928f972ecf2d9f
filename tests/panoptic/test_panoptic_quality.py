"""Panoptic quality is torchmetrics', and of crowds and void that of COCO's own tool."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.detection import PanopticQuality

from resnestkit.data.segmentation.table import Segment, Segments
from resnestkit.tasks.panoptic_counts import PanopticCounts, count_image, merge_counts
from resnestkit.tasks.panoptic_evaluation import PanopticEvaluation, Quality, mean_quality

THINGS = (False, True, True, False, True)
VOID = len(THINGS)
Pair = tuple[Segments, Segments]


def draw_segments(
    random: np.random.Generator, size: tuple[int, int], *, crowds: bool = False
) -> Segments:
    """Rectangles over each other: things by number, stuff once for each class, holes of void."""
    numbers = np.zeros(size, np.int32)
    segments: dict[int, Segment] = {}
    for number in range(1, int(random.integers(1, 12))):
        label = int(random.integers(len(THINGS)))
        top, left = (int(random.integers(side)) for side in size)
        high, wide = (int(random.integers(1, side + 1)) for side in size)
        thing = THINGS[label]
        code = 1000 * (label + 1) + (number if thing else 0)
        numbers[top : top + high, left : left + wide] = code
        crowd = crowds and thing and random.random() < 0.3
        segments[code] = Segment(code, label, thing, crowd)
    top, left = (int(random.integers(side)) for side in size)
    numbers[top : top + 3, left:] = 0
    shown = set(np.unique(numbers).tolist())
    listed = [one for code, one in segments.items() if code in shown]
    return Segments(torch.from_numpy(numbers), tuple(listed))


def shift(segments: Segments, by: int) -> Segments:
    """The same, moved, and no crowds: most segments still match."""
    plain = tuple(replace(one, is_crowd=False) for one in segments.segments)
    return Segments(segments.numbers.roll(by, 1), plain)


def as_colours(segments: Segments, void: int) -> Tensor:
    """Class and instance of each pixel, (1, h, w, 2); crowds are void, a class of this number."""
    table = torch.full((int(segments.numbers.max()) + 1, 2), void)
    for one in segments.segments:
        table[one.number] = torch.tensor([void if one.is_crowd else one.label, one.number])
    table[0, 1] = 0
    return table[segments.numbers.long()][None]


def measure(pairs: list[Pair]) -> PanopticEvaluation:
    counts = PanopticCounts(THINGS)
    for index, (found, true) in enumerate(pairs):
        counts.add(index, found, [1.0] * len(found.segments), true)
    return merge_counts([counts])


def reference(
    pairs: list[Pair], *, per_class: bool = False, void_is_a_class: bool = False
) -> list[Any]:
    """torchmetrics' PQ, SQ and RQ, of all classes or of each in our order."""
    things = {label for label, thing in enumerate(THINGS) if thing}
    stuff = set(range(len(THINGS))) - things | ({VOID} if void_is_a_class else set())
    options = {"return_sq_and_rq": True, "return_per_class": per_class}
    metric = PanopticQuality(
        things, stuff, allow_unknown_preds_category=not void_is_a_class, **options
    )
    for found, true in pairs:
        # What is void in the truth is never a class.
        metric.update(as_colours(found, VOID), as_colours(true, VOID + 1))
    if not per_class:
        return [float(value) for value in metric.compute()]
    order = torch.tensor([*sorted(things), *sorted(stuff)]).argsort()
    return metric.compute().reshape(-1, 3)[order][: len(THINGS)].tolist()


def known(quality: Quality) -> list[float]:
    """As torchmetrics tells them: 0 where there is nothing."""
    return [max(0.0, value) for value in (quality.pq, quality.sq, quality.rq)]


def check_equal(pairs: list[Pair]) -> None:
    ours = measure(pairs)
    assert known(ours.torchmetrics) == pytest.approx(reference(pairs), abs=1e-6)
    tallies = [count_image(*pair, len(THINGS), "torchmetrics") for pair in pairs]
    each = reduce(add, tallies).qualities()
    for one, theirs in zip(each, reference(pairs, per_class=True), strict=True):
        assert known(one) == pytest.approx(theirs, abs=1e-6)
    if any(one.is_crowd for _, true in pairs for one in true.segments):
        return
    strict = reference(pairs, per_class=True, void_is_a_class=True)
    for each_class, theirs in zip(ours.per_class, strict, strict=True):
        assert known(each_class.quality) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_it_is_torchmetrics_on_random_maps(seed: int) -> None:
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(4):
        size = (int(random.integers(12, 30)), int(random.integers(12, 30)))
        true = draw_segments(random, size, crowds=seed % 2 == 1)
        pairs += [(shift(true, 1), true), (draw_segments(random, size), true)]
    ours = measure(pairs)
    assert sum(one.found for one in ours.per_class) > 1
    assert sum(one.missed + one.wrong for one in ours.per_class) > 1
    check_equal(pairs)


def strip(*parts: tuple[int, int, int], crowd: int = -1) -> Segments:
    """One row: (pixels, class, number) from left to right; class -1 is void."""
    numbers = torch.cat([torch.full((n,), number, dtype=torch.int32) for n, _, number in parts])
    listed = {
        number: Segment(number, label, THINGS[label], number == crowd)
        for _, label, number in parts
        if label >= 0
    }
    return Segments(numbers[None], tuple(listed.values()))


CASES: dict[str, Pair] = {
    "perfect": (strip((4, 0, 1), (6, 1, 2)), strip((4, 0, 7), (6, 1, 9))),
    "exactly_half": (strip((5, 1, 1), (5, -1, 0)), strip((10, 1, 1))),
    "nothing_found": (strip((10, -1, 0)), strip((4, 0, 1), (6, 1, 2))),
    "another_class": (strip((10, 2, 1)), strip((10, 1, 1))),
    "found_in_void": (strip((10, 1, 1)), strip((6, -1, 0), (4, 0, 1))),
    "half_in_void": (strip((10, 1, 1)), strip((5, -1, 0), (5, 0, 1))),
    "void_takes_from_the_union": (strip((10, 1, 1)), strip((6, 1, 1), (4, -1, 0))),
    "void_found_takes_from_the_truth": (strip((6, 1, 1), (4, -1, 0)), strip((10, 1, 1))),
    "mostly_void_found": (strip((4, 2, 1), (6, -1, 0)), strip((10, 1, 1))),
    "stuff_in_two_parts": (strip((4, 3, 1), (2, 1, 3), (4, 3, 2)), strip((10, 3, 1))),
    "things_apart": (strip((10, 1, 1)), strip((5, 1, 1), (5, 1, 2))),
    "on_a_crowd": (strip((8, 1, 1), (2, 0, 2)), strip((8, 1, 1), (2, 0, 2), crowd=1)),
    "another_on_a_crowd": (strip((8, 2, 1), (2, 0, 2)), strip((8, 1, 1), (2, 0, 2), crowd=1)),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_torchmetrics_at_the_edges(case: str) -> None:
    check_equal([CASES[case], (strip((4, 0, 1)), strip((4, 0, 1)))])


def test_nothing_at_all_has_no_quality() -> None:
    empty = Segments(torch.zeros(3, 3, dtype=torch.int32), ())
    ours = measure([(empty, empty)])
    assert ours.all.pq == ours.things.sq == ours.torchmetrics.rq == -1
    assert ours.score == 0
    assert set(ours.metrics.values()) == {0.0}
    assert not ours.worst
    assert len(ours.drawn) == 1


def coco_counts(found: Segments, true: Segments) -> dict[int, list[float]]:
    """The published protocol, segment by segment: of each class found, missed, wrong, sum of IoU.

    Written from the words of Kirillov et al., section 4, and of COCO's page on the evaluation.
    """
    counts: dict[int, list[float]] = {label: [0, 0, 0, 0.0] for label in range(len(THINGS))}
    there = {one: true.numbers == one.number for one in true.segments}
    said = {one: found.numbers == one.number for one in found.segments}
    void = torch.ones_like(true.numbers, dtype=torch.bool)
    for mask in there.values():
        void &= ~mask
    matched = set()
    for one, mask in there.items():
        for other, guess in said.items():
            union = int((mask | guess).sum() - (guess & void).sum())
            if one.label == other.label and not one.is_crowd:
                iou = int((mask & guess).sum()) / max(1, union)
                if iou > 0.5:
                    matched |= {("true", one.number), ("found", other.number)}
                    counts[one.label][0] += 1
                    counts[one.label][3] += iou
    for one in there:
        counts[one.label][1] += not one.is_crowd and ("true", one.number) not in matched
    for other, guess in said.items():
        free = void.clone()
        for one, mask in there.items():
            if one.is_crowd and one.label == other.label:
                free |= mask
        idle = int((guess & free).sum()) <= 0.5 * int(guess.sum())
        counts[other.label][2] += ("found", other.number) not in matched and idle
    return counts


@pytest.mark.parametrize("seed", range(6))
def test_crowds_and_void_are_cocos(seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    true = draw_segments(random, (17, 23), crowds=True)
    for found in (draw_segments(random, (17, 23)), shift(true, 1)):
        tally = count_image(found, true, len(THINGS), "coco")
        for label, (right, missed, wrong, iou) in coco_counts(found, true).items():
            ours = tally.found[label], tally.missed[label], tally.wrong[label], tally.iou[label]
            assert ours == pytest.approx((right, missed, wrong, iou))


def test_the_two_rules_differ_in_what_is_left_void() -> None:
    ours = measure([CASES["void_found_takes_from_the_truth"]])
    assert ours.torchmetrics.sq == 1
    assert ours.all.sq == pytest.approx(0.6)
    ours = measure([CASES["nothing_found"]])
    assert ours.torchmetrics.pq == -1
    assert ours.all.pq == 0


def test_it_does_not_matter_which_process_saw_which_image() -> None:
    random = np.random.default_rng(3)
    pairs = []
    for _ in range(9):
        true = draw_segments(random, (20, 20))
        pairs.append((shift(true, 2), true))
    whole = measure(pairs)
    parts = [PanopticCounts(THINGS) for _ in range(3)]
    for index in reversed(range(9)):
        found, true = pairs[index]
        parts[index % 3].add(index, found, [1.0] * len(found.segments), true)
    assert merge_counts(parts) == whole
    assert [one.pq for one in whole.worst] == sorted(one.pq for one in whole.worst)
    assert len(whole.worst) == len(whole.drawn) == 6


def test_means_are_over_what_is_there() -> None:
    ours = measure([CASES["perfect"]])
    assert (ours.all.pq, ours.things.pq, ours.stuff.pq) == (1, 1, 1)
    assert ours.per_class[2].quality.pq == -1
    assert mean_quality([one.quality for one in ours.per_class]) == ours.all
    assert ours.metrics["pq"] == ours.score == 1
