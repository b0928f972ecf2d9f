"""Models by name or from a checkpoint, and back to a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone
from resnestkit.models.build import build_net
from resnestkit.models.zoo import TABLE, find_net, list_models
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.adapt import adapt
from resnestkit.weights.checkpoint import (
    BACKBONE,
    CLASSIFIER,
    ModelCard,
    current_versions,
    load_checkpoint,
    read_card,
    save_tensors,
)
from resnestkit.weights.download import Advance, fetch
from resnestkit.weights.foreign import read_weights
from resnestkit.weights.identify import Coverage, compare, fill_counters
from resnestkit.weights.manifest import find_published, recognise
from resnestkit.weights.names import to_ours

__all__ = ["create_model", "list_models", "load_model", "save_model"]


def create_model(
    name: str,
    classes: int = 1000,
    in_channels: int = 3,
    output_stride: int = 32,
    weights: str | Path | None = None,
    *,
    partial: bool = False,
    frozen_stages: int | None = None,
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
            With another number of classes the head starts anew, and `Backbone.head_is_new` says
            so; with another number of input channels the stem's weights are spread so that its
            response keeps its scale. All else must fit. How the weights want their images is in
            `Backbone.preprocessing`, where it is known.
        partial: take those weights that fit, leave the rest as drawn, and warn with what was and
            what was not loaded.
        frozen_stages: freeze the stem and the first so many stages, as `Backbone.freeze`; None
            freezes nothing, not even the stem. Only with weights.
        **options: norm, drop_path, drop_block, dropout and zero_gamma, as in `ResNet`.

    Returns:
        A module whose call turns (b, in_channels, h, w) into logits (b, classes). Under
        ``torch.device("meta")`` it is built without memory.

    Raises:
        UserError: there is no such net, the weights are not this net's, or random weights would
            be frozen.
        ValueError: output_stride, norm or frozen_stages is none of those that there are.
    """
    if frozen_stages is not None and weights is None:
        raise UserError("frozen_stages would freeze random weights; give weights to freeze.")
    net = find_net(name)
    options |= {"classes": classes, "in_channels": in_channels, "output_stride": output_stride}
    if weights is None:
        return build_net(net.spec, **options)
    path = find_weights(weights, net.name)
    tensors, _ = to_ours(read_weights(path))
    with torch.device("meta"):
        model = build_net(net.spec, **options)
    if compare(model.state_dict(), tensors).is_complete:
        # Nothing of what a new net would draw is needed: the file's tensors become the net's.
        model.load_state_dict(fill_counters(model.state_dict(), tensors), assign=True)
        model.to(torch.get_default_device())
        model.preprocessing = _find_preprocessing(model, path)
    else:
        model = build_net(net.spec, **options)
        coverage = _load(model, tensors, path, net.name, partial=partial)
        if not coverage.is_complete:
            warnings.warn(f"{path} was loaded in part: {coverage}.", stacklevel=2)
    if frozen_stages is not None:
        model.freeze(frozen_stages)
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


def load_weights(
    model: Backbone, path: Path, net: str = "net", *, partial: bool = False
) -> Coverage:
    """Load a file of weights into a model; only classes and input channels may differ.

    With ``partial``, take what fits and leave the rest. Returns how the file fits.
    Raises UserError, with what is missing and what is left over, if anything else differs, or
    (with ``partial``) if nothing fits.
    """
    tensors, _ = to_ours(read_weights(path))
    return _load(model, tensors, path, net, partial=partial)


def _load(
    model: Backbone, tensors: dict[str, Tensor], path: Path, net: str, *, partial: bool
) -> Coverage:
    fitted, head_is_new = adapt(model, tensors)
    coverage = compare(model.state_dict(), fitted)
    found = set(coverage.loaded) & tensors.keys()
    if not coverage.is_complete and not (partial and found):
        raise UserError(_explain_misfit(model, path, net, coverage, partial=partial))
    model.load_state_dict({name: fitted[name] for name in coverage.loaded}, strict=False)
    model.head_is_new = head_is_new and model.classes > 0
    model.preprocessing = _find_preprocessing(model, path)
    return coverage


def _explain_misfit(
    model: Backbone, path: Path, net: str, coverage: Coverage, *, partial: bool
) -> str:
    if model.norm_policy == "group" and not (coverage.missing or coverage.reshaped):
        return (
            f"{path} holds batch statistics, for which norm 'group' has no use: it would compute "
            "something else. Say partial to start from the other weights all the same, or take "
            "norm 'batch', 'sync' or 'frozen'."
        )
    hint = "" if partial else " Say partial to take what fits."
    return f"{path} does not hold the weights of a {net}: {coverage}.{hint}"


def _find_preprocessing(model: Backbone, path: Path) -> Preprocessing | None:
    """How a file's weights want their images: by its card, or by its published name."""
    card, known = read_card(path), recognise(path.name)
    found = card.preprocessing if card else known.preprocessing if known else None
    return found if found and found.channels == model.in_channels else None


def save_model(
    model: Backbone,
    path: str | Path,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    metrics: dict[str, float] | None = None,
) -> ModelCard:
    """Write a model as a checkpoint, which every command and `load_model` take.

    Args:
        model: a net of `create_model`.
        path: the .safetensors file to write, whole or not at all.
        classes: names of the classes in the order of the logits; their numbers if not given.
        preprocessing: how it wants its images; the model's own, or the net's published size and
            ImageNet's mean if not given.
        metrics: what was measured on it.

    Returns:
        The card that the file carries.

    Raises:
        UserError: the names are not as many as the logits, or the file cannot be written.
    """
    names = tuple(classes or (f"class {number}" for number in range(model.classes)))
    if len(names) != model.classes:
        raise UserError(f"{len(names)} names of classes for {model.classes} logits; give as many.")
    net = next((net for net in TABLE if net.spec == model.spec), None)
    default = Preprocessing.for_images(net.size if net else 224, model.in_channels)
    card = ModelCard(
        kind=CLASSIFIER if model.classes else BACKBONE,
        net=net.name if net else "custom",
        spec=model.spec,
        classes=names,
        preprocessing=preprocessing or model.preprocessing or default,
        norm=model.norm_policy,
        output_stride=model.output_stride,
        head_is_new=model.head_is_new,
        metrics=metrics or {},
        versions=current_versions(),
    )
    save_tensors(Path(path), model.state_dict(), card.to_dict())
    return card


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
    model.head_is_new, model.preprocessing = card.head_is_new, card.preprocessing
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
