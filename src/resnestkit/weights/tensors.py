"""Tensors in a file and out of it: what every reader and writer of weights here agrees on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from resnestkit.errors import UserError

KEY = "resnestkit"
"""Where the metadata of a safetensors file holds ours, as JSON."""

COUNTER = "num_batches_tracked"
"""Norms of some codes do not count batches; nothing that a net computes depends on it."""

_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_GROWTH = 4
"""Tensors may share memory in a file; so many times its size they may have without sharing."""


def is_file(path: Path) -> bool:
    """Whether there is such a file. Raises UserError if that cannot be told."""
    try:
        return path.is_file()
    except OSError as error:
        raise UserError(f"Cannot look at {path}: {error.strerror}.") from error


def read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What this package says in the header (nothing of another's file), and the tensors.

    The tensors are copies, not maps of the file: who overwrites the file leaves a loaded net alone.
    Raises UserError if the file is damaged, unreadable, or no safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return _parse(file.metadata()), tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a checkpoint: it is not a whole safetensors file ({error})."
        ) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """What this package says in a file's header, without its tensors; nothing of any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            return _parse(file.metadata())
    except (SafetensorError, OSError, ValueError):
        return {}


def _parse(header: dict[str, str] | None) -> dict[str, Any]:
    metadata = json.loads((header or {}).get(KEY, "null"))
    return metadata if isinstance(metadata, dict) else {}


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values in memory of their own, each contiguous, without gradients."""
    taken: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        taken.add(plain.untyped_storage().data_ptr())
        found[name] = plain
    return found


def check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for tensors without values of their own, or of more than the file holds."""
    for name, tensor in tensors.items():
        if tensor.is_quantized or tensor.is_nested or tensor.layout != torch.strided:
            raise UserError(f"{path} holds a quantised, sparse or nested tensor, {name}.")
        if tensor.is_meta:
            raise UserError(f"{path} holds shapes without values, in {name}.")
    size = path.stat().st_size
    if sum(tensor.nbytes for tensor in tensors.values()) > max(_GROWTH * size, 2**26):
        raise UserError(f"{path} unpacks to more than it holds; it was not read.")


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for values that are no numbers."""
    for name, tensor in tensors.items():
        if tensor.dtype in _NUMBERS and not _is_finite(tensor):
            raise UserError(f"{path} holds values that are no numbers, in {name}; it is damaged.")


def check_types(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for weights that are integers, truth values, complex or packed numbers."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _NUMBERS and not name.endswith(COUNTER):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{path} holds {name} as {kind}; weights are floating-point numbers.")


def tidy_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Counters of batches as torch has them, a number each; those that are none are left out."""
    return {
        name: tensor.reshape(()).to(torch.int64) if name.endswith(COUNTER) else tensor
        for name, tensor in tensors.items()
        if not name.endswith(COUNTER) or (tensor.numel() == 1 and not tensor.is_complex())
    }


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are numbers. Their sum tells, nearly always, in a fraction of the time."""
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())
