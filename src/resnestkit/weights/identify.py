"""What a file of tensors is, told from the tensors alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from resnestkit.models.build import build_net
from resnestkit.models.spec import InceptionForm, NetSpec
from resnestkit.models.zoo import TABLE, Net
from resnestkit.weights.names import Dialect, to_ours
from resnestkit.weights.tensors import COUNTER

_STEMS = ("conv1.weight", "conv1.0.weight", "conv1.conv.weight", "conv2d_1a.conv.weight")
_HEADS = ("fc.weight", "classif.weight")
_INCEPTION_MARKS: dict[InceptionForm, str] = {"bn": "inception_3a.", "resnet_v2": "mixed_5b."}


@dataclass(frozen=True, slots=True)
class Coverage:
    """How tensors fit a net, by name."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """The net has them, the file does not."""
    unexpected: tuple[str, ...]
    """The file has them, the net does not."""
    reshaped: tuple[str, ...]
    """Both have them, in different shapes."""

    @property
    def is_complete(self) -> bool:
        """Whether every tensor has its place and every place its tensor."""
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        said = [f"{len(self.loaded)} tensors fit"]
        for word in ("missing", "unexpected", "reshaped"):
            names: tuple[str, ...] = getattr(self, word)
            if names:
                more = ", ..." if len(names) > 3 else ""
                said.append(f"{len(names)} {word} ({', '.join(names[:3])}{more})")
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class Identity:
    """What tensors are: the nets that they fit best, and how well."""

    kind: str
    """What the file says it is, or "weights of a classifier" or "of a backbone" as they show."""
    nets: tuple[Net, ...]
    """Several where nets differ in no tensor, such as in where the stride sits; never none."""
    classes: int
    """Logits; 0 without a classifier."""
    in_channels: int
    dialect: Dialect
    coverage: Coverage
    tensors: dict[str, Tensor]
    """The tensors under our names."""


def compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Coverage:
    """How tensors fit the state of a net; counters of batches may be missing, or left over."""
    both = [name for name in expected if name in tensors]
    fits = [name for name in both if expected[name].shape == tensors[name].shape]
    missing = (n for n in expected if n not in tensors and not n.endswith(COUNTER))
    unexpected = (n for n in tensors if n not in expected and not n.endswith(COUNTER))
    return Coverage(
        loaded=tuple(fits),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        reshaped=tuple(name for name in both if expected[name].shape != tensors[name].shape),
    )


def fill_counters(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors that fit, in the types of the net, with the counters that some codes leave out."""
    return {
        name: tensors[name].to(like.dtype)
        if name in tensors
        else torch.zeros(like.shape, dtype=like.dtype)
        for name, like in expected.items()
    }


def identify(weights: Mapping[str, Tensor], kind: str = "") -> Identity | None:
    """The net whose weights these are, whoever named them; None if they are no net's of ours.

    ``kind`` is what the file itself says, if it does.
    """
    tensors, dialect = to_ours(weights)
    candidates = [net for net in TABLE if _may_be(net, tensors)]
    stem = _first(tensors, _STEMS)
    if not candidates or stem is None or stem.ndim != 4 or not stem.shape[1]:
        return None
    head = _first(tensors, _HEADS)
    classes = head.shape[0] if head is not None and head.ndim == 2 else 0
    found: list[tuple[Net, Coverage]] = []
    for net in candidates:
        with torch.device("meta"):
            model = build_net(net.spec, classes=classes, in_channels=stem.shape[1])
        found.append((net, compare(model.state_dict(), tensors)))
    # Among equals the fewest misfits: a smaller net's tensors may all be found in a larger one's.
    best = max(_rank(coverage) for _, coverage in found)
    nets = tuple(net for net, coverage in found if _rank(coverage) == best)
    coverage = next(coverage for _, coverage in found if _rank(coverage) == best)
    shown = f"weights of a {'classifier' if classes else 'backbone'}"
    return Identity(kind or shown, nets, classes, stem.shape[1], dialect, coverage, tensors)


def _may_be(net: Net, tensors: Mapping[str, Tensor]) -> bool:
    """Whether it is worth building the net to compare it: a look at a few names."""
    if isinstance(net.spec, NetSpec):
        return _blocks(tensors) == net.spec.layers
    return any(name.startswith(_INCEPTION_MARKS[net.spec.form]) for name in tensors)


def _first(tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor | None:
    return next((tensors[name] for name in names if name in tensors), None)


def _rank(coverage: Coverage) -> tuple[int, int]:
    misfits = len(coverage.missing) + len(coverage.unexpected) + len(coverage.reshaped)
    return len(coverage.loaded), -misfits


def _blocks(names: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks per stage, counted from names such as layer3.5.conv1.weight."""
    last: dict[int, int] = {}
    for name in names:
        match = re.match(r"layer(\d+)\.(\d+)\.", name)
        if match:
            stage, block = int(match[1]), int(match[2])
            last[stage] = max(last.get(stage, 0), block + 1)
    return tuple(blocks for _, blocks in sorted(last.items()))
