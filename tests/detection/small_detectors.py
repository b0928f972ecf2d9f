"""Detectors for tests: narrow, on small images, with few regions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from resnestkit import create_detector
from resnestkit.detection.detector import Detector
from resnestkit.detection.spec import (
    DetectionSettings,
    Kind,
    paper_settings,
    torchvision_settings,
)

CLASSES = 3
Target = dict[str, Tensor]


def few_regions(kind: Kind, like: str = "paper", **changes: Any) -> DetectionSettings:
    """The settings, with as few proposals as a small image needs."""
    base = paper_settings(kind) if like == "paper" else torchvision_settings(kind)
    few: dict[str, Any] = {"box_units": 32, "box_batch": 16, "post_nms": (20, 20), "detections": 8}
    return replace(base, **few, **changes)


def make(kind: Kind, net: str = "resnest14", **options: Any) -> Detector:
    """A small detector; group norms, since statistics of tiny maps are none."""
    defaults: dict[str, Any] = {
        "classes": CLASSES,
        "norm": "group",
        "min_size": 64,
        "max_size": 96,
        "fpn_channels": 32,
        "settings": few_regions(kind),
    }
    return create_detector(kind, net, **{**defaults, **options})


def scene(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Target]]:
    """Two images of different sizes: one with two objects, one without any."""
    images = [torch.rand(3, 60, 80, dtype=dtype), torch.rand(3, 70, 50, dtype=dtype)]
    boxes = torch.tensor([[5.0, 5.0, 40.0, 40.0], [20.0, 20.0, 30.0, 50.0]], dtype=dtype)
    masks = torch.zeros(2, 60, 80, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    full = {"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks}
    return images, [full, empty_target(70, 50, dtype)]


def empty_target(height: int, width: int, dtype: torch.dtype = torch.float32) -> Target:
    """An image without objects."""
    return {
        "boxes": torch.zeros(0, 4, dtype=dtype),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, height, width, dtype=torch.uint8),
    }
