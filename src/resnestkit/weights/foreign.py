"""Weight files of other codes, read without running or allocating what they ask for.

A ``.pth`` file is a pickle, and a pickle is a program. It is read by torch's restricted reader
(``weights_only=True``) and nothing else, and only after its claims were checked against its size:
a few kilobytes cannot hold a terabyte of weights.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from resnestkit.errors import UserError
from resnestkit.weights.tensors import (
    check_finite,
    check_plain,
    is_file,
    read_safetensors,
    separate,
    tidy_counters,
)

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
"""Keys under which training codes put the weights beside other things."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors, zip or legacy torch file.

    Raises UserError if the file is missing, damaged, dangerous, holds no tensors, or holds values
    that are no numbers.
    """
    if not is_file(path):
        raise UserError(f"There is no file {path}.")
    tensors = read_safetensors(path)[1] if _is_safetensors(path) else _read_torch(path)
    if not tensors:
        raise UserError(f"{path} holds no tensors.")
    check_finite(path, tensors)
    return tidy_counters(tensors)


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of header size, then an opening brace."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{")


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        _check_claims(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise UserError(
            f"{path} holds more than weights, and reading it could run code; it was not read "
            f"({reason})."
        ) from error
    except Exception as error:  # torch names no base class for what damaged files raise
        raise UserError(f"{path} is not a weight file: it is damaged or foreign.") from error
    tensors = _find_tensors(loaded)
    check_plain(path, tensors)
    return separate(tensors)


def _check_claims(path: Path) -> None:
    """Refuse archives that unpack to more than they are, and sizes larger than the file."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _refuse_packed(path, [entry.filename for entry in entries])
            if sum(entry.file_size for entry in entries) > size:
                raise UserError(f"{path} unpacks to more than it holds; it was not read.")
            programs = [e for e in entries if e.filename.endswith(".pkl")]
            streams = [io.BytesIO(archive.read(entry)) for entry in programs]
            _check_numbers(path, streams, size)
        return
    with path.open("rb") as file:
        # A legacy file is several pickles: a magic number, a version, the machine, the weights.
        for _ in range(3):
            for _ in pickletools.genops(file):
                pass
        _check_numbers(path, [file], size)


def _refuse_packed(path: Path, names: Sequence[str]) -> None:
    """Archives of torch hold a data.pkl; those of PyTorch-Encoding hold a file of weights."""
    packed = [name for name in names if name.endswith((".pth", ".pt", ".params"))]
    if packed and not any(name.endswith(".pkl") for name in names):
        raise UserError(f"{path} is an archive; unpack it, and give {packed[0]} of it.")


def _check_numbers(path: Path, streams: Sequence[BinaryIO], size: int) -> None:
    for stream in streams:
        for number in _integers(stream):
            if number > max(size, 2**16):
                raise UserError(
                    f"{path} claims {number:,} values in {size:,} bytes; it was not read."
                )


def _integers(stream: BinaryIO) -> Iterator[int]:
    for _, argument, _ in pickletools.genops(stream):
        if isinstance(argument, int):
            yield argument


def _find_tensors(loaded: Any) -> dict[str, Tensor]:
    """The weights of a loaded object: the object itself, or under one of the usual keys."""
    if not isinstance(loaded, Mapping):
        return {}
    for key in _WRAPPERS:
        if isinstance(loaded.get(key), Mapping):
            return _find_tensors(loaded[key])
    return {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
