"""Masks as COCO writes them: polygons and run lengths, through faster-coco-eval's mask functions.

The library is imported when a mask is first met: boxes alone do without it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from resnestkit.extras import require

EXTRA = "detection"


def encode_mask(mask: UInt8[NDArray[np.uint8], "h w"]) -> dict[str, Any]:
    """A mask of zeros and ones as compressed run lengths, ready for JSON."""
    return _as_json(_functions().encode(np.asfortranarray(mask)))


def decode_mask(segmentation: bytes, height: int, width: int) -> UInt8[NDArray[np.uint8], "h w"]:
    """The mask of a segmentation, given as JSON: polygons, or run lengths, compressed or not.

    Raises ValueError if it is none of these, or is of another size.
    """
    return decode_rle(to_rle(segmentation, height, width))


def decode_rle(rle: dict[str, Any]) -> UInt8[NDArray[np.uint8], "h w"]:
    """The mask of compressed run lengths."""
    mask: NDArray[np.uint8] = _functions().decode(rle)
    return mask


def to_rle(segmentation: bytes, height: int, width: int) -> dict[str, Any]:
    """As `decode_mask`, but left in compressed run lengths, ready for JSON."""
    shape = json.loads(segmentation)
    if isinstance(shape, dict) and shape.get("size", [height, width]) != [height, width]:
        raise ValueError(f"it is of {shape['size']}, not of {[height, width]}")
    try:
        return _as_json(_functions().segmToRle(shape, width, height))
    except (TypeError, KeyError, RuntimeError) as error:
        raise ValueError("it is neither polygons nor run lengths") from error


def mask_area(rle: dict[str, Any]) -> int:
    """Pixels of a mask in compressed run lengths."""
    return int(_functions().area(rle))


def _as_json(rle: dict[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def _functions() -> Any:
    require("faster_coco_eval", EXTRA)
    from faster_coco_eval.core import mask  # noqa: PLC0415  (an extra)

    return mask
