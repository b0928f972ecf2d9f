"""Tar shards (the WebDataset convention) read at random: a shard is indexed once, then a file.

A shard holds samples as neighbours of one key: ``0017.jpg`` with ``0017.cls`` (a class by number or
name) or ``0017.json`` (its "label"). Streamed, shards can only be shuffled nearby and shared out
whole; with the offset of every image known, they are an `ImageSet` like any other: shuffled as a
whole, cut evenly between ranks and workers, resumed midway. The index is kept beside the shard.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from resnestkit.data.files import IMAGE_SUFFIXES
from resnestkit.data.images import ImageSet, UnreadableImage, decode_image
from resnestkit.errors import UserError

_INDEX_VERSION = 1
_LABELS = frozenset({".cls", ".json"})


class Entry(NamedTuple):
    """An image of a shard: its member's name, where its bytes are, its class as it is written."""

    name: str
    offset: int
    size: int
    label: str


@dataclass(slots=True)
class _Sample:
    image: tarfile.TarInfo | None = None
    label: str | None = None


def index_shard(shard: Path) -> list[Entry]:
    """All images of a shard, in its order; from the index beside it, if that is of this shard.

    Raises UserError, naming the shard, if it is cut short, is no plain tar, or lacks labels.
    """
    try:
        stat = shard.stat()
        known = {"version": _INDEX_VERSION, "size": stat.st_size, "time": stat.st_mtime_ns}
        kept = shard.with_name(f".{shard.name}.index.json")
        entries = _read_index(kept, known)
        if entries is None:
            entries = _collect(shard)
            _write_index(kept, known, entries)
    except OSError as error:
        raise UserError(f"Cannot read {shard}: {error.strerror or error}.") from error
    return entries


def _read_index(kept: Path, known: dict[str, int]) -> list[Entry] | None:
    try:
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        entries = [Entry(*entry) for entry in found.pop("entries")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return entries if found == known else None


def _write_index(kept: Path, known: dict[str, int], entries: list[Entry]) -> None:
    """Leave the index for the next time, whole or not at all; a folder may be read-only."""
    beside = kept.with_name(f"{kept.name}.{os.getpid()}")
    with suppress(OSError, UnicodeError):
        beside.write_text(json.dumps({**known, "entries": entries}), encoding="utf-8")
        beside.replace(kept)


def _collect(shard: Path) -> list[Entry]:
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isfile():
                    _add(samples, member, archive, shard)
            _check_end(shard, archive.offset)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{shard} is cut short or is not a plain tar file ({error}).") from error
    return [_entry(key, sample, shard) for key, sample in samples.items() if sample.image]


def _add(
    samples: dict[str, _Sample], member: tarfile.TarInfo, archive: tarfile.TarFile, shard: Path
) -> None:
    """Note what a member is to its sample: the image, its label, or nothing that is needed."""
    path = PurePosixPath(member.name)
    stem, dot, ending = path.name.partition(".")
    suffix = f"{dot}{ending.lower()}"
    if not stem or suffix not in IMAGE_SUFFIXES | _LABELS:
        return
    sample = samples.setdefault(str(path.with_name(stem)), _Sample())
    if suffix in _LABELS:
        told = _read_label(archive, member, suffix, shard)
        if suffix == ".cls" or sample.label is None:
            sample.label = told
        return
    if sample.image is not None:
        raise UserError(f"{shard} has two images of key {path.with_name(stem)}; keys are for one.")
    sample.image = member


def _read_label(
    archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, shard: Path
) -> str | None:
    content = archive.extractfile(member)
    assert content is not None, "files have a content"
    raw = content.read()
    if len(raw) != member.size:
        raise UserError(f"{shard} is cut short in {member.name}.")
    try:
        text = raw.decode("utf-8").strip()
        told = text if suffix == ".cls" else json.loads(text).get("label")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{shard} has no readable label in {member.name}.") from error
    return None if told is None else str(told)


def _entry(key: str, sample: _Sample, shard: Path) -> Entry:
    assert sample.image is not None, "asked for by the caller"
    if not sample.label:
        raise UserError(f"{shard} has an image {key} without its class ({key}.cls or .json).")
    return Entry(sample.image.name, sample.image.offset_data, sample.image.size, sample.label)


def _check_end(shard: Path, end: int) -> None:
    """After the last member a tar has zeros, and nothing else: else it was cut, or grew."""
    with shard.open("rb") as file:
        file.seek(end)
        rest = file.read(tarfile.BLOCKSIZE)
        if len(rest) < tarfile.BLOCKSIZE:
            raise UserError(f"{shard} is cut short: it has no end marker. Copy it again.")
        while rest:
            if rest.strip(b"\0"):
                raise UserError(f"{shard} is damaged, or is several tar files in one, at {end}.")
            rest = file.read(2**20)


class ShardImages(ImageSet):
    """Images in tar files, each read from its place when it is asked for.

    The file is opened for each, which costs little beside decoding: there is nothing that threads
    or forked processes could share wrongly.
    """

    def __init__(
        self, shards: Sequence[Path], indices: Sequence[Sequence[Entry]], channels: int = 3
    ) -> None:
        pairs = list(zip(shards, indices, strict=True))
        self.shards, self.channels = list(shards), channels
        numbered = [(n, e.offset, e.size) for n, (_, es) in enumerate(pairs) for e in es]
        self.places = np.array(numbered, dtype=np.int64).reshape(-1, 3)
        self.names = [f"{shard}/{entry.name}" for shard, entries in pairs for entry in entries]
        self.labels = [0] * len(self.names)

    def read(self, index: int) -> UInt8[Tensor, "c h w"]:
        """Read the image's bytes and decode them."""
        number, offset, size = self.places[index].tolist()
        try:
            with self.shards[number].open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise UnreadableImage(self.names[index], error.strerror or str(error)) from error
        if len(content) < size:
            raise UnreadableImage(self.names[index], "the shard ends before it")
        return decode_image(content, self.names[index], self.channels)

    def subset(self, indices: Sequence[int]) -> ShardImages:
        """Fewer images of the same shards."""
        fewer = ShardImages([], [], self.channels)
        fewer.shards, fewer.places = self.shards, self.places[list(indices)]
        fewer.names = [self.names[i] for i in indices]
        fewer.labels = [self.labels[i] for i in indices]
        return fewer
