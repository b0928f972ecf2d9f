"""Detectors by kind and backbone, or from a checkpoint, and back to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from torch import nn

from resnestkit.detection.detector import Detector, build_detector
from resnestkit.detection.spec import (
    KINDS,
    DetectionSettings,
    DetectorSpec,
    HeadNorm,
    Kind,
    light_settings,
    paper_settings,
    torchvision_settings,
)
from resnestkit.errors import UserError, nearest
from resnestkit.factory import check_frozen, create_model, unwrap
from resnestkit.models.spec import NormPolicy
from resnestkit.models.zoo import Net, find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.saving import build_as_said, load_built, make_card, save_built
from resnestkit.weights.checkpoint import DETECTOR, ModelCard, read_card
from resnestkit.weights.detector_loading import load_found
from resnestkit.weights.detectors import FoundDetector, find_detector
from resnestkit.weights.foreign import read_weights
from resnestkit.weights.loading import find_weights
from resnestkit.weights.whole import check_same

__all__ = ["create_detector", "detector_card", "load_detector", "save_detector"]

Settings = Literal["paper", "torchvision", "light"] | DetectionSettings

COCO_CLASSES = 80

_BUILT = frozenset({"box_head", "box_units", "rpn_convs", "mask_convs", "p6_from"})
"""Settings that the shapes of a file's tensors tell, whatever it was trained with."""
_FROZEN_HEADS = (
    "head_norm is 'frozen', and new heads have no statistics to keep; take 'none' or 'group', or "
    "the weights of a whole detector with norms in its heads."
)


def create_detector(
    kind: Kind,
    backbone: str = "resnest50",
    classes: int | None = None,
    weights: str | Path | None = None,
    *,
    settings: Settings | None = None,
    norm: NormPolicy | None = None,
    head_norm: HeadNorm | None = None,
    frozen_stages: int | None = None,
    min_size: int | Sequence[int] | None = None,
    max_size: int | None = None,
    fpn_channels: int | None = None,
    in_channels: int = 3,
    preprocessing: Preprocessing | None = None,
    partial: bool = False,
) -> Detector:
    """A detector on any net of the table, called as torchvision's detectors are.

    Args:
        kind: "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn" or "retinanet".
        backbone: such as "resnest50", or another library's name for it.
        classes: classes of objects, whose labels are 1 to classes; 0 is the background. None is
            as many as the weights of a whole detector have, else COCO's 80.
        weights: "imagenet1k" or a file of weights for the backbone, as in `create_model`; or a file
            of a whole detector: ours, one of the authors' or another of Detectron2, or
            torchvision's Faster R-CNN, Mask R-CNN or RetinaNet. With another number of classes its
            classifier starts anew, and `Detector.head_is_new` says so; all else must fit.
        settings: "paper" (Detectron2's, with which the authors train), "torchvision", "light" (for
            small images and few cores), or what you choose; None is what the weights of a whole
            detector were trained with, else "paper". A name that is not theirs is refused.
        norm: "batch", "sync", "frozen" or "group" norms in the backbone; None is "batch", and
            "frozen" with a whole detector that has them so.
        head_norm: norms of pyramid, box head and mask head, or "none"; None is as in the file of a
            whole detector, else "none" with torchvision's settings and with frozen norms, and
            those of the backbone otherwise. "frozen" only with a whole detector that has norms.
        frozen_stages: freeze the stem and the first so many stages (the paper: 1). Only with
            weights.
        min_size: an image's short side in pixels; of several, training draws one and evaluation
            takes the last. None is 800.
        max_size: its long side at most. None is 1333.
        fpn_channels: channels of the pyramid, and of the heads' convolutions. None is 256.
        in_channels: channels of the image.
        preprocessing: how the backbone wants its images; None is what is known of the weights,
            else ImageNet's mean and deviation. Images are given as RGB from 0 to 1 in any case.
        partial: take those weights that fit, leave the rest as drawn, and warn with what was not
            loaded.

    Raises:
        UserError: there is no such kind or net, the net's features do not lie where a detector
            looks for them, the weights are not this detector's, or random weights would be frozen.
        ValueError: a size or a policy is none of those that there are.
    """
    if kind not in KINDS:
        raise UserError(f"There is no detector called {kind!r}.{nearest(kind, KINDS)}")
    net = find_net(backbone)
    check_frozen(weights, norm, frozen_stages)
    given = given_options(classes, norm, head_norm, min_size, max_size, fpn_channels)
    path = None if weights is None else find_weights(weights, net.name)
    found = None if path is None else find_detector(path, read_weights(path), read_card(path))
    if path is not None and found is not None:
        check_as_found(path, found, kind, net, settings)
        images = preprocessing or found.preprocessing or Preprocessing()
        if images.channels != in_channels:
            raise UserError(
                f"{path} reads images of {images.channels} channels, not {in_channels}."
            )
        model = build_detector(spec_as_found(found, net, given, settings), images)
        load_found(model, path, found, frozen_stages, partial=partial)
        return model
    if head_norm == "frozen":
        raise UserError(_FROZEN_HEADS)
    defaults = {"classes": COCO_CLASSES, "head_norm": _new_head_norm(norm or "batch", settings)}
    chosen = _choose_settings(kind, settings or "paper")
    spec = DetectorSpec(kind, net.spec, settings=chosen, **{**defaults, **given})
    options: dict[str, Any] = {"partial": partial, "frozen_stages": frozen_stages}
    body = create_model(net.name, 0, in_channels, weights=path, norm=spec.norm, **options)
    images = preprocessing or body.preprocessing or Preprocessing.for_images(net.size, in_channels)
    return build_detector(spec, images, body)


