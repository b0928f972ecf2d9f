"""Small panoptic data and nets for tests; COCO's panoptic form, written by the tests themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnestkit import PanopticRecipe, create_panoptic
from resnestkit.data.segmentation.scenes import CLASSES, THINGS, make_scenes
from resnestkit.detection.spec import DetectionSettings
from resnestkit.panoptic.network import PanopticNet
from resnestkit.panoptic.spec import PanopticSettings

TINY = PanopticRecipe(
    model="resnest23_small",
    settings="light",
    norm="group",
    fpn_channels=16,
    epochs=2,
    batch_size=4,
    lr=1.28,
    warmup_steps=0,
    schedule="cosine",
    clip_norm=10.0,
    short_sides=(48, 64),
    test_side=64,
    max_side=96,
    precision="float32",
    device="cpu",
)

FEW = DetectionSettings(
    box_head="2fc",
    box_units=32,
    mask_convs=1,
    post_nms=(20, 20),
    box_batch=16,
    detections=8,
)
Target = dict[str, Tensor]


def make_net(net: str = "resnest14", **options: Any) -> PanopticNet:
    """A small net for five classes, of which 1, 2 and 4 are things."""
    defaults: dict[str, Any] = {
        "norm": "group",
        "min_size": 64,
        "max_size": 96,
        "fpn_channels": 32,
        "settings": FEW,
        "panoptic": PanopticSettings(channels=32, stuff_area=4),
    }
    return create_panoptic(net, 5, (1, 2, 4), **{**defaults, **options})


def scene() -> tuple[list[Tensor], list[Target]]:
    """Two images of odd sizes: one with two things on two kinds of stuff, one of stuff and void."""
    images = [torch.rand(3, 61, 83), torch.rand(3, 70, 45)]
    boxes = torch.tensor([[5.0, 5.0, 40.0, 40.0], [50.0, 20.0, 70.0, 50.0]])
    masks = torch.zeros(2, 61, 83, dtype=torch.uint8)
    semantic = torch.zeros(61, 83, dtype=torch.uint8)
    semantic[30:] = 3
    for mask, label, box in zip(masks, (1, 4), boxes.int().tolist(), strict=True):
        left, top, right, bottom = box
        mask[top:bottom, left:right] = 1
        semantic[top:bottom, left:right] = label
    bare = torch.full((70, 45), 255, dtype=torch.uint8)
    bare[:50] = 3
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 70, 45, dtype=torch.uint8),
        "semantic": bare,
    }
    labels = torch.tensor([1, 3])  # of things alone: classes 1 and 4
    full = {"boxes": boxes, "labels": labels, "masks": masks, "semantic": semantic}
    return images, [full, empty]


def draw_panoptic_scenes(
    root: Path, counts: Mapping[str, int], things: Sequence[int] = THINGS
) -> Path:
    """A folder of COCO's panoptic form with so many pictures of scenes in each split."""
    for split, images in make_scenes(counts=counts).splits.items():
        folder = root / "annotations" / f"panoptic_{split}"
        folder.mkdir(parents=True)
        (root / split).mkdir()
        listed, annotated = [], []
        for index in range(len(images)):
            pixels = images.read(index).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / split / f"{index}.png")
            segments = images.segments(index)
            colours = np.zeros((*segments.numbers.shape, 3), np.uint8)
            colours[..., 0] = segments.numbers.numpy()
            Image.fromarray(colours).save(folder / f"{index}.png")
            height, width = pixels.shape[:2]
            listed.append(
                {"id": index, "file_name": f"{index}.png", "height": height, "width": width}
            )
            said = [
                {"id": one.number, "category_id": one.label + 1, "iscrowd": 0}
                for one in segments.segments
            ]
            annotated.append(
                {"image_id": index, "file_name": f"{index}.png", "segments_info": said}
            )
        categories = [
            {"id": place + 1, "name": name, "isthing": int(thing)}
            for place, (name, thing) in enumerate(zip(CLASSES, things, strict=True))
        ]
        content = {"images": listed, "annotations": annotated, "categories": categories}
        (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))
    return root
