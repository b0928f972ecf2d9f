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
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from resnestkit.data.jpeg import decode_plain_jpeg
from resnestkit.errors import UserError

IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("apng", "avif", "bmp", "dib", "gif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)


class UnreadableImage(UserError):  # noqa: N818  (it names the image, not the error)
    """An image that cannot be read, and why, in words."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


def is_image_file(path: Path) -> bool:
    """Whether a path has the ending of an image that can be read."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def read_image(path: Path, channels: int = 3) -> UInt8[Tensor, "c h w"]:
    """Decode a file to uint8, RGB for 3 channels or grey for 1.

    Raises UnreadableImage for a missing, empty, truncated or foreign file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableImage(str(path), error.strerror or str(error)) from error
    return decode_image(content, str(path), channels)


def decode_image(content: bytes, name: str, channels: int = 3) -> UInt8[Tensor, "c h w"]:
    """As `read_image`, from the bytes of a file. ``name`` is for the message only."""
    if not content:
        raise UnreadableImage(name, "the file is empty")
    plain = decode_plain_jpeg(content, channels)
    return _decode_by_pillow(content, name, channels) if plain is None else plain


def _decode_by_pillow(content: bytes, name: str, channels: int) -> UInt8[Tensor, "c h w"]:
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(content)) as opened:
            ImageOps.exif_transpose(opened, in_place=True)
            image = _to_eight_bits(opened)
            array = np.array(image if image.mode == mode else image.convert(mode))
    except UnidentifiedImageError as error:
        raise UnreadableImage(name, "not an image") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(name, "too many pixels to be safe") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        # Pillow raises all of these for damaged files; none of them is our caller's mistake.
        raise UnreadableImage(name, f"damaged or truncated ({error})") from error
    pixels = torch.from_numpy(array)
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep and float grey to 8 bits; Pillow's own conversion clips them to white.

    A 16-bit file says its range. Wider ones do not: theirs is the smallest usual one that fits.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    ranges = [65535.0] if image.mode.startswith("I;16") else [255.0, 65535.0, 2.0**31 - 1]
    if image.mode == "F":
        ranges.insert(0, 1.0)
    largest = next((top for top in ranges if values.max(initial=0.0) <= top), ranges[-1])
    return Image.fromarray(np.clip(values / largest * 255.0 + 0.5, 0, 255).astype(np.uint8))


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
