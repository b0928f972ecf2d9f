"""Image files as a net's input, by Pillow and NumPy.

The same steps as `resnestkit.data.transforms.EvaluationTransform` and `normalise`, which training
and evaluation take, and the same pixels, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from PIL import Image

from resnestkit.data.decoding import load_content, read_content
from resnestkit.preprocessing import LONGEST_ASPECT, Preprocessing
from resnestkit.runtime.resizing import Span, resize


def read_square(path: Path, preprocessing: Preprocessing) -> UInt8[NDArray[np.uint8], "s s c"]:
    """The square of an image file that a net looks at.

    Raises UnreadableImage for a missing, empty, truncated or foreign file.
    """
    return decode_square(read_content(path), str(path), preprocessing)


def decode_square(
    content: bytes, name: str, preprocessing: Preprocessing
) -> UInt8[NDArray[np.uint8], "s s c"]:
    """As `read_square`, from the bytes of a file. ``name`` is for the message only."""
    return cut_square(load_content(content, name, preprocessing.channels), preprocessing)


def cut_square(
    image: Image.Image, preprocessing: Preprocessing
) -> UInt8[NDArray[np.uint8], "s s c"]:
    """Resize the short side, then crop the centre of an image, RGB or grey."""
    longest = LONGEST_ASPECT * min(image.size)
    image = _crop(image, min(image.width, longest), min(image.height, longest))
    short, size = preprocessing.short_side, preprocessing.size
    width, height = (int(short * side / min(image.size)) for side in image.size)
    columns, rows = (Span(round((side - size) / 2), size) for side in (width, height))
    return resize(image, width, height, columns, rows, preprocessing.interpolation)


def normalise(
    squares: Sequence[UInt8[NDArray[np.uint8], "s s c"]], preprocessing: Preprocessing
) -> Float32[NDArray[np.float32], "b c s s"]:
    """To float32, minus the mean, over the standard deviation.

    Images come in as RGB; a net that reads BGR gets its channels turned.
    """
    images = np.stack([square.transpose(2, 0, 1) for square in squares])
    if preprocessing.channel_order == "BGR":
        images = images[:, ::-1]
    mean = np.array(preprocessing.mean, np.float32).reshape(1, -1, 1, 1)
    std = np.array(preprocessing.std, np.float32).reshape(1, -1, 1, 1)
    batch = np.multiply(images, 1 / (255 * std), dtype=np.float32, order="C")
    batch -= mean / std
    return batch


def _crop(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
