"""What every model on a net shares as a file, whatever its head: the card, writing and reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from resnestkit.errors import UserError
from resnestkit.factory import check_loadable, take_state
from resnestkit.models.headed import Headed
from resnestkit.models.spec import NormPolicy, Spec
from resnestkit.models.zoo import TABLE
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.checkpoint import (
    ModelCard,
    current_versions,
    load_checkpoint,
    save_tensors,
)

HeadedT = TypeVar("HeadedT", bound=Headed)


class HeadSpec(Protocol):
    """What the specs of detectors, segmenters and panoptic nets share."""

    @property
    def net(self) -> Spec:
        """The backbone."""

    @property
    def norm(self) -> NormPolicy:
        """Its norms."""

    @property
    def classes(self) -> int:
        """How many are told apart."""


def make_card(
    kind: str,
    spec: HeadSpec,
    preprocessing: Preprocessing,
    names: Sequence[object],
    metrics: Mapping[str, float] | None,
    data: Mapping[str, Any] | None,
    **own: Any,
) -> ModelCard:
    """What a checkpoint of a model on a net says of itself.

    Args:
        kind: of the model.
        spec: what it is built from.
        preprocessing: how it wants its images.
        names: of its classes.
        metrics: what was measured on it.
        data: where it was trained.
        **own: fields that only this kind has.

    Raises UserError if the names are not as many as the classes.
    """
    net = next((one for one in TABLE if one.spec == spec.net), None)
    return ModelCard(
        kind=kind,
        net=net.name if net else "custom",
        spec=spec.net,
        classes=tuple(map(str, names)),
        preprocessing=preprocessing,
        norm=spec.norm,
        metrics={name: float(value) for name, value in (metrics or {}).items()},
        data=dict(data or {}),
        versions=current_versions(),
        **own,
    )


def check_palette(
    names: Sequence[object], palette: Sequence[Sequence[int]], classes: int
) -> tuple[tuple[int, ...], ...]:
    """The colours as a card holds them.

    Raises UserError if the names, or the colours where there are any, are not as many as classes.
    """
    for what, count in (("names", len(names)), ("colours", len(palette) or classes)):
        if count != classes:
            raise UserError(f"{count} {what} for {classes} classes; give as many.")
    return tuple(tuple(map(int, colour)) for colour in palette)


def number_classes(classes: Sequence[object] | None, count: int) -> tuple[str, ...]:
    """Names of classes that count from 0; their numbers if nobody named them."""
    return tuple(map(str, (f"class {n}" for n in range(count)) if classes is None else classes))


def save_built(
    model: nn.Module, path: Path, card: ModelCard, build: Callable[[ModelCard], nn.Module]
) -> ModelCard:
    """Write a model with its card, which ``build`` makes such a model of; returns the card.

    Raises UserError if nobody could load the file, or it cannot be written.
    """
    check_loadable(path, card, model.state_dict(), build)
    save_tensors(path, model.state_dict(), card.to_dict())
    return card


def load_built(
    path: Path, kind: str, build: Callable[[ModelCard], HeadedT]
) -> tuple[HeadedT, ModelCard]:
    """The model of a checkpoint in evaluation mode, and its card.

    Raises UserError if the file is not a checkpoint of this kind.
    """
    card, tensors = load_checkpoint(path, kind)
    with torch.device("meta"):
        model = build(card)
    take_state(model, path, tensors)
    model.head_is_new = card.head_is_new
    return model.eval(), card


def build_as_said(words: str, build: Callable[[], HeadedT]) -> HeadedT:
    """What a card's spec makes. Raises UserError, with these words for it, if it makes none."""
    try:
        return build()
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"No {words} can be built as its card says: {error}.") from error
