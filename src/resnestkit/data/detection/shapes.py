"""Pictures of overlapping shapes with exact masks, drawn by numbers alone: always the same ones.

A detector learns them in minutes, which makes them a test of the whole way and a first example. So
the ground is dark and the shapes are bright: where either may be the brighter, and patterns are as
strong as outlines, a net from scratch does not begin to tell shapes within 2,000 pictures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from resnestkit.data.detection.rle import encode_mask
from resnestkit.data.detection.table import AnnotationTable, DetectionImages
from resnestkit.data.images import MemoryImages

CLASSES = ("circle", "rectangle", "triangle")
COUNTS = {"train": 480, "val": 96}
SIDE = 128
"""Pixels; every third picture is upright, every third lies."""

_DARK, _BRIGHT = (10, 90), (110, 240)
"""What the ground's and the shapes' colours are drawn from."""
_FAINT, _CLEAR = 0.15, 0.2
"""How far the two tones of a ground and of a shape are apart, of all that bytes can tell."""
_LEAST_VISIBLE = 0.4
"""Share of a shape that later ones leave to be seen."""
_TRIES = 12


@dataclass(frozen=True, slots=True)
class Shapes:
    """The pictures, by split."""

    classes: tuple[str, ...]
    splits: Mapping[str, DetectionImages]


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture, (h, w, 3), with the visible part of each shape and its label from 1."""

    pixels: UInt8[NDArray[np.uint8], "h w 3"]
    masks: Bool[NDArray[np.bool_], "n h w"]
    labels: tuple[int, ...]


def make_shapes(channels: int = 3, counts: Mapping[str, int] = COUNTS, seed: int = 0) -> Shapes:
    """So many pictures for each split; channels 1 are grey."""
    made = draw_splits(channels, counts, seed)
    splits = {
        split: DetectionImages(pictures, _tabulate(drawings))
        for split, (drawings, pictures) in made.items()
    }
    return Shapes(CLASSES, splits)


def draw_splits(
    channels: int, counts: Mapping[str, int], seed: int
) -> dict[str, tuple[list[Drawing], MemoryImages]]:
    """So many drawings for each split, and their pictures."""
    made = {}
    for place, (split, count) in enumerate(counts.items()):
        drawings = [draw_shapes(np.random.default_rng([seed, place, n])) for n in range(count)]
        pixels = [torch.from_numpy(one.pixels).permute(2, 0, 1) for one in drawings]
        if channels == 1:
            pixels = [one.float().mean(0, keepdim=True).byte() for one in pixels]
        names = [f"{split} picture {number}" for number in range(count)]
        made[split] = drawings, MemoryImages(pixels, range(count), names)
    return made


