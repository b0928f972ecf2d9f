"""A first look at masks, before all are read: what kind of files they are, and what they hold.

Of a set whose classes nobody lists, every mask is read for its numbers; of others, a few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from resnestkit.data.findings import Finding, say_some
from resnestkit.data.images import UnreadableImage, measure_image
from resnestkit.data.segmentation.known import PALETTES
from resnestkit.data.segmentation.legend import (
    IGNORE,
    UNKNOWN,
    Colour,
    Legend,
    check_count,
    count_classes,
)
from resnestkit.data.segmentation.masks import AS_COLOURS, AS_JPEG, read_colours, read_indices
from resnestkit.data.segmentation.pairs import Pair
from resnestkit.errors import UserError

_SAMPLE = 20
_SYSTEMATIC = 0.5
"""Share of masks with the same fault from which on it is that of the set, not of a file."""
_SPREAD = 8
"""Numbers so far apart are no indices: somebody spread them, so that they can be seen."""
_REMEDIES = {
    AS_COLOURS: "Save the class index of each pixel, in one channel, as PNG.",
    AS_JPEG: "Save it from the original once more, as PNG.",
}


@dataclass(slots=True)
class Probe:
    """What the masks told."""

    looked: int = 0
    numbers: Int64[NDArray[np.int64], " 256"] = field(
        default_factory=lambda: np.zeros(256, np.int64)
    )
    """Pixels of each number."""
    wide: dict[int, list[Path]] = field(default_factory=dict)
    """Numbers that are none of a byte's, and the masks that have them."""
    owners: dict[int, list[Path]] = field(default_factory=dict)
    """The masks that have a number."""
    unreadable: dict[str, list[Path]] = field(default_factory=dict)
    """By reason."""
    misfits: list[str] = field(default_factory=list)
    """Images with masks of another size."""

    @property
    def present(self) -> list[int]:
        """The numbers that were met."""
        return [int(number) for number in np.flatnonzero(self.numbers)]


@dataclass(frozen=True, slots=True)
class _Told:
    """What one mask told."""

    counts: Int64[NDArray[np.int64], " 256"] | None = None
    wide: tuple[int, ...] = ()
    reason: str = ""
    misfit: str = ""


def probe_masks(splits: Mapping[str, Sequence[Pair]], *, every: bool) -> Probe:
    """Read masks: every one, or some of each split."""
    pairs = [
        pair
        for those in splits.values()
        for pair in _thin([pair for pair in those if pair.mask is not None], every=every)
    ]
    probe = Probe(looked=len(pairs))
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        for pair, told in zip(pairs, pool.map(_look, pairs), strict=True):
            assert pair.mask is not None
            _add(probe, pair.mask, told)
    return probe


