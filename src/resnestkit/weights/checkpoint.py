"""Typed checkpoints: a safetensors file whose header says what the weights are.

The header's metadata holds one JSON object under the key ``resnestkit``, the `ModelCard`. It is
all that evaluation, prediction and export need beside the images. Files are written to a
temporary name and moved into place, so that a crash leaves the old file or the new one, whole.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from resnestkit.errors import UserError
from resnestkit.models.spec import NORM_POLICIES, NormPolicy, Spec, spec_from_dict
from resnestkit.preprocessing import Preprocessing

CLASSIFIER = "classifier"
BACKBONE = "backbone"
TRAINING_STATE = "training-state"

_KEY = "resnestkit"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a checkpoint's weights are, and how to feed them."""

    kind: str
    """What the model does: "classifier", or "backbone" for features alone."""
    net: str
    """Name in the table of nets, for people; `spec` is what counts."""
    spec: Spec
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelCard:
        """The inverse of `to_dict`. Raises KeyError or TypeError if it is not one."""
        known = dict(values)
        known["spec"] = spec_from_dict(known["spec"])
        preprocessing = dict(known["preprocessing"])
        for name in ("mean", "std"):
            preprocessing[name] = tuple(preprocessing[name])
        known["preprocessing"] = Preprocessing(**preprocessing)
        known["classes"] = tuple(known["classes"])
        if known.get("norm", "batch") not in NORM_POLICIES:
            raise ValueError(f"unknown norm {known['norm']!r}")
        return cls(**known)


def current_versions() -> dict[str, str]:
    """Versions that write a checkpoint or a run."""
    packages = ("resnestkit", "torch", "torchvision")
    versions = {package: importlib.metadata.version(package) for package in packages}
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return versions | {"python": platform.python_version(), "machine": machine}


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and metadata to a file, whole or not at all.

    Raises UserError if the folder cannot be written or the disk is full.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(contiguous, {_KEY: json.dumps(metadata)}))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and move it into place."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error


def load_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a file that this package wrote.

    Raises UserError if the file is missing, damaged, or another's.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is not a checkpoint of resnestkit: damaged, or not safetensors ({error})."
        ) from error
    if not isinstance(metadata, dict) or "kind" not in metadata:
        raise UserError(
            f"{path} holds weights, but nothing that says what they are. Give a checkpoint that "
            "`resnestkit train` wrote."
        )
    return metadata, tensors


def read_card(path: Path) -> ModelCard | None:
    """The card of a checkpoint of this package, without its tensors; None of any other file."""
    try:
        return ModelCard.from_dict(_read_metadata(path))
    except (KeyError, TypeError, ValueError):
        return None


def read_kind(path: Path) -> str:
    """What a checkpoint of this package says it is; "" of any other file."""
    return str(_read_metadata(path).get("kind", ""))


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_KEY, "null"))
    except (SafetensorError, OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def load_checkpoint(path: Path, kind: str = CLASSIFIER) -> tuple[ModelCard, dict[str, Tensor]]:
    """Card and weights of a model.

    Raises UserError if the file is not a checkpoint, or of another kind than asked for.
    """
    metadata, tensors = load_tensors(path)
    if metadata["kind"] != kind:
        hint = ""
        if metadata["kind"] == TRAINING_STATE:
            hint = " The model is in best.safetensors or last.safetensors beside it."
        elif metadata["kind"] == BACKBONE:
            hint = " It has no classifier: train one on it by --weights."
        raise UserError(f"{path} holds a {metadata['kind']}; a {kind} is needed here.{hint}")
    try:
        return ModelCard.from_dict(metadata), tensors
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The card of {path} is incomplete: {error}.") from error
