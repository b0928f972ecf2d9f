"""From another code's file to a typed checkpoint, and from ours to another code's names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from resnestkit.errors import UserError
from resnestkit.models.build import build_net
from resnestkit.models.spec import NetSpec
from resnestkit.models.zoo import TABLE, Net, find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.cache import is_published
from resnestkit.weights.checkpoint import (
    BACKBONE,
    CLASSIFIER,
    ModelCard,
    current_versions,
    read_card,
    read_kind,
    save_tensors,
)
from resnestkit.weights.foreign import read_weights
from resnestkit.weights.identify import Identity, compare, fill_counters, identify
from resnestkit.weights.manifest import recognise
from resnestkit.weights.names import Dialect, from_ours
from resnestkit.weights.tensors import check_types


def inspect(path: Path) -> Identity:
    """What a file's weights are. Raises UserError if they are no net's of the table."""
    identity = identify(read_weights(path), read_kind(path))
    if identity is None:
        raise UserError(
            f"{path} holds tensors, but not those of a residual net that is known here."
        )
    check_types(path, identity.tensors)
    return identity


def convert(source: Path, target: Path, net: str | None = None, to: Dialect = "resnestkit") -> Net:
    """Write a file's weights as a typed checkpoint, or under another code's names.

    Args:
        source: a file of weights, in any names that are known.
        target: the safetensors file to write.
        net: which net it is, where several have the same tensors.
        to: "resnestkit" for a typed checkpoint, or the code whose names to use.

    Returns:
        The net.

    Raises:
        UserError: the file is no whole net, or it is not clear which; or it is a checkpoint of ours
            already, a training state, or of a kind that the other code does not have.
    """
    check_new(target)
    card = read_card(source)
    if card:
        net = _check_ours(source, card, net, to)
    identity = inspect(source)
    chosen = choose_net(identity, net, source)
    if to != "resnestkit" and not isinstance(chosen.spec, NetSpec):
        raise UserError(f"{chosen.name} has no names in {to}, which knows residual nets alone.")
    if not identity.coverage.is_complete:
        raise UserError(f"{source} is not a whole {chosen.name}: {identity.coverage}.")
    if to == "resnestkit":
        made = make_card(chosen, identity, source)
        card = replace(card, net=made.net, spec=made.spec) if card else made
        save_tensors(target, _with_counters(chosen, identity), card.to_dict())
    else:
        save_tensors(target, from_ours(identity.tensors, to))
    return chosen


def check_new(target: Path) -> None:
    """Raise UserError if there is such a file already."""
    if target.exists():
        raise UserError(f"{target} exists already; choose another name.")


def _check_ours(source: Path, card: ModelCard, net: str | None, to: Dialect) -> str | None:
    """The name of the net to write. Raises UserError if a checkpoint of ours need not be written.

    Its card goes with it, so that only another net of the same tensors changes anything.
    """
    if card.kind not in {CLASSIFIER, BACKBONE}:
        raise UserError(f"{source} holds a {card.kind}, and nets alone are converted.")
    if to == "resnestkit" and (net is None or find_net(net).spec == card.spec):
        raise UserError(f"{source} is a checkpoint of resnestkit already, of a {card.net}.")
    if to != "resnestkit" and card.head_is_new:
        raise UserError(
            f"{source} has a classifier that was never trained, which no file of {to} could say."
        )
    return net or next((known.name for known in TABLE if known.spec == card.spec), None)


def make_card(net: Net, identity: Identity, source: Path) -> ModelCard:
    """The card of converted weights: classes by number, since the file does not name them."""
    known = recognise(source.name)
    images = known.preprocessing if known and known.net == net.name else None
    fits = known if images and images.channels == identity.in_channels else None
    assumed = Preprocessing.for_images(net.size, identity.in_channels)
    return ModelCard(
        kind=CLASSIFIER if identity.classes else BACKBONE,
        net=net.name,
        spec=net.spec,
        classes=tuple(f"class {number}" for number in range(identity.classes)),
        preprocessing=fits.preprocessing if fits else assumed,
        metrics={"top1": fits.top1 / 100} if fits and is_published(source, fits) else {},
        data={"origin": source.name, "fingerprint": "", "held_out": None, "seed": 0},
        versions=current_versions(),
    )


def choose_net(identity: Identity, name: str | None, source: Path) -> Net:
    """The net of a file, which its tensors tell or a name says.

    Raises UserError if they contradict each other, or several nets have these tensors.
    """
    names = [net.name for net in identity.nets]
    if name is not None:
        wanted = find_net(name)
        if wanted.name not in names:
            raise UserError(f"{source} holds no {wanted.name}, but {' or '.join(names)}.")
        return wanted
    if len(identity.nets) > 1:
        raise UserError(
            f"{source} fits {' and '.join(names)}, which differ in no tensor but in how they "
            "compute. Say which it is by --net."
        )
    return identity.nets[0]


def _with_counters(net: Net, identity: Identity) -> dict[str, Tensor]:
    """The tensors, with the counters of batches that some codes leave out."""
    with torch.device("meta"):
        model = build_net(net.spec, classes=identity.classes, in_channels=identity.in_channels)
    state = model.state_dict()
    assert compare(state, identity.tensors).is_complete
    return fill_counters(state, identity.tensors)
