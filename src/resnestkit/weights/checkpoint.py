"""Typed checkpoints: a safetensors file whose header says what the weights are.

The header's metadata holds one JSON object under the key ``resnestkit``, the `ModelCard`. It is
all that evaluation, prediction and export need beside the images. Files are written to a
temporary name and moved into place, so that a crash leaves the old file or the new one, whole.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from resnestkit.errors import UserError
from resnestkit.weights.card import (
    BACKBONE,
    CLASSIFIER,
    DETECTOR,
    PANOPTIC,
    SEGMENTER,
    TRAINING_STATE,
    ModelCard,
)
from resnestkit.weights.tensors import (
    KEY,
    check_finite,
    is_file,
    read_metadata,
    read_safetensors,
    separate,
    tidy_counters,
)

__all__ = [
    "BACKBONE",
    "CLASSIFIER",
    "DETECTOR",
    "PANOPTIC",
    "SEGMENTER",
    "TRAINING_STATE",
    "ModelCard",
    "current_versions",
    "load_checkpoint",
    "load_tensors",
    "read_card",
    "read_kind",
    "save_tensors",
    "write_whole",
]

_NAMES = {PANOPTIC: "panoptic net"}
"""What a kind is called where its own word is no noun."""
_BESIDE = "The model is in best.safetensors or last.safetensors beside it."


def current_versions() -> dict[str, str]:
    """Versions that write a checkpoint or a run."""
    packages = ("resnestkit", "torch", "torchvision")
    versions = {package: importlib.metadata.version(package) for package in packages}
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return versions | {"python": platform.python_version(), "machine": machine}


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any] | None = None
) -> None:
    """Write tensors, and metadata of ours if there is any, to a file, whole or not at all.

    Raises UserError if the folder cannot be written or the disk is full.
    """
    plain = separate({name: tensor.detach().cpu() for name, tensor in tensors.items()})
    write_whole(path, save(plain, {KEY: json.dumps(metadata)} if metadata else None))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and move it into place.

    Raises UserError if that fails; what was there before stays.
    """
    temporary = path.parent / f".{path.name}.part"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot write {path}: {reason}.") from error


def load_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a file that this package wrote.

    Raises UserError if the file is missing, damaged, or another's.
    """
    if not is_file(path):
        raise UserError(f"There is no checkpoint {path}.")
    metadata, tensors = read_safetensors(path)
    if "kind" not in metadata:
        raise UserError(
            f"{path} holds weights, but nothing that says what they are. Give a checkpoint that "
            "`resnestkit train` wrote."
        )
    return metadata, tensors


def read_card(path: Path) -> ModelCard | None:
    """The card of a checkpoint of this package, without its tensors; None of any other file.

    Raises UserError if it is a training state, or the card is damaged or newer than this package.
    """
    metadata = read_metadata(path)
    if metadata.get("kind") == TRAINING_STATE:
        raise UserError(f"{path} holds a {TRAINING_STATE}, not a model alone. {_BESIDE}")
    return _parse_card(path, metadata) if "kind" in metadata else None


def read_kind(path: Path) -> str:
    """What a checkpoint of this package says it is; "" of any other file."""
    return str(read_metadata(path).get("kind", ""))


def load_checkpoint(path: Path, kind: str = CLASSIFIER) -> tuple[ModelCard, dict[str, Tensor]]:
    """Card and weights of a model.

    Raises UserError if the file is not a checkpoint, of another kind than asked for, or damaged.
    """
    metadata, tensors = load_tensors(path)
    if metadata["kind"] != kind:
        hints = {
            TRAINING_STATE: f" {_BESIDE}",
            BACKBONE: " It has no classifier: train one on it by --weights.",
            DETECTOR: " It finds objects in images: load_detector reads it.",
            SEGMENTER: " It tells the class of every pixel: load_segmenter reads it.",
            PANOPTIC: " It tells the thing or stuff of every pixel: load_panoptic reads it.",
        }
        hint = hints.get(str(metadata["kind"]), "")
        held, needed = (_NAMES.get(one, one) for one in (str(metadata["kind"]), kind))
        raise UserError(f"{path} holds a {held}; a {needed} is needed here.{hint}")
    card = _parse_card(path, metadata)
    check_finite(path, tensors)
    return card, tidy_counters(tensors)


def _parse_card(path: Path, metadata: dict[str, Any]) -> ModelCard:
    try:
        return ModelCard.from_dict(metadata)
    except ValueError as error:
        raise UserError(f"The card of {path} {error}.") from error
