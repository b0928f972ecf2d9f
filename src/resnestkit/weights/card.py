"""What a checkpoint says of itself: one record, and the check of one that a file holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from resnestkit.detection.spec import DetectionSettings, DetectorSpec
from resnestkit.models.spec import (
    OUTPUT_STRIDES,
    InceptionSpec,
    NetSpec,
    NormPolicy,
    SelectiveKernelSpec,
    Spec,
    spec_from_dict,
)
from resnestkit.panoptic.spec import PanopticSettings, PanopticSpec
from resnestkit.preprocessing import Preprocessing
from resnestkit.segmentation.spec import SegmentationSettings, SegmenterSpec
from resnestkit.values import check_fields, take_fields

CLASSIFIER = "classifier"
BACKBONE = "backbone"
DETECTOR = "detector"
SEGMENTER = "segmenter"
PANOPTIC = "panoptic"
TRAINING_STATE = "training-state"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a checkpoint's weights are, and how to feed them."""

    kind: str
    """What the model does: "classifier", "backbone" for features alone, "detector", "segmenter",
    "panoptic"."""
    net: str
    """Name in the table of nets, for people; `spec` is what counts."""
    spec: Spec
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits; a detector's, in that of labels from 1."""
    preprocessing: Preprocessing
    norm: NormPolicy = "batch"
    output_stride: int = 32
    head_is_new: bool = False
    """Whether the classifier was never trained; such a model is not used to predict."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What was measured when the checkpoint was written, on its own validation images."""
    data: dict[str, Any] = field(default_factory=dict)
    """Where the weights were trained: origin, fingerprint, held-out share and seed."""
    versions: dict[str, str] = field(default_factory=dict)
    detector: DetectorSpec | None = None
    """What is built on the net, whose spec and norm it repeats; None of a net alone."""
    segmenter: SegmenterSpec | None = None
    """The same of a segmenter, which repeats the output stride too."""
    panoptic: PanopticSpec | None = None
    """The same of a panoptic net."""
    palette: tuple[tuple[int, ...], ...] = ()
    """Red, green and blue of each class from 0 to 255, as the data with masks has them, or none."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        for name in ("detector", "segmenter", "panoptic", "palette"):
            if not values[name]:
                del values[name]  # so that versions that do not know it read the others
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelCard:
        """The inverse of `to_dict`. Raises ValueError, which says what is wrong with the card."""
        known = take_fields(values, "", cls)
        spec = _known_spec(known["spec"], "spec")
        found = known.get("detector")
        detector = None if found is None else _known_detector(found)
        found = known.get("segmenter")
        segmenter = None if found is None else _known_segmenter(found)
        found = known.get("panoptic")
        panoptic = None if found is None else _known_panoptic(found)
        images = take_fields(
            _mapping(known["preprocessing"], "preprocessing"), "preprocessing.", Preprocessing
        )
        try:
            known["spec"] = spec_from_dict(dict(spec))
            known["preprocessing"] = Preprocessing(**images)
            known["detector"] = DetectorSpec.from_dict(detector) if detector else None
            known["segmenter"] = SegmenterSpec.from_dict(segmenter) if segmenter else None
            known["panoptic"] = PanopticSpec.from_dict(panoptic) if panoptic else None
            known["palette"] = tuple(tuple(colour) for colour in known.get("palette", ()))
            card = cls(**known)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"describes no net ({error})") from error
        _check(card)
        return card


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"says {name} is {value!r}; it must be values by name")
    return value


def _known_spec(value: Any, name: str) -> Mapping[str, Any]:
    """A net's spec, its fields known."""
    spec = _mapping(value, name)
    take_fields(spec, f"{name}.", InceptionSpec if "form" in spec else NetSpec)
    if spec.get("sk") is not None:
        take_fields(_mapping(spec["sk"], f"{name}.sk"), f"{name}.sk.", SelectiveKernelSpec)
    return spec


def _known_detector(value: Any, name: str = "detector") -> Mapping[str, Any]:
    """A detector's spec, its fields known."""
    return _known_model(value, name, DetectorSpec, DetectionSettings)


def _known_segmenter(value: Any) -> Mapping[str, Any]:
    """A segmenter's spec, its fields known."""
    return _known_model(value, "segmenter", SegmenterSpec, SegmentationSettings)


