"""A folder of what was made of images: files of their names, and never over somebody's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from resnestkit.data.images import open_header
from resnestkit.errors import UserError

SOFTWARE = "resnestkit predict"
"""What a file of ours says of itself, so that the next one may replace it."""
_QUALITY = 92


class Places:
    """Free names in a folder. What is there already and not ours stays.

    Args:
        folder: made if it is not there.
        images: what was looked at; none of them is written over, wherever it lies.

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

    def find(self, stem: str, *endings: str) -> list[Path]:
        """Paths of one name, with these endings, that are free together; they are taken now."""
        stems = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        choices = ([self.folder / f"{name}{ending}" for ending in endings] for name in stems)
        paths = next(paths for paths in choices if all(map(self._is_free, paths)))
        self._taken |= {path.resolve() for path in paths}
        return paths

    def _is_free(self, path: Path) -> bool:
        if path.resolve() in self._taken:
            return False
        return is_ours(path) if path.exists() or path.is_symlink() else True


class Drawings:
    """Writes JPEGs named after the images.

    The arguments, and what is raised, are those of `Places`.
    """

    def __init__(self, folder: Path, images: Iterable[Path]) -> None:
        self.folder, self._places = folder, Places(folder, images)

    def write(self, image: str, pixels: UInt8[NDArray[np.uint8], "h w 3"]) -> Path:
        """Write the drawing of an image, and return where it is. Raises UserError if it cannot."""
        (path,) = self._places.find(Path(image).stem, ".jpg")
        save_image(Image.fromarray(pixels), path)
        return path


def save_image(image: Image.Image, path: Path) -> None:
    """Write a JPEG or a PNG, as the path ends, that is known as ours.

    Raises UserError if it cannot be written.
    """
    options: dict[str, Any] = {"quality": _QUALITY, "subsampling": 0, "comment": SOFTWARE.encode()}
    if path.suffix == ".png":
        text = PngInfo()
        text.add_text("Software", SOFTWARE)
        options = {"pnginfo": text}
    try:
        image.save(path, **options)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error


def leave_out_drawings(images: Sequence[Path]) -> list[Path]:
    """The images that are no drawings of an earlier time, which a folder may hold as well.

    Raises UserError if there is no other.
    """
    plain = [path for path in images if not is_ours(path)]
    if not plain:
        raise UserError(f"{images[0]} is a drawing that `resnestkit predict` made; give the image.")
    return plain


def is_ours(path: Path) -> bool:
    """Whether a file says that it was made here."""
    try:
        if path.suffix == ".json":
            with path.open("rb") as file:
                return SOFTWARE.encode() in file.read(100)
        with open_header(path) as image:
            said = image.info.get("comment"), image.info.get("Software")
            return SOFTWARE.encode() in said or SOFTWARE in said
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
