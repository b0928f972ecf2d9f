"""Images read without surprises: whatever the file holds becomes uint8 RGB or grey.

CMYK, 16-bit, grey, palette, transparent, rotated (EXIF) and animated images are read; of an
animation, the first frame. A file that cannot be read ends in one sentence. Colour lies in memory
pixel by pixel (torch's channels_last), as decoders give it and as resizing is quickest.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from resnestkit.data.decoding import (
    UnreadableImage,
    check_content,
    explain_damage,
    load_by_pillow,
    measure_image,
    open_header,
    read_content,
)
from resnestkit.data.jpeg import decode_plain_jpeg

__all__ = [
    "FileImages",
    "ImageSet",
    "ImageStats",
    "MemoryImages",
    "UnreadableImage",
    "decode_image",
    "explain_damage",
    "load_by_pillow",
    "measure_image",
    "open_header",
    "read_image",
]


def read_image(path: Path, channels: int = 3) -> UInt8[Tensor, "c h w"]:
    """Decode a file to uint8, RGB for 3 channels or grey for 1.

    Raises UnreadableImage for a missing, empty, truncated or foreign file.
    """
    return decode_image(read_content(path), str(path), channels)


def decode_image(content: bytes, name: str, channels: int = 3) -> UInt8[Tensor, "c h w"]:
    """As `read_image`, from the bytes of a file. ``name`` is for the message only."""
    check_content(content, name)
    plain = decode_plain_jpeg(content, channels)
    return _decode_by_pillow(content, name, channels) if plain is None else plain


def _decode_by_pillow(content: bytes, name: str, channels: int) -> UInt8[Tensor, "c h w"]:
    pixels = torch.from_numpy(np.array(load_by_pillow(io.BytesIO(content), name, channels)))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)


@dataclass(frozen=True, slots=True)
class ImageStats:
    """What reading all images told: their sizes in pixels."""

    count: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    median_side: int
    """Median of the short sides."""


class ImageSet(ABC):
    """Labelled images by index. ``names`` are for people: a path, or a word and a number."""

    labels: list[int]
    names: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> UInt8[Tensor, "c h w"]:
        """The image, decoded. Raises UnreadableImage."""

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> ImageSet:
        """The images at these indices, in this order."""


class FileImages(ImageSet):
    """Images in files, decoded each time they are read."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], channels: int = 3) -> None:
        self.paths, self.labels, self.channels = list(paths), list(labels), channels
        self.names = [str(path) for path in paths]

    def read(self, index: int) -> UInt8[Tensor, "c h w"]:
        """Decode the file."""
        return read_image(self.paths[index], self.channels)

    def subset(self, indices: Sequence[int]) -> FileImages:
        """Fewer files."""
        paths = [self.paths[i] for i in indices]
        return FileImages(paths, [self.labels[i] for i in indices], self.channels)


class MemoryImages(ImageSet):
    """Images decoded already."""

    def __init__(
        self, images: Sequence[Tensor], labels: Sequence[int], names: Sequence[str]
    ) -> None:
        self.images, self.labels, self.names = list(images), list(labels), list(names)

    def read(self, index: int) -> UInt8[Tensor, "c h w"]:
        """The image."""
        return self.images[index]

    def subset(self, indices: Sequence[int]) -> MemoryImages:
        """Fewer images; the pixels are shared."""
        return MemoryImages(
            [self.images[i] for i in indices],
            [self.labels[i] for i in indices],
            [self.names[i] for i in indices],
        )
