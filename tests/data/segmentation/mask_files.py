"""Small data sets of images and masks, written by the tests themselves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (12, 16)
"""Height and width."""


def paint_image(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def draw_mask(numbers: Sequence[int], size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Upright stripes of these numbers."""
    columns = np.array(numbers, np.uint8)[np.arange(size[1]) * len(numbers) // size[1]]
    return np.tile(columns, (size[0], 1))


def paint_mask(
    path: Path, numbers: Sequence[int] = (0, 1, 2), size: tuple[int, int] = SIZE
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_mask(numbers, size)).save(path)
    return path


def paint_pairs(
    images: Path,
    masks: Path,
    count: int = 3,
    numbers: Sequence[int] = (0, 1, 2),
    *,
    name: str = "{}",
    tail: str = "",
    first: int = 0,
) -> None:
    """So many images, each with its mask."""
    for number in range(first, first + count):
        paint_image(images / f"{name.format(number)}.jpg", seed=number)
        paint_mask(masks / f"{name.format(number)}{tail}.png", numbers)


def small_set(
    root: Path, counts: Mapping[str, int] | None = None, numbers: Sequence[int] = (0, 1, 2)
) -> Path:
    """images/ and labels/ with these splits."""
    for place, (split, count) in enumerate((counts or {"train": 4, "val": 2}).items()):
        paint_pairs(
            root / "images" / split,
            root / "labels" / split,
            count,
            numbers,
            name=f"{split}{{}}",
            first=10 * place,
        )
    return root


CATEGORIES = [
    {"id": 9, "name": "sky", "isthing": 0, "color": [10, 20, 30]},
    {"id": 4, "name": "cat", "isthing": 1, "color": [200, 0, 0]},
]
"""Neither in order, nor without gaps."""
SEGMENTS = [
    {"id": 70_000, "category_id": 9, "iscrowd": 0},
    {"id": 2, "category_id": 4, "iscrowd": 0},
    {"id": 300, "category_id": 4, "iscrowd": 1},
]


def paint_panoptic(root: Path, split: str = "train", count: int = 2, **changes: Any) -> Path:
    """COCO's panoptic form: left sky, then a cat, then a crowd, and a column of nothing."""
    name = f"panoptic_{split}"
    numbers = np.zeros(SIZE, np.int64)
    for place, one in enumerate(SEGMENTS):
        numbers[:, 5 * place : 5 * place + 5] = one["id"]
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65_536], 2)
    folder = root / "annotations" / name
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        paint_image(root / split / f"{number}.jpg", seed=number)
        Image.fromarray(colours.astype(np.uint8)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 12, "width": 16})
        annotations.append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": SEGMENTS}
        )
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path = root / "annotations" / f"{name}.json"
    path.write_text(json.dumps({**content, **changes}))
    return path
