"""Models by name, or from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnestkit.errors import UserError
from resnestkit.models.resnet import ResNet
from resnestkit.models.zoo import find_net, list_models
from resnestkit.weights.checkpoint import ModelCard, load_checkpoint

__all__ = ["create_model", "list_models", "load_model"]


def create_model(
    name: str,
    classes: int = 1000,
    in_channels: int = 3,
    output_stride: int = 32,
    weights: str | Path | None = None,
    **options: Any,
) -> ResNet:
    """A net of the table, by its name or another library's name for it.

    Args:
        name: such as "resnest50"; `list_models` gives them all.
        classes: number of logits; 0 leaves the classifier out.
        in_channels: channels of the image.
        output_stride: 8, 16 or 32: image pixels per pixel of the last stage.
        weights: a checkpoint that `resnestkit train` wrote for this very net, or None for random
            weights. Every tensor must fit.
        **options: norm, drop_path, drop_block, dropout and zero_gamma, as in `ResNet`.

    Returns:
        A module whose call turns (b, in_channels, h, w) into logits (b, classes). Under
        ``torch.device("meta")`` it is built without memory.

    Raises:
        UserError: there is no such net, or the weights are not this net's.
        ValueError: output_stride or norm is none of those named.
    """
    net = find_net(name)
    model = ResNet(
        net.spec,
        classes=classes,
        in_channels=in_channels,
        output_stride=output_stride,
        **options,
    )
    if weights is not None:
        card, tensors = load_checkpoint(Path(weights))
        if card.spec != net.spec:
            raise UserError(f"{weights} holds a {card.net}, not a {net.name}.")
        _load_strictly(model, tensors, str(weights))
    return model


def load_model(path: str | Path) -> tuple[ResNet, ModelCard]:
    """The model of a checkpoint in evaluation mode, and its card.

    Raises UserError if the file is not a classifier's checkpoint.
    """
    card, tensors = load_checkpoint(Path(path))
    with torch.device("meta"):
        model = build_from_card(card)
    _load_strictly(model, tensors, str(path), assign=True)
    return model.eval(), card


def build_from_card(card: ModelCard) -> ResNet:
    """An untrained net of the form that a card describes."""
    return ResNet(
        card.spec,
        classes=len(card.classes),
        in_channels=card.preprocessing.channels,
        output_stride=card.output_stride,
        norm=card.norm,
    )


def load_backbone(model: ResNet, path: Path) -> None:
    """Load all but the classifier from a checkpoint of the same net, for fine-tuning.

    Raises UserError if the checkpoint is of another net or does not fit.
    """
    card, tensors = load_checkpoint(path)
    if card.spec != model.spec:
        raise UserError(f"{path} holds a {card.net}; it cannot start another net.")
    head = {name: t for name, t in model.state_dict().items() if name.startswith("fc.")}
    _load_strictly(model, tensors | head, str(path))


def _load_strictly(
    model: nn.Module, tensors: dict[str, Any], origin: str, *, assign: bool = False
) -> None:
    """Copy every tensor, or under ``assign`` take it as it is: a model on meta has no memory."""
    try:
        model.load_state_dict(tensors, strict=True, assign=assign)
    except RuntimeError as error:
        first = str(error).split("\n", 1)[-1].strip().split("\n")[0]
        raise UserError(f"The weights of {origin} do not fit the net: {first}") from error
