"""One image explained: attention, what it is paid to, the activation map, and what forcing does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
    def energy_shares(self) -> Float32[NDArray[np.float32], "groups splits"]:
        """How much of a group's energy comes from each split; of a gate it is all."""
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
        activation: whether to make the class activation map, which takes captum. Detectors have
            none.
        forcing: whether to force the attention of every block to 0, a half and 1.

    Raises:
        UserError: the model cannot be explained, the image cannot be read, there is no such class
            or block, or captum is not installed.
    """
    subject = open_subject(model)
    sites = choose_sites(find_sites(subject.body), block)
    wanted = None if target is None else subject.find_class(target)
    look = _look(subject, image)
    with subject.resting(), torch.no_grad():
        replay = Replay(body_units(subject.body))
        padded: list[tuple[int, int]] = []
        with replay.record(), watch(sites, energies=True) as seen, _measure(subject, padded):
            scores = subject.score([look])[0].float().cpu().numpy()
        index = best_class(scores) if wanted is None else wanted
        forced = _Forced(subject, look, replay, scores, index)
        effects = {site.block: forced.one(site) if forcing else () for site in sites}
        everywhere = forced.all(sites) if forcing and sites and block is None else ()
        mapped = subject.activate(look, index) if activation and index is not None else None
    height, width = padded[0]
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


@dataclass(frozen=True, eq=False)
class _Forced:
    """Runs an image with forced attention, and compares."""

    subject: Subject
    look: Look
    replay: Replay
    scores: NDArray[np.float32]
    target: int | None

    def one(self, site: Site) -> tuple[Effect, ...]:
        """Of one block: what is before it is not computed again."""
        choices = _choices(site.splits)
        with self.replay.before(site.unit, len(choices)), force_rows([site], choices):
            return self._compare(choices)

    def all(self, sites: Sequence[Site]) -> tuple[Effect, ...]:
        """Of all blocks at once."""
        choices = _choices(min(site.splits for site in sites))
        with force_rows(sites, choices):
            return self._compare(choices)

    def _compare(self, choices: list[tuple[int, float]]) -> tuple[Effect, ...]:
        rows = self.subject.score([self.look] * len(choices)).float().cpu().numpy()
        return tuple(
            Effect(
                split=split,
                value=value,
                score=_read(row, self.target),
                change=_read(row, self.target) - _read(self.scores, self.target),
                top=_name(self.subject.classes, best_class(row)),
                top_score=float(row.max()),
            )
            for (split, value), row in zip(choices, rows, strict=True)
        )


def _name(classes: Sequence[str], label: int | None) -> str:
    return NOTHING if label is None else classes[label]


def _read(scores: NDArray[np.float32], label: int | None) -> float:
    """Of a class; the highest, if none is looked at."""
    return float(scores.max() if label is None else scores[label])


def _choices(splits: int) -> list[tuple[int, float]]:
    """Every split at every value; of two splits the first, since the second has what is left."""
    return [(split, value) for split in range(1 if splits == 2 else splits) for value in VALUES]
