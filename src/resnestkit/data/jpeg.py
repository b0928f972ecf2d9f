"""Plain JPEGs by torchvision's decoder: Pillow's pixels to the bit, without Pillow's copies.

Both hand the file to libjpeg-turbo with the same settings. What they could treat differently (CMYK,
12 bits, lossless, colour asked for as grey, very large, damaged) is left to Pillow. So is
everything where torchvision has no decoder (it means to part with it after 0.29), or nobody has
imported it, which takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from resnestkit.data.decoding import pixel_limit

_GREY, _RGB = 1, 3
"""The decoder's modes, which happen to be the numbers of channels."""
_START = b"\xff\xd8\xff"
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive."""
_SCAN = 0xDA
_WITHOUT_LENGTH = frozenset({0x01, 0xFF, *range(0xD0, 0xDA)})


class _Frame(NamedTuple):
    """What the header of a JPEG says of its image, and where that ends in the file."""

    bits: int
    pixels: int
    components: int
    end: int


def _find_decoder() -> Callable[..., Any] | None:
    """The operator itself: the function around it warns of its end with every image."""
    if "torchvision.io" not in sys.modules:  # which registers it
        return None
    try:
        return torch.ops.image.decode_jpeg
    except (AttributeError, RuntimeError):
        return None


def decode_plain_jpeg(content: bytes, channels: int) -> UInt8[Tensor, "c h w"] | None:
    """The image as `resnestkit.data.images.decode_image` gives it; None if it is for Pillow."""
    frame = _read_frame(content) if content.startswith(_START) else None
    decode = _find_decoder()
    if decode is None or frame is None or not _is_plain(frame, content, channels):
        return None
    coded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    try:
        image: Tensor = decode(coded, _RGB if channels == 3 else _GREY, True)
    except RuntimeError:  # damaged; Pillow reads more of these, and says what is wrong with others
        return None
    return image


def _is_plain(frame: _Frame, content: bytes, channels: int) -> bool:
    """Whether both decoders make the same of it."""
    # Grey from colour is computed from RGB by Pillow, which libjpeg would take from the file.
    colours = {1, 3} if channels == 3 else {1}
    safe = frame.pixels <= (pixel_limit() or frame.pixels)
    # Pillow also turns images by what editors note in XMP.
    turned = content.find(b"tiff:Orientation", 0, frame.end) >= 0
    return frame.bits == 8 and frame.components in colours and safe and not turned


def _read_frame(content: bytes) -> _Frame | None:
    """The first frame header, if it is of a usual kind."""
    for marker, start in _segments(content):
        if marker in _FRAMES and start + 8 <= len(content):
            height = int.from_bytes(content[start + 3 : start + 5])
            width = int.from_bytes(content[start + 5 : start + 7])
            return _Frame(content[start + 2], height * width, content[start + 7], start + 8)
    return None


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Markers before the first scan, with the positions of their lengths."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == _SCAN:
            return
        if marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        yield marker, at + 2
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
