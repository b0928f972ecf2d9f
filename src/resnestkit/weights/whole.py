"""A whole model's weights into a model: fitted, compared, and never silently less."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone
from resnestkit.models.headed import Headed
from resnestkit.models.spec import NormPolicy, Spec
from resnestkit.models.zoo import TABLE, Net
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.identify import Coverage, compare, fill_counters
from resnestkit.weights.loading import freeze_loaded
from resnestkit.weights.tensors import check_types


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """What a file of a backbone with a head on it says, whatever the head."""

    kind: str
    classes: int
    norm: NormPolicy
    """What to take for the backbone if nobody says."""
    tensors: dict[str, Tensor]
    """Under our names."""
    net: Spec | None = None
    """The backbone, where the file's name or card says it."""
    preprocessing: Preprocessing | None = None
    head_is_new: bool = False


def check_same(path: Path, found: FoundModel, kind: str, net: Net) -> None:
    """Raise UserError if a file is known to be of another kind, or on another backbone."""
    if found.kind != kind:
        raise UserError(f"{path} holds a {found.kind}, not a {kind}; ask for a {found.kind}.")
    if found.net is not None and _without_dropout(net.spec) != _without_dropout(found.net):
        named = next((one.name for one in TABLE if one.spec == found.net), "another net")
        raise UserError(f"{path} has {named} as its backbone, not {net.name}; ask for {named}.")


def _without_dropout(spec: Spec) -> Spec:
    """A net but for what only training has."""
    return replace(spec, dropout=0.0)


def load_whole(
    model: Headed,
    body_name: str,
    classes: int,
    path: Path,
    found: FoundModel,
    class_layers: Sequence[str],
    frozen_stages: int | None = None,
    *,
    partial: bool = False,
) -> Coverage:
    """Load what was found in a file into a model; only its classes may differ.

    With other classes the classifier stays as it was drawn, and a warning says so; with ``partial``
    so does all that does not fit. Returns how the file fits.

    Args:
        model: what to load into.
        body_name: name of its backbone.
        classes: how many it tells apart.
        path: of the file.
        found: what was found in it.
        class_layers: names of the tensors whose shape depends on the number of classes.
        frozen_stages: how many stages of the backbone to freeze, if any.
        partial: whether the rest may be missing, or left over.

    Raises:
        UserError: anything else differs, or a part would be frozen as drawn.
    """
    check_types(path, found.tensors)
    tensors, state = dict(found.tensors), model.state_dict()
    other = found.classes != classes
    if other:
        tensors |= {name: state[name] for name in class_layers}
        warn(f"{path} knows {found.classes} classes: a classifier of {classes} is new.")
    coverage = compare(state, tensors)
    if not (coverage.is_complete or partial):
        raise UserError(f"{path} does not hold the weights of this {found.kind}: {coverage}.")
    if not coverage.is_complete:
        warn(f"{path} was loaded in part: {coverage}.")
    fits = {name: tensors[name] for name in coverage.loaded}
    model.load_state_dict(fill_counters({n: state[n] for n in fits}, fits), strict=False)
    model.head_is_new |= found.head_is_new or other
    if frozen_stages is not None:
        body = model.get_submodule(body_name)
        assert isinstance(body, Backbone)
        held = compare(_below(body_name, state), _below(body_name, tensors))
        freeze_loaded(body, frozen_stages, held, path)
    return coverage


def warn(said: str) -> None:
    """Warn the caller of the function that makes a model of a file."""
    warnings.warn(said, stacklevel=5)


def _below(place: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A module's part of a state, by its own names."""
    start = f"{place}."
    return {n.removeprefix(start): tensor for n, tensor in state.items() if n.startswith(start)}
