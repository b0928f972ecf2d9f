"""Models by name or from a checkpoint, and back to a checkpoint."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone
from resnestkit.models.build import build_net
from resnestkit.models.spec import OUTPUT_STRIDES, NormPolicy
from resnestkit.models.zoo import TABLE, find_net, list_models
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.checkpoint import (
    BACKBONE,
    CLASSIFIER,
    ModelCard,
    current_versions,
    load_checkpoint,
    save_tensors,
)
from resnestkit.weights.identify import Coverage, compare, fill_counters
from resnestkit.weights.loading import (
    WeightFile,
    describe,
    find_weights,
    freeze_loaded,
    load_file,
    open_weights,
)
from resnestkit.weights.tensors import check_finite, check_types

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
            be frozen (without weights, or where ``partial`` found none).
        ValueError: output_stride, norm or frozen_stages is none of those that there are.
    """
    check_frozen(weights, None, frozen_stages)
    net = find_net(name)
    options |= {"classes": classes, "in_channels": in_channels, "output_stride": output_stride}
    if weights is None:
        return build_net(net.spec, **options)
    path = find_weights(weights, net.name)
    file = open_weights(path)
    with torch.device("meta"):
        model = build_net(net.spec, **options)
    coverage = compare(model.state_dict(), file.tensors)
    if coverage.is_complete:
        # Nothing of what a new net would draw is needed: the file's tensors become the net's.
        model.load_state_dict(fill_counters(model.state_dict(), file.tensors), assign=True)
        model.to(torch.get_default_device())
        describe(model, file, head_is_new=False)
    else:
        model = build_net(net.spec, **options)
        coverage = load_file(model, file, net.name, partial=partial)
        _warn(model, file, coverage)
    if frozen_stages is not None:
        freeze_loaded(model, frozen_stages, coverage, path)
    return model


def check_frozen(
    weights: str | Path | None, norm: NormPolicy | None, frozen_stages: int | None
) -> None:
    """Raise UserError if random weights, or the statistics of none, would be frozen."""
    if weights is None and frozen_stages is not None:
        raise UserError("frozen_stages would freeze random weights; give weights to freeze.")
    if weights is None and norm == "frozen":
        raise UserError(
            "norm 'frozen' keeps the statistics of loaded weights, and there are none; give "
            "weights, or take norm 'batch', 'sync' or 'group'."
        )


def _warn(model: Backbone, file: WeightFile, coverage: Coverage) -> None:
    """Say what was not loaded and that nobody asked to leave out."""
    if not coverage.is_complete:
        warnings.warn(f"{file.path} was loaded in part: {coverage}.", stacklevel=3)
    if model.classes and not any(name.startswith(f"{model.head}.") for name in file.tensors):
        said = f"{file.path} holds no classifier: that of {model.classes} classes starts anew."
        warnings.warn(said, stacklevel=3)


def save_model(
    model: nn.Module,
    path: str | Path,
    classes: Sequence[object] | None = None,
    preprocessing: Preprocessing | None = None,
    metrics: Mapping[str, float] | None = None,
) -> ModelCard:
    """Write a model as a checkpoint, which every command and `load_model` take.

    Args:
        model: a net of `create_model`, which torch.compile or DistributedDataParallel may wrap.
        path: the .safetensors file to write, whole or not at all.
        classes: names of the classes in the order of the logits; their numbers if not given.
        preprocessing: how it wants its images; the model's own, or the net's published size and
            ImageNet's mean if not given.
        metrics: what was measured on it.

    Returns:
        The card that the file carries.

    Raises:
        UserError: the names are not as many as the logits, the file cannot be written, or nobody
            could load it: the net was changed (as by `insert_attention`), its weights are no
            numbers, or the preprocessing is for other images. What was there before stays.
    """
    inner: Backbone = unwrap(model, Backbone, "a net of create_model")
    model, path = inner, Path(path)
    numbered = (f"class {number}" for number in range(model.classes))
    names = tuple(map(str, numbered if classes is None else classes))
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
        output_stride=max(model.output_stride, min(OUTPUT_STRIDES)),
        head_is_new=model.head_is_new,
        metrics={name: float(value) for name, value in (metrics or {}).items()},
        versions=current_versions(),
    )
    check_loadable(path, card, model.state_dict())
    save_tensors(path, model.state_dict(), card.to_dict())
    return card


def unwrap(model: nn.Module, kind: Any, words: str) -> Any:
    """The module of a kind, out of what compiles it or shares it among processes.

    Raises UserError, which says what can be saved, if there is none.
    """
    inner: object = model
    while isinstance(inner, nn.Module) and not isinstance(inner, kind):
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
    if isinstance(inner, kind):
        return inner
    raise UserError(f"A {type(model).__name__} cannot be saved, but {words} can.")


def check_loadable(
    path: Path,
    card: ModelCard,
    state: dict[str, Tensor],
    build: Callable[[ModelCard], nn.Module] | None = None,
) -> None:
    """Raise UserError if what is about to be written could not be loaded again.

    ``build`` makes a module of its card's form; a net, if not given.
    """
    try:
        ModelCard.from_dict(json.loads(json.dumps(card.to_dict())))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} was not written: its card {error}.") from error
    with torch.device("meta"):
        coverage = compare((build or build_from_card)(card).state_dict(), state)
    if not coverage.is_complete:
        raise UserError(
            f"{path} was not written, since nobody could load it: the model is not the {card.net} "
            f"for images of {card.preprocessing.channels} channels that it would say: {coverage}."
        )
    if any(tensor.is_meta for tensor in state.values()):
        raise UserError(f"{path} was not written: the model is on the meta device, without values.")
    check_types(path, state)
    check_finite(path, state)


def load_model(path: str | Path) -> tuple[Backbone, ModelCard]:
    """The model of a checkpoint in evaluation mode, and its card.

    Raises UserError if the file is not a classifier's checkpoint.
    """
    card, tensors = load_checkpoint(Path(path))
    with torch.device("meta"):
        model = build_from_card(card)
    take_state(model, Path(path), tensors)
    model.head_is_new, model.preprocessing = card.head_is_new, card.preprocessing
    return model.eval(), card


def take_state(model: nn.Module, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Make a checkpoint's tensors those of a model on the meta device.

    Raises UserError if they are not this model's, or no numbers.
    """
    coverage = compare(model.state_dict(), tensors)
    if not coverage.is_complete:
        raise UserError(f"The weights of {path} do not fit its own card: {coverage}.")
    check_types(path, tensors)
    # They become the net's: a model on the meta device has no memory to copy them into.
    model.load_state_dict(fill_counters(model.state_dict(), tensors), assign=True)


def build_from_card(card: ModelCard) -> Backbone:
    """An untrained net of the form that a card describes. Raises UserError if there is none."""
    try:
        return build_net(
            card.spec,
            classes=len(card.classes),
            in_channels=card.preprocessing.channels,
            output_stride=card.output_stride,
            norm=card.norm,
        )
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"No {card.net} can be built as its card says: {error}.") from error
