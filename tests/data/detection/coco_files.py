"""Small data sets of COCO's form, written by the tests themselves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
"""Neither from 1, nor without gaps, nor in order."""


def image(number: int, name: str, width: int = 40, height: int = 30) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": width, "height": height}


def thing(number: int, image_id: int, category: int, *box: float, **more: Any) -> dict[str, Any]:
    area = box[2] * box[3]
    given = {"id": number, "image_id": image_id, "category_id": category, "bbox": list(box)}
    return {**given, "area": area, "iscrowd": 0, **more}


def polygon(*box: float) -> list[list[float]]:
    left, top, width, height = box
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def content(images: Sequence[Any], things: Sequence[Any], **more: Any) -> dict[str, Any]:
    return {"images": images, "annotations": things, "categories": CATEGORIES, **more}


def write(path: Path, what: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    return path


def paint(folder: Path, images: Sequence[dict[str, Any]], seed: int = 0) -> None:
    """Write the pictures that a file lists, each at its size."""
    random = np.random.default_rng(seed)
    for one in images:
        path = folder / one["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (one["height"], one["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def small_set(root: Path, *, splits: Sequence[str] = ("train", "val")) -> Path:
    """Four images a split: one bare, one with a crowd, sizes that differ, masks of every form."""
    for place, split in enumerate(splits):
        sizes = [(40, 30), (30, 40), (36, 36), (40, 30)]
        images = [
            image(10 * place + i, f"{split}{i}.png", width, height)
            for i, (width, height) in enumerate(sizes)
        ]
        first = 10 * place
        whole = {"size": [36, 36], "counts": [36 * 4, 36 * 8, 36 * 24]}  # columns 4 to 11
        things = [
            thing(1, first, 7, 2, 3, 10, 8, segmentation=polygon(2, 3, 10, 8)),
            thing(2, first, 3, 20, 5, 12, 20, segmentation=polygon(20, 5, 12, 20)),
            thing(3, first + 1, 7, 5, 5, 15, 30, segmentation=polygon(5, 5, 15, 30)),
            thing(4, first + 2, 3, 4, 0, 8, 36, segmentation=whole),
            thing(5, first + 2, 7, 0, 0, 30, 12, segmentation=polygon(0, 0, 30, 12), iscrowd=1),
        ]
        paint(root / "images", images, seed=place)
        write(root / "annotations" / f"instances_{split}.json", content(images, things))
    return root
