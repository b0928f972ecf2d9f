"""Segmenters by kind and backbone, or from a checkpoint, and back to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from resnestkit.errors import UserError, nearest
from resnestkit.factory import check_frozen, create_model, unwrap
from resnestkit.models.spec import NormPolicy
from resnestkit.models.zoo import Net, find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.saving import (
    build_as_said,
    check_palette,
    load_built,
    make_card,
    number_classes,
    save_built,
)
from resnestkit.segmentation.segmenter import Segmenter, build_segmenter
from resnestkit.segmentation.spec import (
    KINDS,
    Kind,
    SegmentationSettings,
    SegmenterSpec,
    light_settings,
    own_output_stride,
    wants_auxiliary,
)
from resnestkit.weights.checkpoint import SEGMENTER, ModelCard, read_card
from resnestkit.weights.foreign import read_weights
from resnestkit.weights.loading import find_weights
from resnestkit.weights.segmenter_loading import load_found
from resnestkit.weights.segmenters import FoundSegmenter, find_segmenter
from resnestkit.weights.whole import check_same

__all__ = ["create_segmenter", "load_segmenter", "save_segmenter", "segmenter_card"]

Settings = Literal["paper", "light"] | SegmentationSettings

ADE20K_CLASSES = 150


def create_segmenter(
    kind: Kind,
    backbone: str = "resnest50",
    classes: int | None = None,
    weights: str | Path | None = None,
    *,
    output_stride: int | None = None,
    norm: NormPolicy | None = None,
    head_norm: NormPolicy | None = None,
    auxiliary: bool | None = None,
    frozen_stages: int | None = None,
    in_channels: int = 3,
    settings: Settings | None = None,
    preprocessing: Preprocessing | None = None,
    partial: bool = False,
) -> Segmenter:
    """A segmenter on any net of the table: images in, a logit per class and pixel out.

    Args:
        kind: "deeplabv3", "deeplabv3plus", "fcn", "pspnet", "upernet", "fpn" or "unet". All but
            the first and "fcn" are those of segmentation-models-pytorch, an extra.
        backbone: such as "resnest50", or another library's name for it.
        classes: labels are 0 to classes - 1, a background among them if there is one. None is as
            many as the weights of a whole segmenter have, else ADE20K's 150.
        weights: "imagenet1k" or a file of weights for the backbone, as in `create_model`; or a file
            of a whole segmenter: ours, one of the authors' DeepLabV3 and FCN, torchvision's of the
            same, or one of segmentation-models-pytorch. With another number of classes its
            classifier starts anew, and `Segmenter.head_is_new` says so; all else must fit.
        output_stride: 8, 16 or 32: image pixels per pixel of the last stage, at most. None is what
            the weights of a whole segmenter had, else the decoder's own: 8 for deeplabv3, fcn and
            pspnet, 16 for deeplabv3plus, 32 for the rest. An fpn takes 32 alone.
        norm: "batch", "sync", "frozen" or "group" norms in the backbone; None is "batch".
        head_norm: norms of the decoder and of the auxiliary head; None is as in the file of a whole
            segmenter, else those of the backbone, but "group" where these are frozen: a new head
            has no statistics to keep.
        auxiliary: whether training has a second head, on the last stage but one; None is as in the
            file of a whole segmenter, else so for deeplabv3, fcn and pspnet.
        frozen_stages: freeze the stem and the first so many stages. Only with weights.
        in_channels: channels of the image.
        settings: "paper" (the authors'), "light" (for few classes, small images and few cores), or
            what you choose; None is what the weights of a whole segmenter have, else "paper".
        preprocessing: how the backbone wants its images; None is what is known of the weights,
            else ImageNet's mean and deviation.
        partial: take those weights that fit, leave the rest as drawn, and warn with what was not
            loaded.

    Raises:
        UserError: there is no such kind or net, the two do not fit, the decoder needs an extra that
            is not installed, the weights are not this segmenter's, or random weights would be
            frozen.
        ValueError: a number or a policy is none of those that there are.
    """
    if kind not in KINDS:
        raise UserError(f"There is no segmenter called {kind!r}.{nearest(kind, KINDS)}")
    net = find_net(backbone)
    check_frozen(weights, norm, frozen_stages)
    asked: dict[str, Any] = {
        "classes": classes,
        "output_stride": output_stride,
        "norm": norm,
        "head_norm": head_norm,
        "auxiliary": auxiliary,
        "settings": settings and _choose_settings(settings),
    }
    given = {name: value for name, value in asked.items() if value is not None}
    path = None if weights is None else find_weights(weights, net.name)
    found = None if path is None else find_segmenter(path, read_weights(path), read_card(path))
    if path is not None and found is not None:
        check_same(path, found, kind, net)
        images = preprocessing or found.preprocessing or Preprocessing()
        if images.channels != in_channels:
            raise UserError(
                f"{path} reads images of {images.channels} channels, not {in_channels}."
            )
        model = build_segmenter(spec_as_found(found, net, given), images)
        load_found(model, path, found, frozen_stages, partial=partial)
        return model
    defaults = {
        "classes": ADE20K_CLASSES,
        "output_stride": own_output_stride(kind),
        "head_norm": "group" if norm == "frozen" else norm or "batch",
        "auxiliary": wants_auxiliary(kind),
    }
    if head_norm == "frozen":
        raise UserError(
            "head_norm is 'frozen', and a new head has no statistics to keep; take 'group', or the "
            "weights of a whole segmenter."
        )
    spec = SegmenterSpec(kind, net.spec, **{**defaults, **given})
    options: dict[str, Any] = {"partial": partial, "frozen_stages": frozen_stages}
    options |= {"output_stride": spec.output_stride, "weights": path, "norm": spec.norm}
    body = create_model(net.name, 0, in_channels, **options)
    images = preprocessing or body.preprocessing or Preprocessing.for_images(net.size, in_channels)
    return build_segmenter(spec, images, body)


def _choose_settings(settings: Settings) -> SegmentationSettings:
    if isinstance(settings, SegmentationSettings):
        return settings
    if settings not in {"paper", "light"}:
        raise UserError(f"settings is {settings!r}; it must be one of paper, light.")
    return light_settings() if settings == "light" else SegmentationSettings()


def spec_as_found(found: FoundSegmenter, net: Net, given: Mapping[str, Any]) -> SegmenterSpec:
    """What to build for a whole segmenter's weights: as asked for, else as they are."""
    known: dict[str, Any] = {
        "classes": found.classes,
        "output_stride": found.output_stride,
        "norm": found.norm,
        # Another norm is asked for throughout.
        "head_norm": given.get("norm", found.head_norm),
        "auxiliary": found.auxiliary,
        "settings": found.settings,
    }
    return SegmenterSpec(found.kind, found.net or net.spec, **{**known, **given})


def segmenter_card(
    model: Segmenter,
    classes: Sequence[object] | None = None,
    metrics: Mapping[str, float] | None = None,
    data: Mapping[str, Any] | None = None,
    palette: Sequence[Sequence[int]] = (),
) -> ModelCard:
    """What a checkpoint of a segmenter says of itself.

    Args:
        model: the segmenter.
        classes: names of the classes in the order of the labels from 0; their numbers if not given.
        metrics: what was measured on it.
        data: where it was trained, as in `ModelCard`.
        palette: red, green and blue of each class from 0 to 255, if its data has colours.

    Raises UserError if the names, or the colours, are not as many as the classes.
    """
    spec = model.spec
    names = number_classes(classes, spec.classes)
    own: dict[str, Any] = {
        "head_is_new": model.head_is_new,
        "output_stride": spec.output_stride,
        "segmenter": spec,
        "palette": check_palette(names, palette, spec.classes),
    }
    return make_card(SEGMENTER, spec, model.preprocessing, names, metrics, data, **own)


def save_segmenter(
    model: nn.Module,
    path: str | Path,
    classes: Sequence[object] | None = None,
    metrics: Mapping[str, float] | None = None,
    palette: Sequence[Sequence[int]] = (),
) -> ModelCard:
    """Write a segmenter as a checkpoint, which `load_segmenter` takes, and return its card.

    ``classes``, ``metrics`` and ``palette`` are those of `segmenter_card`.
    Raises UserError if nobody could load the file, or it cannot be written.
    """
    segmenter: Segmenter = unwrap(model, Segmenter, "a segmenter of create_segmenter")
    card = segmenter_card(segmenter, classes, metrics, palette=palette)
    return save_built(segmenter, Path(path), card, build_from_card)


def load_segmenter(path: str | Path) -> tuple[Segmenter, ModelCard]:
    """The segmenter of a checkpoint in evaluation mode, and its card.

    Raises UserError if the file is not a segmenter's checkpoint, or its decoder needs an extra that
    is not installed.
    """
    return load_built(Path(path), SEGMENTER, build_from_card)


def build_from_card(card: ModelCard) -> Segmenter:
    """An untrained segmenter of the form that a card describes.

    Raises UserError if there is none.
    """
    spec = card.segmenter
    assert spec is not None
    return build_as_said(spec.kind, lambda: build_segmenter(spec, card.preprocessing))
