"""What a checkpoint says of itself: one record, and the check of one that a file holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_type_hints

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
from resnestkit.preprocessing import Preprocessing
from resnestkit.values import describe_type, is_a

CLASSIFIER = "classifier"
BACKBONE = "backbone"
DETECTOR = "detector"
TRAINING_STATE = "training-state"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a checkpoint's weights are, and how to feed them."""

    kind: str
    """What the model does: "classifier", "backbone" for features alone, or "detector"."""
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        if self.detector is None:
            del values["detector"]  # so that versions that know no detectors read the others
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelCard:
        """The inverse of `to_dict`. Raises ValueError, which says what is wrong with the card."""
        known = _known(values, "", cls)
        spec = _known_spec(known["spec"], "spec")
        found = known.get("detector")
        detector = None if found is None else _known_detector(found)
        images = _known(
            _mapping(known["preprocessing"], "preprocessing"), "preprocessing.", Preprocessing
        )
        try:
            known["spec"] = spec_from_dict(dict(spec))
            known["preprocessing"] = Preprocessing(**images)
            known["detector"] = DetectorSpec.from_dict(detector) if detector else None
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
    _known(spec, f"{name}.", InceptionSpec if "form" in spec else NetSpec)
    if spec.get("sk") is not None:
        _known(_mapping(spec["sk"], f"{name}.sk"), f"{name}.sk.", SelectiveKernelSpec)
    return spec


def _known_detector(value: Any) -> Mapping[str, Any]:
    """A detector's spec, its fields known."""
    spec = _known(_mapping(value, "detector"), "detector.", DetectorSpec)
    _known_spec(spec["net"], "detector.net")
    settings = _mapping(spec.get("settings", {}), "detector.settings")
    _known(settings, "detector.settings.", DetectionSettings)
    return spec


def _known(values: Mapping[str, Any], prefix: str, kind: type[Any]) -> dict[str, Any]:
    """The values, lists as tuples. Raises ValueError if a field is unknown or lacking."""
    names = {entry.name for entry in fields(kind)}
    for name in values:
        if name not in names:
            raise ValueError(
                f"has a field {prefix}{name} that is unknown here: it was written by a newer "
                "version of resnestkit"
            )
    for entry in fields(kind):
        lacks_default = entry.default is MISSING and entry.default_factory is MISSING
        if lacks_default and entry.name not in values:
            raise ValueError(f"is incomplete: it lacks {prefix}{entry.name}")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def _check(card: ModelCard) -> None:
    """Raise ValueError for what no net can be built from or no image be fed by."""
    _check_types(card, "")
    _check_types(card.preprocessing, "preprocessing.")
    _check_types(card.spec, "spec.")
    if card.detector:
        _check_types(card.detector, "detector.")
        _check_types(card.detector.settings, "detector.settings.")
    images = card.preprocessing
    for name, holds in (
        ("kind", card.kind == _expected_kind(card)),
        ("detector", card.detector is None or _fits(card.detector, card)),
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


def _expected_kind(card: ModelCard) -> str:
    if card.detector:
        return DETECTOR
    return CLASSIFIER if card.classes else BACKBONE


def _fits(detector: DetectorSpec, card: ModelCard) -> bool:
    """Whether a detector repeats what its card says of the net and of the classes."""
    return (detector.net, detector.norm, detector.classes) == (
        card.spec,
        card.norm,
        len(card.classes),
    )


def _check_types(record: Any, prefix: str) -> None:
    for name, kind in get_type_hints(type(record)).items():
        value = getattr(record, name)
        if not is_a(value, kind):
            raise ValueError(f"says {prefix}{name} is {value!r}; it must be {describe_type(kind)}")


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
