"""A folder of drawings: one picture for each image, under a name that nothing else has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from resnestkit.errors import UserError

SOFTWARE = b"resnestkit predict"
"""What a drawing says of itself, so that the next one may replace it."""
_QUALITY = 92


class Drawings:
    """Writes JPEGs named after the images. What is there already and is no drawing stays.

    Args:
        folder: made if it is not there.
        images: what is drawn on; none of them is written over, wherever it lies.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(self, folder: Path, images: Iterable[Path]) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Cannot make the folder {folder}: {error.strerror}.") from error
        self.folder = folder
        self._taken = {image.resolve() for image in images}

    def write(self, image: str, pixels: UInt8[NDArray[np.uint8], "h w 3"]) -> Path:
        """Write the drawing of an image, and return where it is. Raises UserError if it cannot."""
        path = self._find_place(Path(image).stem)
        try:
            Image.fromarray(pixels).save(
                path, "JPEG", quality=_QUALITY, subsampling=0, comment=SOFTWARE
            )
        except OSError as error:
            raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
        return path

    def _find_place(self, stem: str) -> Path:
        names = (f"{stem}.jpg" if number == 1 else f"{stem}-{number}.jpg" for number in count(1))
        path = next(p for p in (self.folder / name for name in names) if self._is_free(p))
        self._taken.add(path.resolve())
        return path

    def _is_free(self, path: Path) -> bool:
        if path.resolve() in self._taken:
            return False
        return is_drawing(path) if path.exists() or path.is_symlink() else True


def leave_out_drawings(images: Sequence[Path]) -> list[Path]:
    """The images that are no drawings of an earlier time, which a folder may hold as well.

    Raises UserError if there is no other.
    """
    plain = [path for path in images if not is_drawing(path)]
    if not plain:
        raise UserError(f"{images[0]} is a drawing that `resnestkit predict` made; give the image.")
    return plain


def is_drawing(path: Path) -> bool:
    """Whether a file says that it was drawn here."""
    try:
        with Image.open(path) as image:
            return image.info.get("comment") == SOFTWARE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