def draw_shapes(random: np.random.Generator) -> Drawing:
    """One to six shapes on a textured ground; a later shape lies above the earlier."""
    height, width = ((SIDE, SIDE), (SIDE, SIDE * 3 // 4), (SIDE * 3 // 4, SIDE))[random.integers(3)]
    pixels = _texture(random, height, width, _DARK, _FAINT)
    ground = pixels.mean((0, 1))
    masks: list[NDArray[np.bool_]] = []
    labels: list[int] = []
    wholes: list[int] = []
    for _ in range(int(random.integers(1, 7))):
        label = int(random.integers(len(CLASSES)))
        placed = _place(random, label, masks, wholes, (height, width))
        if placed is None:
            continue
        masks = [mask & ~placed for mask in masks] + [placed]
        wholes.append(int(placed.sum()))
        labels.append(label + 1)
        drawn = _texture(random, height, width, _BRIGHT, _CLEAR, ground)
        pixels = np.where(placed[..., None], drawn, pixels)
    noisy = pixels + random.normal(0, 6, pixels.shape)
    stacked = np.stack(masks) if masks else np.zeros((0, height, width), np.bool_)
    return Drawing(np.clip(noisy, 0, 255).astype(np.uint8), stacked, tuple(labels))


def _place(
    random: np.random.Generator,
    label: int,
    masks: list[NDArray[np.bool_]],
    wholes: list[int],
    size: tuple[int, int],
) -> NDArray[np.bool_] | None:
    """The pixels of a shape that leaves enough of all others to be seen; None if none is found."""
    for _ in range(_TRIES):
        shape = _outline(random, label, *size)
        left = ((mask & ~shape).sum() for mask in masks)
        if all(rest >= _LEAST_VISIBLE * whole for rest, whole in zip(left, wholes, strict=True)):
            return shape
    return None


def _outline(
    random: np.random.Generator, label: int, height: int, width: int
) -> Bool[NDArray[np.bool_], "h w"]:
    """The pixels whose centres lie in a shape of random place, size and turn."""
    radius = random.uniform(0.12, 0.28) * SIDE
    centre = random.uniform(radius * 0.8, np.array([height, width]) - radius * 0.8)
    y, x = np.mgrid[:height, :width] + 0.5 - centre[:, None, None]
    turn = random.uniform(0, 2 * math.pi)
    across = x * math.cos(turn) + y * math.sin(turn)
    along = y * math.cos(turn) - x * math.sin(turn)
    if CLASSES[label] == "circle":
        return np.asarray(x**2 + y**2 <= radius**2)
    if CLASSES[label] == "rectangle":
        ratio = random.uniform(0.5, 1)
        return np.asarray((np.abs(across) <= radius * ratio) & (np.abs(along) <= radius * 0.9))
    # An equilateral triangle: within half its circle's radius of the centre, on three sides.
    sides = [turn + k * 2 * math.pi / 3 for k in range(3)]
    within = [x * math.cos(side) + y * math.sin(side) <= radius / 2 for side in sides]
    return np.asarray(np.logical_and.reduce(within))


def _texture(
    random: np.random.Generator,
    height: int,
    width: int,
    tones: tuple[int, int],
    contrast: float,
    ground: Float[NDArray[np.float64], " 3"] | None = None,
) -> Float[NDArray[np.float64], "h w 3"]:
    """Two tones of a random colour, not that of the ground: flat, striped, chequered or fading."""
    colours = random.uniform(*tones, (3, 3))
    # Of three colours the one that stands out most: a shape that cannot be seen is a wrong label.
    apart = np.zeros(3) if ground is None else np.abs(colours - ground).sum(1)
    colour = colours[apart.argmax()]
    other = np.clip(colour + random.choice([-1, 1]) * contrast * 255, 0, 255)
    y, x = np.mgrid[:height, :width]
    period = int(random.integers(3, 9))
    turned = x * random.uniform(-1, 1) + y * random.uniform(-1, 1)
    patterns = (
        np.zeros((height, width)),
        (turned // period) % 2,
        (x // period + y // period) % 2,
        (turned - turned.min()) / max(1e-9, np.ptp(turned)),
    )
    share = patterns[random.integers(len(patterns))][..., None]
    return np.asarray(colour * (1 - share) + other * share)


def _tabulate(drawings: list[Drawing]) -> AnnotationTable:
    """Boxes hold their masks tightly: from the first pixel's edge to the last one's."""
    masks = [mask for drawing in drawings for mask in drawing.masks]
    boxes = np.array([_hull(mask) for mask in masks], np.float64).reshape(-1, 4)
    counts = [len(drawing.labels) for drawing in drawings]
    return AnnotationTable(
        image_ids=range(1, len(drawings) + 1),
        sizes=np.array([drawing.pixels.shape[:2] for drawing in drawings], np.int64),
        starts=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes,
        labels=np.array([label for one in drawings for label in one.labels], np.int64),
        areas=np.array([mask.sum() for mask in masks], np.float64),
        crowd=np.zeros(len(masks), np.bool_),
        segmentations=[json.dumps(encode_mask(mask.astype(np.uint8))).encode() for mask in masks],
    )


def _hull(mask: Bool[NDArray[np.bool_], "h w"]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1