def _thin(pairs: Sequence[Pair], *, every: bool) -> Sequence[Pair]:
    return pairs if every else pairs[:: max(1, len(pairs) // _SAMPLE)]


def _look(pair: Pair) -> _Told:
    assert pair.mask is not None
    try:
        values = read_indices(pair.mask)
    except UnreadableImage as error:
        return _Told(reason=error.reason)
    outside = (values < 0) | (values > 255)
    inside = values[~outside] if outside.any() else values
    counts = np.bincount(inside.ravel(), minlength=256)
    wide = tuple(int(number) for number in np.unique(values[outside])[:1])
    height, width = measure_image(pair.image)
    misfit = ""
    if height and (height, width) != values.shape:
        told = f"{width}x{height}, its mask {values.shape[1]}x{values.shape[0]}"
        misfit = f"{pair.image} ({told})"
    return _Told(counts, wide, misfit=misfit)


def _add(probe: Probe, mask: Path, told: _Told) -> None:
    if told.counts is None:
        probe.unreadable.setdefault(told.reason, []).append(mask)
        return
    probe.numbers = probe.numbers + told.counts
    for number in told.wide:
        probe.wide.setdefault(number, []).append(mask)
    for number in np.flatnonzero(told.counts).tolist():
        probe.owners.setdefault(number, []).append(mask)
    if told.misfit:
        probe.misfits.append(told.misfit)


def infer_legend(probe: Probe, where: str, *, binary: bool) -> Legend:
    """Classes of masks of which nobody says more than their numbers; ``binary`` takes 255 for one.

    Raises UserError if they are none that could be counted.
    """
    if binary:
        return as_binary(count_classes(2))
    numbers = probe.present
    if len(numbers) > 2 and np.diff(numbers).min() >= _SPREAD:
        raise UserError(
            f"The masks of {where} hold {_list(numbers)} alone, as if their numbers had been "
            "spread to be seen. Number the classes 0, 1, 2 and so on."
        )
    if probe.wide:
        number = max(probe.wide)
        raise UserError(
            f"{probe.wide[number][0]} has the number {number}; a class has one from 0 to 254, and "
            "255 is what is ignored."
        )
    void_and_one = is_binary(probe)  # and the second class is on other masks, as somebody knows
    count = 2 if void_and_one else max(number for number in numbers if number != IGNORE) + 1
    check_count(count, where)
    return count_classes(count)


def as_binary(legend: Legend) -> Legend:
    """Two classes of which the second is written as 255."""
    return Legend(legend.classes, (0, 255), named=legend.named)


def is_binary(probe: Probe) -> bool:
    """Whether masks hold 0 and 255 alone, which is how editors write yes and no."""
    return IGNORE in probe.present and set(probe.present) <= {0, IGNORE}


def find_faults(probe: Probe, where: str) -> Iterator[Finding]:
    """What is wrong with the files; what is wrong with most of them is refused."""
    for reason, masks in probe.unreadable.items():
        yield Finding(
            "wrong",
            f"{_share(masks, probe)} of {where} cannot be used, such as {masks[0]}: {reason}."
            f"{_name_palette(masks) if reason == AS_COLOURS else ''}",
            _REMEDIES.get(reason, "Mend or remove it."),
            refused=_is_systematic(masks, probe),
        )
    if probe.misfits:
        yield Finding(
            "wrong",
            f"{_share(probe.misfits, probe)} of {where} are not of their images' size, such as "
            f"that of {probe.misfits[0]}.",
            "Save images and masks at one size.",
            refused=_is_systematic(probe.misfits, probe),
        )


def find_unknown(probe: Probe, legend: Legend, where: str) -> Iterator[Finding]:
    """Numbers that are of no class."""
    table = legend.table
    strange = {n: masks for n, masks in probe.owners.items() if table[n] == UNKNOWN} | probe.wide
    if not strange:
        return
    masks = list(dict.fromkeys(mask for those in strange.values() for mask in those))
    named = f"the {len(legend.classes)} classes are {_list(legend.numbers)}"
    yield Finding(
        "wrong",
        f"{_share(masks, probe)} of {where} have numbers of no class ({_list(sorted(strange))}), "
        f"such as {masks[0]}; {named}.",
        "Mend them, or list every number's class in classes.txt, one a line, from 0 on.",
        refused=_is_systematic(masks, probe),
    )


def _name_palette(masks: Sequence[Path]) -> str:
    """Whose colours the first masks have, if anybody's who is known."""
    seen: set[Colour] = set()
    for mask in masks[:_SAMPLE]:
        try:
            found = np.unique(read_colours(mask).reshape(-1, 3), axis=0)
        except UnreadableImage:
            return ""
        seen |= {(int(red), int(green), int(blue)) for red, green, blue in found}
    names = [name for name, palette in PALETTES.items() if seen <= palette]
    if names:
        return f" Its colours are those of {' or '.join(names)}."
    if all(red == green == blue for red, green, blue in seen):
        return " Its three channels are the same: one of them is the class index."
    return ""


def _is_systematic(faulty: Sequence[object], probe: Probe) -> bool:
    return len(faulty) >= _SYSTEMATIC * probe.looked


def _share(faulty: Sequence[object], probe: Probe) -> str:
    return f"{len(faulty):,} of {probe.looked:,} masks looked at"


def _list(numbers: Sequence[int]) -> str:
    """Numbers, as a range where they are one."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return say_some(numbers)
