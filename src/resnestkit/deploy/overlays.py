"""What a segmenter found, as files: index masks, coloured overlays and a legend."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from resnestkit.data.pictures import Picture, fit
from resnestkit.data.segmentation.legend import Colour
from resnestkit.deploy.drawings import SOFTWARE, Places, save_image
from resnestkit.deploy.tiles import Labels, resize_labels
from resnestkit.errors import UserError
from resnestkit.report.masks import draw_legend, draw_mask

LONGEST = 4096
"""A larger picture's overlay is made smaller; its mask never is."""
_MOST_IN_A_PNG = 2048**2
"""Pixels; an overlay of more is a JPEG."""


@dataclass(frozen=True, slots=True)
class Written:
    """Where an image's mask and its overlay are."""

    mask: Path
    overlay: Path


class MaskFolder:
    """Writes NAME.png, the mask, and NAME.overlay.png or .jpg for each image, and one legend.

    A mask is an index PNG of 8 bits with the classes' colours as its palette, or one of 16 bits
    where there are more than 255 classes. legend.json and legend.png tell which index is what.

    Args:
        folder: made if it is not there.
        images: what was looked at; none of them is written over, wherever it lies.
        classes: names, in the order of their indices.
        colours: their colours.

    Raises:
        UserError: the folder or the legend cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        images: Iterable[Path],
        classes: Sequence[str],
        colours: Sequence[Colour],
    ) -> None:
        self.folder, self.colours = folder, colours
        self._places = Places(folder, images)
        drawn, listed = self._places.find("legend", ".png", ".json")
        save_image(Image.fromarray(draw_legend(classes, colours)), drawn)
        try:
            listed.write_text(_describe(classes, colours), encoding="utf-8")
        except OSError as error:
            raise UserError(f"Cannot write {listed}: {error.strerror}.") from error

    def write(self, image: str, labels: Labels, picture: Picture) -> Written:
        """Write an image's mask and overlay. Raises UserError if they cannot be written."""
        overlay = draw_overlay(picture, labels, self.colours)
        small = overlay.shape[0] * overlay.shape[1] <= _MOST_IN_A_PNG
        endings = ".png", ".overlay.png" if small else ".overlay.jpg"
        written = Written(*self._places.find(Path(image).stem, *endings))
        save_image(mask_image(labels, self.colours), written.mask)
        save_image(Image.fromarray(overlay), written.overlay)
        return written


def draw_overlay(
    picture: Picture, labels: Labels, colours: Sequence[Colour], longest: int = LONGEST
) -> UInt8[NDArray[np.uint8], "h2 w2 3"]:
    """The classes' colours over the picture, its longer side at most so many pixels."""
    width, height = fit(picture.width, picture.height, longest)
    drawn: UInt8[NDArray[np.uint8], "h2 w2 3"] = draw_mask(
        picture.shrink(longest), resize_labels(labels, height, width), colours
    )
    return drawn


def mask_image(labels: Labels, colours: Sequence[Colour]) -> Image.Image:
    """The mask as an image, which shares its memory."""
    if labels.dtype != np.uint8:
        return Image.fromarray(labels)
    size = labels.shape[1], labels.shape[0]
    image = Image.frombuffer("P", size, np.ascontiguousarray(labels), "raw", "P", 0, 1)
    image.putpalette([part for colour in colours for part in colour])
    return image


def _describe(classes: Sequence[str], colours: Sequence[Colour]) -> str:
    rows = [
        {"index": index, "name": name, "colour": list(colour)}
        for index, (name, colour) in enumerate(zip(classes, colours, strict=True))
    ]
    said = {"software": SOFTWARE, "masks": "a pixel's value is its class's index", "classes": rows}
    return json.dumps(said, indent=2, ensure_ascii=False) + "\n"
