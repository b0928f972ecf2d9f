"""What a detector found, in the forms that others read: COCO's results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from resnestkit.data.detection.coco import Identity
from resnestkit.data.detection.rle import encode_mask

MASK_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The objects that a detector found in one image, in the image's own pixels."""

    boxes: Float32[NDArray[np.float32], "n 4"]
    """Left, top, right, bottom."""
    labels: Int64[NDArray[np.int64], " n"]
    """1 is the first class."""
    scores: Float32[NDArray[np.float32], " n"]
    masks: tuple[dict[str, Any], ...] | None = None
    """Compressed run lengths."""

    @classmethod
    def read(cls, output: dict[str, Tensor], *, masks: bool = True) -> Found:
        """From what torchvision's detectors give; a mask is where its probability exceeds half.

        ``masks`` says whether to keep them, where there are any.
        """
        encoded = None
        if masks and "masks" in output:
            drawn = (output["masks"][:, 0] > MASK_THRESHOLD).byte().cpu().numpy()
            encoded = tuple(encode_mask(mask) for mask in drawn)
        return cls(
            output["boxes"].float().cpu().numpy(),
            output["labels"].cpu().numpy(),
            output["scores"].float().cpu().numpy(),
            encoded,
        )

    def take(self, places: NDArray[np.intp]) -> Found:
        """The detections at these places, in this order."""
        masks = None if self.masks is None else tuple(self.masks[i] for i in places)
        return Found(self.boxes[places], self.labels[places], self.scores[places], masks)

    def above(self, score: float) -> Found:
        """What it is at least so sure of."""
        return self.take(np.flatnonzero(self.scores >= score))


def results_json(
    found: Iterable[tuple[Identity, Found]],
    category_ids: tuple[Identity, ...],
    *,
    masks: bool = False,
) -> list[dict[str, Any]]:
    """COCO's list of results, ready for JSON; of boxes, or of masks.

    Masks come without boxes: where a result has both, COCO's tools take an object's size from its
    box, and the numbers for small, medium and large ones change.

    Args:
        found: what was found in each image, with the image's number in its file.
        category_ids: the file's number of each class.
        masks: whether to write masks.
    """
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[int(one.labels[i]) - 1],
            **_place(one, i, masks=masks),
            "score": float(one.scores[i]),
        }
        for image_id, one in found
        for i in range(len(one.scores))
    ]


def write_results(
    path: Path,
    found: Iterable[tuple[Identity, Found]],
    category_ids: tuple[Identity, ...],
    *,
    masks: bool = False,
) -> None:
    """Write `results_json` to a file."""
    path.write_text(json.dumps(results_json(found, category_ids, masks=masks)), encoding="utf-8")


def _place(found: Found, i: int, *, masks: bool) -> dict[str, Any]:
    if masks and found.masks is not None:
        return {"segmentation": found.masks[i]}
    left, top, right, bottom = (float(value) for value in found.boxes[i])
    return {"bbox": [left, top, right - left, bottom - top]}
