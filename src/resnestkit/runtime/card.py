"""What an exported model says of itself: one record, which lies inside its file.

With it a runtime needs no side knowledge: how images are prepared, what the outputs mean, which
shapes are taken, and what was measured when the file was checked. Imports without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from resnestkit.errors import UserError
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.containers import read_text, write_text
from resnestkit.values import check_fields, take_fields

Format = Literal["onnx", "openvino", "torch", "aot"]
"""ONNX; OpenVINO's .xml with its .bin; a program of torch.export; the same, compiled by AOTInductor
for the machine that made it."""
Precision = Literal["float32", "bfloat16", "int8"]

IMAGES = "images"
"""Name of the one input."""
LOGITS = "logits"
"""Name of the output of a classifier or a segmenter."""


@dataclass(frozen=True, slots=True)
class InputForm:
    """Which images a file takes: float32 (batch, channels, height, width), normalised."""

    channels: int
    height: int
    """The size it was made for; the only one unless it is ``dynamic``."""
    width: int
    batch: int | None = None
    """The only number of images it takes at a time; None is any."""
    dynamic: bool = True
    """Whether it takes other heights and widths."""
    least_side: int = 1
    """Of these, the smallest."""
    multiple: int = 1
    """Of these, sides are multiples of this."""


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison of a file, in its runtime, with the model it was made of, in PyTorch."""

    batch: int
    height: int
    width: int
    difference: float
    """The largest difference of two outputs, as a share of the largest output."""
    agreement: float
    """Share of equal decisions: of images, or of pixels; 1 where features have none."""
    torch_ms: float
    """Milliseconds per image of the PyTorch model, as it was trained, without torch.compile."""
    runtime_ms: float
    """Milliseconds per image of the file."""


@dataclass(frozen=True, slots=True)
class DeployCard:
    """What a file holds, and how to feed it."""

    kind: Literal["classifier", "segmenter", "backbone"]
    """What the model does; a "backbone" gives features alone."""
    net: str
    """Name in the table of nets."""
    classes: tuple[str, ...]
    """Names of the classes in the order of the logits; none of a backbone."""
    preprocessing: Preprocessing
    input: InputForm
    outputs: tuple[str, ...]
    """Names: "logits", of (batch, classes) or (batch, classes, height, width); or a backbone's
    stages."""
    format: Format
    precision: Precision = "float32"
    """The lowest in which its weights are."""
    palette: tuple[tuple[int, ...], ...] = ()
    """Red, green and blue of each class from 0 to 255, as a segmenter's data has them, or none."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the task's predictor reads beside: a segmenter's ``test_side``, where it is known."""
    quantised: dict[str, Any] | None = None
    """How it was quantised, and what that cost; None of a file that was not."""
    quickest: dict[str, str] = field(default_factory=dict)
    """Which precision was measured to be the quickest, by processor."""
    checked: tuple[Check, ...] = ()
    checked_on: str = ""
    """The images of the check, in words."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of what made the file, and the machine on which it was checked."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DeployCard:
        """The inverse of `to_json`. Raises ValueError, which says what is wrong with the card."""
        known = take_fields(_mapping(json.loads(text), "the card"), "", cls)
        for name, kind in (("preprocessing", Preprocessing), ("input", InputForm)):
            known[name] = _read(known[name], name, kind)
        checks = known.get("checked", ())
        known["checked"] = tuple(_read(row, "checked", Check) for row in checks)
        known["palette"] = tuple(tuple(colour) for colour in known.get("palette", ()))
        card = cls(**known)
        check_fields(card, "")
        return card


def read_card(path: str | Path) -> DeployCard:
    """The card of an exported file, without what else it holds.

    Raises UserError if it is missing, damaged, of an unknown form, or carries no card of ours.
    """
    text = read_text(Path(path))
    if text is None:
        raise UserError(
            f"{path} says nothing about itself: `resnestkit export` did not write it. Export the "
            "checkpoint again."
        )
    try:
        return DeployCard.from_json(text)
    except (TypeError, ValueError) as error:
        raise UserError(f"The card of {path} {error}.") from error


def write_card(path: str | Path, card: DeployCard) -> None:
    """Put a card into an exported file, in place of one that it may carry.

    Raises UserError if the file cannot be read or written.
    """
    write_text(Path(path), card.to_json())


def _read(values: Any, name: str, kind: type[Any]) -> Any:
    record = kind(**take_fields(_mapping(values, name), f"{name}.", kind))
    check_fields(record, f"{name}.")
    return record


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"says {name} is {value!r}; it must be values by name")
    return value
