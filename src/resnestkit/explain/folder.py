"""Attention over many images: mean and spread, by class and depth, and which channels switch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import nn

from resnestkit.data.decoding import UnreadableImage
from resnestkit.errors import UserError
from resnestkit.explain.sites import (
    Attention,
    Branch,
    Kind,
    Site,
    as_shares,
    choose_sites,
    entropy,
    find_sites,
    name_branch,
)
from resnestkit.explain.subject import Look, Subject, best_class, open_subject
from resnestkit.explain.watching import Watched, watch
from resnestkit.progress import Reporter

SWITCH_SHARE = 0.1
"""A channel switches if another split than its usual one wins on more than this share of images."""
EVEN_ENTROPY = 0.98
"""A block whose mean entropy is above this weighs all splits nearly alike."""
FIXED_SPREAD = 0.02
"""A block whose weights move less than this between images has made its choice for all of them."""

Numbers = NDArray[np.float64]
Verdict = Literal["even", "fixed", "decides"]

WORDS: dict[Verdict, str] = {
    "even": "idles: all weigh alike",
    "fixed": "idles: the same for every image",
    "decides": "decides by the image",
}


@dataclass(frozen=True, eq=False)
class BlockStatistics:
    """The attention of one block over all images."""

    block: str
    kind: Kind
    mean: Float64[Numbers, "groups splits channels"]
    """Of the weights, over the images."""
    std: Float64[Numbers, "groups splits channels"]
    """Standard deviation over the images."""
    wins: Float64[Numbers, "groups shares channels"]
    """Share of the images on which a split weighs most; of a gate: on which it is open, closed."""
    entropy: float
    """Mean over images and channels; 1 is uniform."""
    entropy_std: float
    """Between images."""
    class_mean: dict[int, Float64[Numbers, "groups splits"]]
    """Mean weight by class, over its images and the channels."""
    class_std: dict[int, Float64[Numbers, "groups splits"]]
    """Standard deviation by class, over its images and the channels."""
    class_distance: dict[int, float]
    """How far a class's mean weights lie from those of all images: mean over the channels."""

    @property
    def branch(self) -> Branch:
        """What its splits are called."""
        return name_branch(self.kind, self.mean.shape[1])

    @property
    def spread(self) -> float:
        """How much a weight moves between images: the mean of its standard deviation."""
        return float(self.std.mean())

    @property
    def changing(self) -> Float64[Numbers, "groups channels"]:
        """Share of the images on which another than a channel's usual split wins."""
        shares: Numbers = 1 - self.wins.max(1)
        return shares

    @property
    def switching(self) -> NDArray[np.bool_]:
        """Which channels (groups, channels) switch between splits, as `SWITCH_SHARE` says."""
        switches: NDArray[np.bool_] = self.changing > SWITCH_SHARE
        return switches

    @property
    def verdict(self) -> Verdict:
        """Whether the attention decides by the image, or idles."""
        if self.spread >= FIXED_SPREAD:
            return "decides"
        return "even" if self.entropy > EVEN_ENTROPY else "fixed"

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain values."""
        groups, channels = np.nonzero(self.switching)
        return {
            "block": self.block,
            "kind": self.kind,
            "verdict": self.verdict,
            "entropy": self.entropy,
            "entropy_std": self.entropy_std,
            "spread": self.spread,
            "mean": self.mean.round(6).tolist(),
            "std": self.std.round(6).tolist(),
            "wins": self.wins.round(6).tolist(),
            "switching": [
                list(pair) for pair in zip(groups.tolist(), channels.tolist(), strict=True)
            ],
            "classes": {
                classes[k]: {
                    "mean": self.class_mean[k].tolist(),
                    "std": self.class_std[k].tolist(),
                    "distance": self.class_distance[k],
                }
                for k in sorted(self.class_mean)
            },
        }


@dataclass(frozen=True, eq=False)
class FolderStatistics:
    """The attention of a net over many images."""

    kind: str
    net: str
    classes: tuple[str, ...]
    images: int
    by: Literal["truth", "prediction"]
    """What an image's class is: the folder that it lies in, or what the net says."""
    counts: dict[int, int]
    """Images of each class that is there."""
    right: int | None
    """Images that the net gives the class of their folder; None if nobody knows the truth."""
    nothing: int
    """Images on which nothing is found: not right, and of no class but that of their folder."""
    blocks: tuple[BlockStatistics, ...]

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        return {
            "images": self.images,
            "classes_by": self.by,
            "right": self.right,
            "nothing_found": self.nothing,
            "counts": {self.classes[k]: self.counts[k] for k in sorted(self.counts)},
            "switch_share": SWITCH_SHARE,
            "blocks": [block.to_dict(self.classes) for block in self.blocks],
        }


