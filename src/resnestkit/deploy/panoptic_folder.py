"""What a panoptic net found, as files of COCO's panoptic form, with overlays to look at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resnestkit.data.segmentation.legend import Colour
from resnestkit.deploy.drawings import SOFTWARE, Places, save_image
from resnestkit.deploy.overlays import Written
from resnestkit.deploy.panoptic_predictor import PanopticPrediction
from resnestkit.errors import UserError
from resnestkit.report.panoptic import Shape, draw_segments


class SegmentFolder:
    """Writes NAME.png, the segments, and NAME.overlay.jpg for each image, and one panoptic.json.

    The colour of a pixel is its segment's number: red + 256 green + 65,536 blue; 0 is void. The
    JSON says what the segments are, and lists the classes from 1.

    Args:
        folder: made if it is not there.
        images: what was looked at; none of them is written over, wherever it lies.
        classes: their names.
        things: which of them can be counted.
        colours: their colours.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        images: Iterable[Path],
        classes: Sequence[str],
        things: Sequence[bool],
        colours: Sequence[Colour],
    ) -> None:
        self.folder, self.colours = folder, colours
        self._places = Places(folder, images)
        (self._listed,) = self._places.find("panoptic", ".json")
        self._categories = [
            {"id": number, "name": name, "isthing": int(thing), "color": list(colour)}
            for number, (name, thing, colour) in enumerate(
                zip(classes, things, colours, strict=True), 1
            )
        ]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def write(self, one: PanopticPrediction, image: UInt8[Tensor, "c h w"]) -> Written:
        """Write an image's segments and overlay. Raises UserError if they cannot be written."""
        written = Written(*self._places.find(Path(one.image).stem, ".png", ".overlay.jpg"))
        save_image(Image.fromarray(colour_numbers(one.numbers)), written.mask)
        save_image(Image.fromarray(self._draw(one, image)), written.overlay)
        number, (height, width) = len(self._images) + 1, one.numbers.shape
        self._images.append(
            {"id": number, "file_name": one.image, "height": height, "width": width}
        )
        self._annotations.append(
            {
                "image_id": number,
                "file_name": written.mask.name,
                "segments_info": one.describe(),
            }
        )
        return written

    def content(self) -> dict[str, Any]:
        """Everything that was written so far, in COCO's panoptic form."""
        return {
            "info": {"description": SOFTWARE},
            "images": self._images,
            "annotations": self._annotations,
            "categories": self._categories,
        }

    def finish(self) -> Path:
        """Write panoptic.json, and return where it is. Raises UserError if it cannot."""
        try:
            self._listed.write_text(json.dumps(self.content()), encoding="utf-8")
        except OSError as error:
            raise UserError(f"Cannot write {self._listed}: {error.strerror}.") from error
        return self._listed

    def _draw(
        self, one: PanopticPrediction, image: UInt8[Tensor, "c h w"]
    ) -> UInt8[NDArray[np.uint8], "h w 3"]:
        pixels = image.permute(1, 2, 0).cpu().numpy()
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        shapes = [Shape(each.number, each.label, each.is_thing) for each in one.segments]
        return draw_segments(pixels, one.numbers, shapes, self.colours)


def colour_numbers(
    numbers: Int32[NDArray[np.int32], "h w"],
) -> UInt8[NDArray[np.uint8], "h w 3"]:
    """Numbers of segments as COCO paints them."""
    return np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], 2).astype(np.uint8)
