"""Panoptic nets by backbone, or from a checkpoint, and back to a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from resnestkit.detection.detector import RegionDetector
from resnestkit.detection.spec import DetectionSettings, HeadNorm
from resnestkit.detectors import (
    check_as_found,
    create_detector,
    given_options,
    spec_as_found,
)
from resnestkit.errors import UserError
from resnestkit.factory import check_frozen, unwrap
from resnestkit.models.spec import NormPolicy
from resnestkit.models.zoo import Net, find_net
from resnestkit.panoptic.network import PanopticNet, build_panoptic
from resnestkit.panoptic.spec import PanopticSettings, PanopticSpec, light_panoptic_settings
from resnestkit.preprocessing import Preprocessing
from resnestkit.saving import (
    build_as_said,
    check_palette,
    load_built,
    make_card,
    number_classes,
    save_built,
)
from resnestkit.weights.checkpoint import DETECTOR, PANOPTIC, ModelCard, read_card
from resnestkit.weights.detector_loading import class_layers
from resnestkit.weights.detectors import find_detector
from resnestkit.weights.foreign import read_weights
from resnestkit.weights.loading import find_weights
from resnestkit.weights.whole import FoundModel, load_whole

__all__ = ["create_panoptic", "load_panoptic", "panoptic_card", "save_panoptic"]

PanopticKind = Literal["mask_rcnn", "cascade_mask_rcnn"]
Settings = Literal["paper", "torchvision", "light"] | DetectionSettings

_DETECTOR, _CLASSIFIER = "detector.", "stuff.classifier."
_BODY = f"{_DETECTOR}backbone.body"


def create_panoptic(
    backbone: str = "resnest50",
    classes: int | None = None,
    things: Collection[int] | None = None,
    weights: str | Path | None = None,
    *,
    kind: PanopticKind = "mask_rcnn",
    settings: Settings | None = None,
    panoptic: PanopticSettings | None = None,
    norm: NormPolicy | None = None,
    head_norm: HeadNorm | None = None,
    frozen_stages: int | None = None,
    min_size: int | Sequence[int] | None = None,
    max_size: int | None = None,
    fpn_channels: int | None = None,
    in_channels: int = 3,
    preprocessing: Preprocessing | None = None,
    partial: bool = False,
) -> PanopticNet:
    """A Panoptic FPN on any net of the table, called as the detectors are.

    Args:
        backbone: such as "resnest50", or another library's name for it.
        classes: things and stuff together, which count from 0. None is as in the file of a whole
            panoptic net, and so are the things.
        things: which of the classes can be counted.
        weights: "imagenet1k" or a file of weights for the backbone, or a file of a whole Mask
            R-CNN, as in `create_detector`; or a panoptic net's checkpoint of ours. With other
            classes the classifiers start anew, and `PanopticNet.head_is_new` says so.
        kind: "mask_rcnn" or "cascade_mask_rcnn": what finds the things.
        settings: the detector's; "light" makes the branch for stuff light too. None is what the
            weights of a whole net were trained with, else "paper".
        panoptic: of the branch for stuff and of the merge; None is as in the file of a whole
            panoptic net, whose channels count in any case, else the paper's, or light ones.
        norm: as in `create_detector`.
        head_norm: as in `create_detector`, and of the branch for stuff; it has group norms where
            the other heads have none, or frozen ones.
        frozen_stages: as in `create_detector`, as are all others.
        min_size: an image's short side in pixels.
        max_size: its long side at most.
        fpn_channels: channels of the pyramid, and of the heads' convolutions.
        in_channels: channels of the image.
        preprocessing: how the backbone wants its images.
        partial: take those weights that fit, leave the rest as drawn, and warn with what was not
            loaded.

    Raises:
        UserError: there is no such net, the classes are not said, the weights are not this net's,
            or random weights would be frozen.
        ValueError: a size, a number or a policy is none of those that there are.
    """
    net = find_net(backbone)
    check_frozen(weights, norm, frozen_stages)
    flags = None if things is None else _flag_things(things, classes)
    path = None if weights is None else find_weights(weights, net.name)
    card = None if path is None else read_card(path)
    sizes = {"min_size": min_size, "max_size": max_size, "fpn_channels": fpn_channels}
    options: dict[str, Any] = {"norm": norm, "head_norm": head_norm, **sizes}
    if path is not None and card is not None and card.panoptic is not None:
        whole = _Whole(path, card, flags or card.panoptic.things)
        images = preprocessing or card.preprocessing
        if images.channels != in_channels:
            raise UserError(
                f"{path} reads images of {images.channels} channels, not {in_channels}."
            )
        model = build_panoptic(whole.spec(kind, net, options, settings, panoptic), images)
        whole.load(model, frozen_stages, partial=partial)
        return model
    if flags is None:
        raise UserError("Say how many classes there are, and which of them are things.")
    detector = create_detector(
        kind,
        net.name,
        sum(flags),
        path,
        settings=settings,
        frozen_stages=frozen_stages,
        in_channels=in_channels,
        preprocessing=preprocessing,
        partial=partial,
        **options,
    )
    assert isinstance(detector, RegionDetector)
    usual = light_panoptic_settings() if settings == "light" else PanopticSettings()
    spec = PanopticSpec(detector.spec, flags, panoptic or usual)
    return build_panoptic(spec, detector=detector)


def _flag_things(things: Collection[int], classes: int | None) -> tuple[bool, ...]:
    """Of each class, whether it is a thing. Raises UserError for things that are no classes."""
    if classes is None:
        raise UserError("Say how many classes there are beside the things.")
    if not all(0 <= one < classes for one in things) or not 0 < len(set(things)) < classes:
        raise UserError(
            f"The things are {sorted(things)} of {classes} classes; they must be some of 0 to "
            f"{classes - 1}, and not all: without stuff, a mask_rcnn finds them."
        )
    return tuple(place in things for place in range(classes))


@dataclass(frozen=True, slots=True)
class _Whole:
    """The checkpoint of a whole panoptic net, and what is asked of it to be things."""

    path: Path
    card: ModelCard
    things: tuple[bool, ...]

    @property
    def known(self) -> PanopticSpec:
        """What it holds."""
        assert self.card.panoptic is not None
        return self.card.panoptic

    def spec(
        self,
        kind: PanopticKind,
        net: Net,
        options: Mapping[str, Any],
        settings: Settings | None,
        panoptic: PanopticSettings | None,
    ) -> PanopticSpec:
        """What to build for its weights: as asked for, else as they are."""
        known, things = self.known, self.things
        if len(things) == len(known.things) and things != known.things:
            raise UserError(f"{self.path} takes other classes for things; take its own.")
        inner = replace(self.card, kind=DETECTOR, detector=known.detector, panoptic=None)
        found = find_detector(self.path, {}, inner)
        assert found is not None
        check_as_found(self.path, found, kind, net, settings)
        given = given_options(sum(things), **options)
        chosen = replace(panoptic or known.settings, channels=known.settings.channels)
        return PanopticSpec(spec_as_found(found, net, given, settings), things, chosen)

    def load(self, model: PanopticNet, frozen_stages: int | None, *, partial: bool) -> None:
        """Load its weights; with other classes the classifiers stay as they were drawn."""
        found = FoundModel(
            kind=PANOPTIC,
            classes=self.known.classes,
            norm=self.known.norm,
            tensors=read_weights(self.path),
            net=self.known.net,
            preprocessing=self.card.preprocessing,
            head_is_new=self.card.head_is_new,
        )
        classes = len(self.things)
        layers = [f"{_DETECTOR}{name}" for name in class_layers(model.detector.state_dict())]
        layers += [name for name in model.state_dict() if name.startswith(_CLASSIFIER)]
        load_whole(model, _BODY, classes, self.path, found, layers, frozen_stages, partial=partial)


def panoptic_card(
    model: PanopticNet,
    classes: Sequence[object] | None = None,
    metrics: Mapping[str, float] | None = None,
    data: Mapping[str, Any] | None = None,
    palette: Sequence[Sequence[int]] = (),
) -> ModelCard:
    """What a checkpoint of a panoptic net says of itself; the arguments are `segmenter_card`'s.

    Raises UserError if the names, or the colours, are not as many as the classes.
    """
    spec = model.spec
    names = number_classes(classes, spec.classes)
    own: dict[str, Any] = {
        "head_is_new": model.head_is_new,
        "panoptic": spec,
        "palette": check_palette(names, palette, spec.classes),
    }
    return make_card(PANOPTIC, spec, model.preprocessing, names, metrics, data, **own)


def save_panoptic(
    model: nn.Module,
    path: str | Path,
    classes: Sequence[object] | None = None,
    metrics: Mapping[str, float] | None = None,
    palette: Sequence[Sequence[int]] = (),
) -> ModelCard:
    """Write a panoptic net as a checkpoint, which `load_panoptic` takes, and return its card.

    ``classes``, ``metrics`` and ``palette`` are those of `panoptic_card`.
    Raises UserError if nobody could load the file, or it cannot be written.
    """
    net: PanopticNet = unwrap(model, PanopticNet, "a panoptic net of create_panoptic")
    card = panoptic_card(net, classes, metrics, palette=palette)
    return save_built(net, Path(path), card, build_from_card)


def load_panoptic(path: str | Path) -> tuple[PanopticNet, ModelCard]:
    """The panoptic net of a checkpoint in evaluation mode, and its card.

    Raises UserError if the file is not a panoptic net's checkpoint.
    """
    return load_built(Path(path), PANOPTIC, build_from_card)


def build_from_card(card: ModelCard) -> PanopticNet:
    """An untrained panoptic net of the form that a card describes.

    Raises UserError if there is none.
    """
    spec = card.panoptic
    assert spec is not None
    return build_as_said("panoptic net", lambda: build_panoptic(spec, card.preprocessing))