def given_options(
    classes: int | None,
    norm: NormPolicy | None,
    head_norm: HeadNorm | None,
    min_size: int | Sequence[int] | None,
    max_size: int | None,
    fpn_channels: int | None,
) -> dict[str, Any]:
    """Fields of a spec that the caller of `create_detector` chose."""
    sizes = (min_size,) if isinstance(min_size, int) else min_size and tuple(min_size)
    asked: dict[str, Any] = {
        "classes": classes,
        "norm": norm,
        "head_norm": head_norm,
        "min_sizes": sizes,
        "max_size": max_size,
        "fpn_channels": fpn_channels,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _choose_settings(kind: Kind, settings: Settings) -> DetectionSettings:
    if isinstance(settings, DetectionSettings):
        return settings
    ready = {
        "paper": paper_settings,
        "torchvision": torchvision_settings,
        "light": light_settings,
    }
    if settings not in ready:
        raise UserError(f"settings is {settings!r}; it must be one of {', '.join(ready)}.")
    return ready[settings](kind)


def _new_head_norm(norm: NormPolicy, settings: Settings | None) -> HeadNorm:
    """New heads have no statistics to freeze, and torchvision's have none at all."""
    return "none" if settings == "torchvision" or norm == "frozen" else norm


def check_as_found(
    path: Path, found: FoundDetector, kind: Kind, net: Net, settings: Settings | None
) -> None:
    """Raise UserError if a file is known to be of another detector than is asked for."""
    check_same(path, found, kind, net)
    if settings is None:
        return
    chosen = _choose_settings(kind, settings)
    if chosen.aligned != found.settings.aligned:
        raise UserError(
            f"{path} was trained with {'' if found.settings.aligned else 'un'}aligned regions, "
            "and would find less with the others; leave settings out to take its own."
        )
    names = [field.name for field in fields(chosen) if field.name not in _BUILT]
    other = [name for name in names if getattr(chosen, name) != getattr(found.settings, name)]
    if other and not isinstance(settings, DetectionSettings):
        raise UserError(
            f"{path} was not trained with the settings {settings!r}: its {', '.join(other)} "
            "are others; leave settings out to take its own."
        )


def spec_as_found(
    found: FoundDetector, net: Net, given: Mapping[str, Any], settings: Settings | None
) -> DetectorSpec:
    """What to build for a whole detector's weights: as asked for, else as they are.

    Raises UserError if norms of heads would be frozen that the weights have not.
    """
    known: dict[str, Any] = {
        "classes": found.classes,
        "norm": found.norm,
        "norm_eps": found.norm_eps,
        "fpn_channels": found.fpn_channels,
    }
    known |= {"min_sizes": found.min_sizes} if found.min_sizes else {}
    known |= {"max_size": found.max_size} if found.max_size else {}
    known |= given
    # Another norm is asked for throughout, but where there is none.
    as_found = found.head_norm == "none" or "norm" not in given
    known.setdefault("head_norm", found.head_norm if as_found else given["norm"])
    if known["head_norm"] == "frozen" and found.head_norm in {"none", "group"}:
        raise UserError(_FROZEN_HEADS)
    chosen = settings if isinstance(settings, DetectionSettings) else found.settings
    return DetectorSpec(found.kind, found.net or net.spec, settings=chosen, **known)


def detector_card(
    model: Detector,
    classes: Sequence[object] | None = None,
    metrics: Mapping[str, float] | None = None,
    data: Mapping[str, Any] | None = None,
) -> ModelCard:
    """What a checkpoint of a detector says of itself.

    Args:
        model: the detector.
        classes: names of the classes in the order of the labels from 1; their numbers if not given.
        metrics: what was measured on it.
        data: where it was trained, as in `ModelCard`.

    Raises UserError if the names are not as many as the classes.
    """
    spec = model.spec
    numbered = (f"class {number}" for number in range(1, spec.classes + 1))
    names = tuple(map(str, numbered if classes is None else classes))
    if len(names) != spec.classes:
        raise UserError(f"{len(names)} names for {spec.classes} classes of objects; give as many.")
    own: dict[str, Any] = {"head_is_new": model.head_is_new, "detector": spec}
    return make_card(DETECTOR, spec, model.preprocessing, names, metrics, data, **own)


def save_detector(
    model: nn.Module,
    path: str | Path,
    classes: Sequence[object] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> ModelCard:
    """Write a detector as a checkpoint, which `load_detector` takes, and return its card.

    ``classes`` and ``metrics`` are those of `detector_card`.
    Raises UserError if nobody could load the file, or it cannot be written.
    """
    detector: Detector = unwrap(model, Detector, "a detector of create_detector")
    card = detector_card(detector, classes, metrics)
    return save_built(detector, Path(path), card, build_from_card)


def load_detector(path: str | Path) -> tuple[Detector, ModelCard]:
    """The detector of a checkpoint in evaluation mode, and its card.

    Raises UserError if the file is not a detector's checkpoint.
    """
    return load_built(Path(path), DETECTOR, build_from_card)


def build_from_card(card: ModelCard) -> Detector:
    """An untrained detector of the form that a card describes.

    Raises UserError if there is none.
    """
    spec = card.detector
    assert spec is not None
    return build_as_said(spec.kind, lambda: build_detector(spec, card.preprocessing))
