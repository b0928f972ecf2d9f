"""Images read by Pillow alone: whatever the file holds becomes 8 bits, RGB or grey.

Imports without torch, so that an exported model needs none to predict. `resnestkit.data.images`
gives the same pixels as tensors.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from resnestkit.errors import UserError

_STRIP = 256
_TURNED = range(5, 9)
"""EXIF orientations that exchange height and width."""
_GUARD = threading.Lock()
"""Held while Pillow's guard, which is the whole process's, is lifted."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may be decoded of strangers' files."""

    formats: tuple[str, ...] | None = None
    """Pillow's names; None is all that it knows."""
    pixels: int | None = None
    """Of one image; None is Pillow's own limit."""


_FREE = Bounds()
_BOUNDS = ContextVar("_BOUNDS", default=_FREE)


class UnreadableImage(UserError):  # noqa: N818  (it names the image, not the error)
    """An image that cannot be read, and why, in words."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


def read_content(path: Path) -> bytes:
    """The bytes of an image's file. Raises UnreadableImage if it is missing."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(str(path), error.strerror or str(error)) from error


def check_content(content: bytes, name: str) -> None:
    """Raise UnreadableImage for an empty file."""
    if not content:
        raise UnreadableImage(name, "the file is empty")


def load_content(content: bytes, name: str, channels: int) -> Image.Image:
    """The image of a file's bytes, RGB for 3 channels or grey for 1.

    Raises UnreadableImage, with ``name``, for an empty, truncated or foreign file.
    """
    check_content(content, name)
    return load_by_pillow(io.BytesIO(content), name, channels)


@contextmanager
def bounded(bounds: Bounds) -> Iterator[None]:
    """Decode nothing beyond these bounds meanwhile, in this thread.

    A file can be of two kinds at once, of which a look at the header sees one and decoding another,
    unless both are told the same kinds.
    """
    before = _BOUNDS.set(bounds)
    try:
        yield
    finally:
        _BOUNDS.reset(before)


def pixel_limit() -> int | None:
    """How many an image may have that is decoded here and now; None is any number."""
    return _BOUNDS.get().pixels or Image.MAX_IMAGE_PIXELS


def load_by_pillow(
    file: Path | BinaryIO, name: str, channels: int, most_pixels: int | None = None
) -> Image.Image:
    """A decoded image of Pillow's, RGB for 3 channels or grey for 1, which no file backs any more.

    ``most_pixels`` is a limit in place of Pillow's, which refuses 179 megapixels and warns of half
    as many. Raises UnreadableImage, with ``name``, as `read_image`.
    """
    mode = "L" if channels == 1 else "RGB"
    bounds = _BOUNDS.get()
    most_pixels = bounds.pixels if most_pixels is None else most_pixels
    with (
        explain_damage(name, most_pixels),
        Image.open(file, formats=bounds.formats)
        if most_pixels is None
        else open_header(file) as opened,
    ):
        if most_pixels is not None and opened.width * opened.height > most_pixels:
            raise Image.DecompressionBombError
        ImageOps.exif_transpose(opened, in_place=True)
        image = _to_eight_bits(opened)
        image.load()
        if image.mode == "LAB":  # which Pillow turns into colours alone
            image = image.convert("RGB")
        return image if image.mode == mode else image.convert(mode)


@contextmanager
def explain_damage(name: str, most_pixels: int | None = None) -> Iterator[None]:
    """Turn what Pillow raises for a file that it cannot read into UnreadableImage."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableImage(name, "not an image") from error
    except Image.DecompressionBombError as error:
        most = f": above --max-megapixels {most_pixels / 1e6:g}" if most_pixels else ""
        raise UnreadableImage(name, f"too many pixels to be safe{most}") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        # Pillow raises all of these for damaged files; none of them is our caller's mistake.
        raise UnreadableImage(name, f"damaged or truncated ({error})") from error


def measure_image(path: Path) -> tuple[int, int]:
    """Height and width from an image's header, as it is read: turned by EXIF; 0 if it cannot be."""
    try:
        with open_header(path) as image:  # its size alone, however large
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0  # it is named when all are read


def open_header(file: Path | BinaryIO) -> Image.Image:
    """An image of any size, not decoded yet: who decodes it looks at its size first.

    Pillow warns of large images, and refuses still larger ones, when it has read no more than this.
    """
    with lift_guard():
        return Image.open(file, formats=_BOUNDS.get().formats)


@contextmanager
def lift_guard() -> Iterator[None]:
    """Let Pillow open or cut images of any size meanwhile: whoever asks has looked at the size."""
    with _GUARD:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep and float grey to 8 bits; Pillow's own conversion clips them to white.

    A 16-bit file says its range. Wider ones do not: theirs is the smallest usual one that fits.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    ranges = [65535.0] if image.mode.startswith("I;16") else [255.0, 65535.0, 2.0**31 - 1]
    if image.mode == "F":
        ranges.insert(0, 1.0)
    highest = np.max([values.max(initial=0.0) for _, values in _strips(image)], initial=0.0)
    largest = next((top for top in ranges if highest <= top), ranges[-1])
    grey = Image.new("L", image.size)
    for top, values in _strips(image):
        scaled = np.clip(values / largest * 255.0 + 0.5, 0, 255).astype(np.uint8)
        grey.paste(Image.fromarray(scaled), (0, top))
    return grey


def _strips(image: Image.Image) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Some rows at a time, as numbers of eight bytes, which a large image's would be too much."""
    for top in range(0, image.height, _STRIP):
        bottom = min(top + _STRIP, image.height)
        yield top, np.asarray(image.crop((0, top, image.width, bottom)), dtype=np.float64)
