"""One image explained: attention, what it is paid to, the activation map, and what forcing does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from resnestkit.explain.forcing import VALUES, Replay, force_rows
from resnestkit.explain.sites import Attention, Site, body_units, choose_sites, find_sites
from resnestkit.explain.subject import (
    NOTHING,
    Look,
    Pixels,
    Subject,
    best_class,
    open_subject,
)
from resnestkit.explain.watching import Watched, watch

Map = Float32[NDArray[np.float32], "h w"]

MOST_AT_ONCE = 3 * 640 * 640
"""Pixels of the net's input in one forced run: what is larger goes image by image."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What forcing one split's attention does to the prediction."""

    split: int
    """From 0."""
    value: float
    """What the split's weight was forced to; the others share the rest."""
    score: float
    """Of the class that is looked at; of the highest, where nothing was found to look at."""
    change: float
    """Of that score."""
    top: str
    """The class with the highest score now, or `NOTHING`."""
    top_score: float


@dataclass(frozen=True, eq=False)
class BlockView:
    """One block on one image."""

    attention: Attention
    energy: Float32[NDArray[np.float32], "groups splits h w"]
    """Mean magnitude of each split's features, times their weights, over the channels."""
    effects: tuple[Effect, ...]

    @property
    def split_shares(self) -> Float32[NDArray[np.float32], " splits"]:
        """How much of the block's energy comes from each split, all groups together."""
        sums = self.energy.sum((0, 2, 3))
        shares: NDArray[np.float32] = sums / np.maximum(sums.sum(), 1e-30)
        return shares

    @property
    def energy_shares(self) -> Float32[NDArray[np.float32], "groups splits"]:
        """How much of a group's own energy comes from each split; of a gate it is all."""
        sums = self.energy.sum((2, 3))
        shares: NDArray[np.float32] = sums / np.maximum(sums.sum(1, keepdims=True), 1e-30)
        return shares

    @property
    def largest(self) -> float:
        """The largest change of the score, up or down, that forcing made; 0 if none was forced."""
        return max((abs(effect.change) for effect in self.effects), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the weights as `Attention.weights` has them, without the image's axis."""
        return {
            "block": self.attention.block,
            "kind": self.attention.kind,
            "entropy": self.attention.entropy,
            "mean": self.attention.grid[0].mean(2).tolist(),
            "split_shares": self.split_shares.tolist(),
            "energy_shares": self.energy_shares.tolist(),
            "effects": [asdict(effect) for effect in self.effects],
            "weights": self.attention.weights[0].round(6).tolist(),
        }


@dataclass(frozen=True, eq=False)
class ImageExplanation:
    """What a net does on one image."""

    image: str
    kind: str
    """classifier, detector or segmenter."""
    net: str
    classes: tuple[str, ...]
    answer: str
    """What a score is, in words."""
    scores: Float32[NDArray[np.float32], " classes"]
    target: int | None
    """The class that is looked at: the one with the highest score, if none was asked for; None if
    nothing was found either."""
    picture: Pixels
    """The image as the net sees it."""
    seen: tuple[float, float]
    """Share of the net's input, in height and width, that the picture fills."""
    activation: Map | None
    """Where the last stage is active for the class, the largest value 1."""
    blocks: tuple[BlockView, ...]
    everywhere: tuple[Effect, ...]
    """What forcing does in all blocks at once."""

    @property
    def label(self) -> str:
        """The class that is looked at, or `NOTHING`."""
        return _name(self.classes, self.target)

    @property
    def score(self) -> float:
        """Of that class; 0 of none."""
        return _read(self.scores, self.target)

    @property
    def top(self) -> str:
        """The class with the highest score, or `NOTHING`."""
        return _name(self.classes, best_class(self.scores))

    @property
    def forced(self) -> tuple[BlockView, ...]:
        """The blocks whose attention was forced."""
        return tuple(view for view in self.blocks if view.effects)

    def to_dict(self) -> dict[str, Any]:
        """All numbers but maps and pixels, ready for JSON."""
        best = [
            index for index in np.argsort(-self.scores, kind="stable")[:5] if self.scores[index]
        ]
        return {
            "image": self.image,
            "class": None if self.target is None else self.label,
            "score": self.score,
            "top": {self.classes[index]: float(self.scores[index]) for index in best},
            "blocks": [block.to_dict() for block in self.blocks],
            "all_blocks": [asdict(effect) for effect in self.everywhere],
        }


def explain_image(
    model: str | Path | nn.Module | Subject,
    image: str | Path | UInt8[Tensor, "c h w"] | Look,
    *,
    target: str | None = None,
    block: str | None = None,
    activation: bool = True,
    forcing: bool = True,
    seconds: float | None = None,
) -> ImageExplanation:
    """Say what the attention of a net does on an image.

    The attention is split attention (Zhang et al. 2020, section 3: a softmax over the radix for
    every channel of every cardinal group), SE's gates (Hu et al. 2017, section 3.1) or SK's choice
    of kernels (Li et al. 2019, section 3.1), whichever the net has. A plain net gets the activation
    map alone.

    Args:
        model: a checkpoint, a net of `create_model`, a detector, a segmenter, or what
            `open_subject` made of one.
        image: a file, or pixels (channels, height, width) of uint8.
        target: the class whose score and activation are looked at; that with the highest score if
            None.
        block: the one block to look at; all if None.
        activation: whether to make the class activation map, which takes captum. A detector has
            one of a class of which it finds an object.
        forcing: whether to force the attention of every block to 0, a half and 1.
        seconds: after which no more is forced, from the call on: the last blocks are forced first,
            all together at the end, and what was not reached has no effects. None is no end.

    Raises:
        UserError: the model cannot be explained, the image cannot be read, there is no such class
            or block, or captum is not installed.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    subject = open_subject(model)
    sites = choose_sites(find_sites(subject.body), block)
    wanted = None if target is None else subject.find_class(target)
    look = _look(subject, image)
    with subject.resting(), torch.no_grad():
        replay = Replay(body_units(subject.body))
        padded: list[tuple[int, int]] = []
        with replay.record(), watch(sites, energies=True) as seen, _measure(subject, padded):
            scores = subject.score([look])[0].float().cpu().numpy()
        height, width = padded[0]
        index = best_class(scores) if wanted is None else wanted
        mapped = None
        if activation and index is not None:
            with replay.before(_last_unit(subject), 1):
                mapped = subject.activate(look, index)
        most = max(1, MOST_AT_ONCE // (height * width))
        forced = _Forced(subject, look, replay, scores, index, most, end if forcing else -math.inf)
        effects = {site.block: forced.one(site) for site in reversed(sites)}
        everywhere = forced.all(sites) if sites and block is None else ()
    return ImageExplanation(
        image=look.name,
        kind=subject.kind,
        net=subject.net,
        classes=subject.classes,
        answer=subject.answer,
        scores=scores,
        target=index,
        picture=look.picture,
        seen=(look.size[0] / height, look.size[1] / width),
        activation=mapped,
        blocks=tuple(_view(site, seen, effects[site.block]) for site in sites),
        everywhere=everywhere,
    )


def _look(subject: Subject, image: str | Path | Tensor | Look) -> Look:
    if isinstance(image, Look):
        return image
    return subject.look(image) if isinstance(image, Tensor) else subject.read(image)


def _last_unit(subject: Subject) -> str:
    """Of the stage whose activation is mapped: what is before it needs no gradients."""
    part = subject.body.stages[-1].parts[-1]
    names = [name for name in body_units(subject.body) if f"{name}.".startswith(f"{part}.")]
    return names[-1]


def _view(site: Site, seen: Watched, effects: tuple[Effect, ...]) -> BlockView:
    energy = seen.energies[site.block][0].float().cpu().numpy()
    return BlockView(seen.attention(site.block), energy, effects)


@contextmanager
def _measure(subject: Subject, sizes: list[tuple[int, int]]) -> Iterator[None]:
    """Note height and width of what reaches the net's first convolution."""

    def note(_conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.append((inputs[0].shape[2], inputs[0].shape[3]))

    hook = subject.first_conv.register_forward_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()


Choice = tuple[int, float]
"""A split, and its weight."""


@dataclass(frozen=True, eq=False)
class _Forced:
    """Runs an image with forced attention, and compares."""

    subject: Subject
    look: Look
    replay: Replay
    scores: NDArray[np.float32]
    target: int | None
    most: int
    """Images in one run."""
    end: float
    """Of the clock, when no run is begun any more."""

    def one(self, site: Site) -> tuple[Effect, ...]:
        """Of one block: what is before it is not computed again."""
        choices = _choices(site.splits)
        return self._run([site], choices, partial(self.replay.before, site.unit))

    def all(self, sites: Sequence[Site]) -> tuple[Effect, ...]:
        """Of all blocks at once."""
        choices = _choices(min(site.splits for site in sites))
        return self._run(sites, choices, lambda _rows: nullcontext())

    def _run(
        self,
        sites: Sequence[Site],
        choices: Sequence[Choice],
        resume: Callable[[int], AbstractContextManager[None]],
    ) -> tuple[Effect, ...]:
        """All choices, so many at once as fit; nothing if the time is up before the last."""
        found: list[Effect] = []
        for start in range(0, len(choices), self.most):
            if time.monotonic() >= self.end:
                return ()
            some = choices[start : start + self.most]
            with resume(len(some)), force_rows(sites, some):
                found += self._compare(some)
        return tuple(found)

    def _compare(self, choices: Sequence[Choice]) -> list[Effect]:
        rows = self.subject.score([self.look] * len(choices)).float().cpu().numpy()
        return [
            Effect(
                split=split,
                value=value,
                score=_read(row, self.target),
                change=_read(row, self.target) - _read(self.scores, self.target),
                top=_name(self.subject.classes, best_class(row)),
                top_score=float(row.max()),
            )
            for (split, value), row in zip(choices, rows, strict=True)
        ]


def _name(classes: Sequence[str], label: int | None) -> str:
    return NOTHING if label is None else classes[label]


def _read(scores: NDArray[np.float32], label: int | None) -> float:
    """Of a class; the highest, if none is looked at."""
    return float(scores.max() if label is None else scores[label])


def _choices(splits: int) -> list[Choice]:
    """Every split at every value; of two splits the first, since the second has what is left."""
    return [(split, value) for split in range(1 if splits == 2 else splits) for value in VALUES]
