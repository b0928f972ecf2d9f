"""Models by name, or from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone
from resnestkit.models.build import build_net
from resnestkit.models.zoo import find_net, list_models
from resnestkit.weights.adapt import adapt
from resnestkit.weights.checkpoint import ModelCard, load_checkpoint
from resnestkit.weights.download import Advance, fetch
from resnestkit.weights.foreign import read_weights
from resnestkit.weights.identify import compare
from resnestkit.weights.manifest import find_published
from resnestkit.weights.names import to_ours

__all__ = ["create_model", "list_models", "load_model"]


def create_model(
    name: str,
    classes: int = 1000,
    in_channels: int = 3,
    output_stride: int = 32,
    weights: str | Path | None = None,
    **options: Any,
) -> Backbone:
    """A net of the table, by its name or another library's name for it.

    Args:
        name: such as "resnest50"; `list_models` gives them all.
        classes: number of logits; 0 leaves the classifier out.
        in_channels: channels of the image.
        output_stride: 8, 16 or 32: image pixels per pixel of the last stage, at most.
        weights: "imagenet1k" for the published weights of this net (or one of its sources, see
            `resnestkit.weights.manifest`), which are downloaded once; a file of weights, from
            `resnestkit train` or another code (.pth or safetensors; the names of torchvision,
            timm, the authors, OpenMMLab and Detectron2 are known); or None for random weights.
            With another number of classes the head starts anew, and `Backbone.head_is_new` says so;
            with another number of input channels the stem's weights are spread so that its
            response keeps its scale. All else must fit.
        **options: norm, drop_path, drop_block, dropout and zero_gamma, as in `ResNet`.

    Returns:
        A module whose call turns (b, in_channels, h, w) into logits (b, classes). Under
        ``torch.device("meta")`` it is built without memory.

    Raises:
        UserError: there is no such net, or the weights are not this net's.
        ValueError: output_stride or norm is none of those named.
    """
    net = find_net(name)
    model = build_net(
        net.spec,
        classes=classes,
        in_channels=in_channels,
        output_stride=output_stride,
        **options,
    )
    if weights is not None:
        load_weights(model, find_weights(weights, net.name), net.name)
    return model


def find_weights(
    weights: str | Path, net: str, advance: Advance = lambda _there, _total: None
) -> Path:
    """The file that a user names: a path, or published weights, which are downloaded once.

    ``advance`` is told the bytes that there are and that there will be.
    Raises UserError if it is neither, or no address gives the file.
    """
    path = Path(weights)
    if path.suffix or path.exists():
        return path
    return fetch(find_published(net, str(weights)), advance=advance)


def load_weights(model: Backbone, path: Path, net: str = "net") -> None:
    """Load a file of weights into a model; only classes and input channels may differ.

    Raises UserError, with what is missing and what is left over, if anything else does.
    """
    tensors, _ = to_ours(read_weights(path))
    fitted, head_is_new = adapt(model, tensors)
    coverage = compare(model.state_dict(), fitted)
    if not coverage.is_complete:
        raise UserError(f"{path} does not hold the weights of a {net}: {coverage}.")
    model.load_state_dict(fitted, strict=False)
    model.head_is_new = head_is_new and model.classes > 0


def load_model(path: str | Path) -> tuple[Backbone, ModelCard]:
    """The model of a checkpoint in evaluation mode, and its card.

    Raises UserError if the file is not a classifier's checkpoint.
    """
    card, tensors = load_checkpoint(Path(path))
    with torch.device("meta"):
        model = build_from_card(card)
    coverage = compare(model.state_dict(), tensors)
    if not coverage.is_complete:
        raise UserError(f"The weights of {path} do not fit its own card: {coverage}.")
    # Taken as they are: a model on the meta device has no memory to copy them into.
    model.load_state_dict(tensors, assign=True)
    return model.eval(), card


def build_from_card(card: ModelCard) -> Backbone:
    """An untrained net of the form that a card describes."""
    return build_net(
        card.spec,
        classes=len(card.classes),
        in_channels=card.preprocessing.channels,
        output_stride=card.output_stride,
        norm=card.norm,
    )
