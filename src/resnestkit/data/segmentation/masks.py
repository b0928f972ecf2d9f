"""Masks in files: a class index for every pixel, read as it was written.

Palette images are read as their indices, grey ones as their values, of 16 bits too. Whatever holds
no indices, such as colours or what JPEG made of them, ends in one sentence.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int16, Integer, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from resnestkit.data.decoding import UnreadableImage, explain_damage, open_header
from resnestkit.data.pictures import MOST_MEGAPIXELS
from resnestkit.data.segmentation.legend import UNKNOWN, Legend
from resnestkit.data.segmentation.table import Masks

Indices = Integer[NDArray[np.integer], "h w"]

AS_COLOURS = "it is saved in colours (RGB), not as class indices"
AS_JPEG = "it is saved as JPEG, which changes class indices"
_TRANSPARENT = "it is saved with transparency, of which a class index has none"
_FRACTIONS = "it is saved as fractions, not as class indices"
_NO_COLOURS = "it is not saved as exact colours (RGB)"
NO_MASK = "it has no mask"

_SPREAD = {"L;2": 85, "L;4": 17}
"""Grey of 2 or 4 bits: Pillow spreads its values over the whole byte; an index wants them back."""


def read_indices(path: Path) -> Indices:
    """The numbers in a mask file, as they are.

    Raises UnreadableImage for a file that is missing or damaged, or holds no indices.
    """
    with explain_damage(str(path)), _open(path) as opened:
        spread = _SPREAD.get(_raw_mode(opened), 1)
        wrong = _why_no_indices(opened)
        if wrong is not None:
            raise UnreadableImage(str(path), wrong)
        ImageOps.exif_transpose(opened, in_place=True)
        plain = opened.getchannel("L") if opened.mode == "LA" else opened
        values = np.asarray(plain)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    return values // spread if spread > 1 else values


def read_colours(path: Path) -> UInt8[NDArray[np.uint8], "h w 3"]:
    """The colours of a mask that is made of them.

    Raises UnreadableImage for a file that is missing or damaged, or has none.
    """
    with explain_damage(str(path)), _open(path) as opened:
        if opened.mode not in {"RGB", "RGBA"} or opened.format in {"JPEG", "MPO"}:
            raise UnreadableImage(str(path), _NO_COLOURS)
        return np.asarray(opened.convert("RGB"))


def _open(path: Path) -> Image.Image:
    """The image of a mask file, as large as those that `predict` labels unless told otherwise."""
    opened = open_header(io.BytesIO(_read(path)))
    if opened.width * opened.height > MOST_MEGAPIXELS * 1e6:
        raise Image.DecompressionBombError
    return opened


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableImage(str(path), error.strerror or str(error)) from error
    if not content:
        raise UnreadableImage(str(path), "the file is empty")
    return content


def _raw_mode(image: Image.Image) -> str:
    """How the file packs its pixels, where that is one word."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if tiles else ""


def _why_no_indices(image: Image.Image) -> str | None:
    if image.format in {"JPEG", "MPO"}:
        return AS_JPEG
    if image.mode == "LA":
        low, _ = image.getchannel("A").getextrema()
        return None if low == 255 else _TRANSPARENT
    if image.mode == "F":
        return _FRACTIONS
    return None if image.mode in {"1", "L", "P", "I"} or image.mode.startswith("I;") else AS_COLOURS


class FileMasks(Masks):
    """Masks of index files, with what their numbers stand for.

    Args:
        paths: of each mask; None where an image has none.
        images: names of the images, for what is said of those.
        legend: the numbers' classes.
    """

    def __init__(self, paths: Sequence[Path | None], images: Sequence[str], legend: Legend) -> None:
        self.paths, self.images, self.legend = list(paths), list(images), legend
        self._table = np.array(legend.table, np.int16)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def classes(self) -> int:
        """How many classes they may show."""
        return len(self.legend.classes)

    def read(self, row: int) -> UInt8[Tensor, "h w"]:
        """Decode the file, and look its numbers up."""
        path = self.paths[row]
        if path is None:
            raise UnreadableImage(self.images[row], NO_MASK)
        return torch.from_numpy(look_up(read_indices(path), self._table, self.legend, str(path)))


def look_up(
    values: Indices, table: Int16[NDArray[np.int16], " numbers"], legend: Legend, name: str
) -> UInt8[NDArray[np.uint8], "h w"]:
    """Numbers as classes. Raises UnreadableImage for a number that the legend does not have."""
    high, low = int(values.max(initial=0)), int(values.min(initial=0))
    found = table[np.clip(values, 0, 255)] if values.dtype != np.uint8 else table[values]
    strange = found == UNKNOWN
    if high > 255 or low < 0:
        strange = strange | (values > 255) | (values < 0)
    if strange.any():
        number, count = int(values[strange][0]), int(strange.sum())
        raise UnreadableImage(name, describe_unknown(number, count, legend))
    return found.astype(np.uint8)


def describe_unknown(number: int, pixels: int, legend: Legend) -> str:
    """Why a mask with such a number cannot be used."""
    low, high = min(legend.numbers), max(legend.numbers)
    which = f"the {len(legend.classes)} classes are {low} to {high}"
    return f"its number {number} ({pixels:,} pixels) is of no class; {which}"
