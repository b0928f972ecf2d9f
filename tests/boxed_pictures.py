"""Images with boxes and masks to train on, written as COCO's files by the tests themselves."""

import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from resnestkit import DetectionRecipe
from resnestkit.data.detection.shapes import CLASSES, make_shapes
from resnestkit.data.detection.table import DetectionImages

NUMBERS = {"circle": 30, "rectangle": 10, "triangle": 20}
"""What the files call the classes: neither from 1, nor without gaps, nor in order."""
TINY = DetectionRecipe(
    model="resnest14",
    fpn_channels=16,
    epochs=2,
    batch_size=4,
    lr=1.28,
    precise_norm=2,
    short_sides=(56, 64),
    test_side=64,
    max_side=96,
    precision="float32",
    device="cpu",
)


def draw_boxed_shapes(root: Path, counts: Mapping[str, int]) -> Path:
    """A folder of COCO's form with so many pictures of shapes in each split."""
    for split, images in make_shapes(counts=counts).splits.items():
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "annotations").mkdir(exist_ok=True)
        for index in range(len(images)):
            pixels = images.read(index).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / "images" / f"{split}{index}.png")
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(_describe(split, images)))
    return root


def _describe(split: str, images: DetectionImages) -> dict[str, object]:
    first = 1000 if split == "val" else 1
    rows = [(index + first, images.annotations(index)) for index in range(len(images))]
    things = [(number, one, i) for number, one in rows for i in range(len(one.labels))]
    return {
        "images": [
            {
                "id": number, "file_name": f"{split}{number - first}.png",
                "height": one.height, "width": one.width,
            }
            for number, one in rows
        ],
        "annotations": [
            {
                "id": place, "image_id": number, "iscrowd": 0,
                "category_id": NUMBERS[CLASSES[one.labels[i] - 1]],
                "bbox": one.boxes[i].tolist(), "area": float(one.areas[i]),
                "segmentation": json.loads(one.segmentations[i]),
            }
            for place, (number, one, i) in enumerate(things, 1)
        ],
        "categories": [{"id": number, "name": name} for name, number in NUMBERS.items()],
    }  # fmt: skip