def explain_folder(
    model: str | Path | nn.Module | Subject,
    images: Iterable[str | Path],
    *,
    block: str | None = None,
    unreadable: list[UnreadableImage] | None = None,
    reporter: Reporter | None = None,
) -> FolderStatistics:
    """Say what the attention of a net does over many images.

    Sums are taken as the images pass, so that memory does not grow with them; it grows with the
    classes that are met, by eight bytes for each weight of the net's attention.

    Args:
        model: as for `explain_image`.
        images: files. If each lies in a folder with the name of one of the classes, that is its
            class; else an image's class is the one with the highest score.
        block: the one block to look at; all if None.
        unreadable: images that cannot be read are appended to it and left out; if None, the first
            one raises.
        reporter: shows how it goes on.

    Raises:
        UserError: the model cannot be explained, or has no attention or no such block; there are no
            images that can be read.
    """
    subject = open_subject(model)
    sites = choose_sites(find_sites(subject.body), block)
    if not sites:
        raise UserError(
            f"A {subject.net} has no attention, so there is nothing to count over many images."
        )
    paths = [Path(path) for path in images]
    truths = _truths(paths, subject.classes)
    tallies = [_Tally() for _ in sites]
    counts: dict[int, int] = {}
    right = nothing = seen_images = 0
    with subject.resting(), torch.inference_mode(), watch(sites) as seen:
        for looks, places in _batches(subject, paths, unreadable, reporter or Reporter(quiet=True)):
            said = [best_class(row) for row in subject.score(looks).float().cpu().numpy()]
            found = [truths[place] for place in places] if truths else said
            right += sum(one == other for one, other in zip(said, found, strict=True))
            nothing, seen_images = nothing + said.count(None), seen_images + len(said)
            for label in found:
                if label is not None:
                    counts[label] = counts.get(label, 0) + 1
            _count(tallies, sites, seen, found)
    if not seen_images:
        raise UserError("None of the images can be read, so there is nothing to explain.")
    return FolderStatistics(
        kind=subject.kind,
        net=subject.net,
        classes=subject.classes,
        images=seen_images,
        by="truth" if truths else "prediction",
        counts=counts,
        right=right if truths else None,
        nothing=nothing,
        blocks=tuple(
            tally.finish(site, counts) for tally, site in zip(tallies, sites, strict=True)
        ),
    )


def _truths(paths: Sequence[Path], classes: Sequence[str]) -> list[int]:
    """Each image's class by its folder; nothing if one of them lies in another folder."""
    index = {name: number for number, name in enumerate(classes)}
    names = [path.resolve().parent.name for path in paths]
    return [index[name] for name in names] if all(name in index for name in names) else []


def _batches(
    subject: Subject,
    paths: Sequence[Path],
    unreadable: list[UnreadableImage] | None,
    reporter: Reporter,
) -> Iterator[tuple[list[Look], list[int]]]:
    """Images that are seen together, and their places among the paths."""
    looks: list[Look] = []
    places: list[int] = []
    with reporter.track("explain", len(paths)) as advance:
        for place, path in enumerate(paths):
            try:
                looks.append(subject.read(path))
                places.append(place)
            except UnreadableImage as error:
                if unreadable is None:
                    raise
                unreadable.append(error)
            if len(looks) == subject.batch_size or (looks and place == len(paths) - 1):
                yield looks, places
                looks, places = [], []
            advance(1, path.name)


def _count(
    tallies: Sequence[_Tally], sites: Sequence[Site], seen: Watched, labels: Sequence[int | None]
) -> None:
    for tally, site in zip(tallies, sites, strict=True):
        tally.add(seen.attention(site.block), labels)


@dataclass(slots=True)
class _Tally:
    """Sums of one block's weights over the images so far."""

    images: int = 0
    total: Numbers = field(default_factory=lambda: np.zeros(()))
    square: Numbers = field(default_factory=lambda: np.zeros(()))
    wins: Numbers = field(default_factory=lambda: np.zeros(()))
    entropy: float = 0.0
    entropy_square: float = 0.0
    by_class: dict[int, Numbers] = field(default_factory=dict)
    square_by_class: dict[int, Numbers] = field(default_factory=dict)

    def add(self, attention: Attention, labels: Sequence[int | None]) -> None:
        """Take in a batch (image, group, split, channel) and its classes, or None for no class."""
        grid = attention.grid.astype(np.float64)
        shares = as_shares(attention.grid)
        won = shares.argmax(2)[:, :, None] == np.arange(shares.shape[2])[:, None]
        mixed = entropy(attention.grid).mean((1, 2), dtype=np.float64)
        self.images += len(grid)
        self.total = self.total + grid.sum(0)
        self.square = self.square + (grid**2).sum(0)
        self.wins = self.wins + won.sum(0)
        self.entropy += float(mixed.sum())
        self.entropy_square += float((mixed**2).sum())
        for label, one in zip(labels, grid, strict=True):
            if label is None:
                continue
            self.by_class[label] = self.by_class.get(label, np.zeros(())) + one
            squares = (one**2).sum(2)
            self.square_by_class[label] = self.square_by_class.get(label, np.zeros(())) + squares

    def finish(self, site: Site, counts: dict[int, int]) -> BlockStatistics:
        """Means and deviations."""
        mean, mixed = self.total / self.images, self.entropy / self.images
        by_class = {label: total / counts[label] for label, total in self.by_class.items()}
        class_mean = {label: one.mean(2) for label, one in by_class.items()}
        channels = mean.shape[2]
        return BlockStatistics(
            block=site.block,
            kind=site.kind,
            mean=mean,
            std=_deviation(mean, self.square / self.images),
            wins=self.wins / self.images,
            entropy=mixed,
            entropy_std=float(_deviation(np.array(mixed), self.entropy_square / self.images)),
            class_mean=class_mean,
            class_std={
                label: _deviation(class_mean[label], squares / (counts[label] * channels))
                for label, squares in self.square_by_class.items()
            },
            class_distance={
                label: float(np.abs(one - mean).mean()) for label, one in by_class.items()
            },
        )


def _deviation(mean: Numbers, square: Numbers | float) -> Numbers:
    """Standard deviation by the mean and the mean square."""
    deviation: Numbers = np.sqrt(np.maximum(square - mean**2, 0))
    return deviation