def _known_panoptic(value: Any) -> Mapping[str, Any]:
    """A panoptic net's spec, its fields known."""
    spec = take_fields(_mapping(value, "panoptic"), "panoptic.", PanopticSpec)
    _known_detector(spec["detector"], "panoptic.detector")
    chosen = _mapping(spec.get("settings", {}), "panoptic.settings")
    take_fields(chosen, "panoptic.settings.", PanopticSettings)
    return spec


def _known_model(value: Any, name: str, kind: type[Any], settings: type[Any]) -> Mapping[str, Any]:
    """The spec of a model on a net, its fields known."""
    spec = take_fields(_mapping(value, name), f"{name}.", kind)
    _known_spec(spec["net"], f"{name}.net")
    chosen = _mapping(spec.get("settings", {}), f"{name}.settings")
    take_fields(chosen, f"{name}.settings.", settings)
    return spec


def _check(card: ModelCard) -> None:
    """Raise ValueError for what no net can be built from or no image be fed by."""
    check_fields(card, "")
    check_fields(card.preprocessing, "preprocessing.")
    check_fields(card.spec, "spec.")
    for prefix, model in _models(card):
        check_fields(model, prefix)
        check_fields(model.settings, f"{prefix}settings.")
    images = card.preprocessing
    for name, holds in (
        ("kind", card.kind == _expected_kind(card)),
        ("detector", card.detector is None or _fits(card.detector, card)),
        ("segmenter", card.segmenter is None or _fits_alone(card.segmenter, card)),
        ("panoptic", card.panoptic is None or _fits(card.panoptic, card)),
        ("kind", sum(map(bool, (card.detector, card.segmenter, card.panoptic))) <= 1),
        ("palette", len(card.palette) in {0, len(card.classes)}),
        ("palette", all(len(colour) == 3 for colour in card.palette)),
        ("palette", all(0 <= value <= 255 for colour in card.palette for value in colour)),
        ("output_stride", card.output_stride in OUTPUT_STRIDES),
        ("preprocessing.size", images.size >= 1),
        ("preprocessing.crop_ratio", 0 < images.crop_ratio <= 1),
        ("preprocessing.mean", images.mean and all(map(math.isfinite, images.mean))),
        ("preprocessing.std", len(images.std) == len(images.mean)),
        ("preprocessing.std", all(0 < value < math.inf for value in images.std)),
        ("spec", _is_buildable(card.spec)),
    ):
        if not holds:
            raise ValueError(f"has a {name} of {_look_up(card, name)!r}, which makes no sense")


def _models(
    card: ModelCard,
) -> Iterator[tuple[str, DetectorSpec | SegmenterSpec | PanopticSpec]]:
    """What is built on the net, and what that is built of, by where it stands in the card."""
    if card.detector:
        yield "detector.", card.detector
    if card.segmenter:
        yield "segmenter.", card.segmenter
    if card.panoptic:
        yield "panoptic.", card.panoptic
        yield "panoptic.detector.", card.panoptic.detector


def _expected_kind(card: ModelCard) -> str:
    if card.detector:
        return DETECTOR
    if card.segmenter:
        return SEGMENTER
    if card.panoptic:
        return PANOPTIC
    return CLASSIFIER if card.classes else BACKBONE


def _fits(model: DetectorSpec | SegmenterSpec | PanopticSpec, card: ModelCard) -> bool:
    """Whether a model on a net repeats what its card says of the net and of the classes."""
    return (model.net, model.norm, model.classes) == (card.spec, card.norm, len(card.classes))


def _fits_alone(segmenter: SegmenterSpec, card: ModelCard) -> bool:
    """Whether a segmenter repeats what its card says, the output stride too, and is alone."""
    strides = segmenter.output_stride == card.output_stride
    return _fits(segmenter, card) and strides and card.detector is None


def _is_buildable(spec: Spec) -> bool:
    if isinstance(spec, InceptionSpec):
        return spec.se_reduction >= 0
    counts = (*spec.layers, *spec.widths, spec.stem_width, spec.cardinality, spec.base_width)
    return (
        0 < len(spec.layers) < 10
        and all(0 < count < 2**16 for count in counts)
        and sum(spec.layers) < 10_000
    )


def _look_up(card: ModelCard, name: str) -> Any:
    value: Any = card
    for part in name.split("."):
        value = getattr(value, part)
    return value
