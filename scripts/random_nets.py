"""Files to measure speed with: a net of random weights in each of its forms, and pictures.

Writes FOLDER/resnest50.safetensors, .xml (float32, for OpenVINO), .int8.xml, and JPEGs by class in
FOLDER/images. What weights and pictures say has no sense, but costs as much as any other. Making
the int8 file takes minutes: NNCF corrects the biases layer by layer.

Command: .venv/bin/python scripts/random_nets.py FOLDER [--net resnest50] [--no-int8]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from resnestkit import create_model, export, quantise, save_model
from resnestkit.bench.subjects import settle
from resnestkit.models.blocks import ResidualBlock

CLASSES = [f"class {number}" for number in range(1000)]
DRAWN = CLASSES[:2]
EACH = 24
"""Pictures of each class that is drawn: 48 in all."""
BRANCH_SCALE = 0.2
"""Of the last norm of every branch, as of a trained net.

At 1 a random net makes more of rounding in every block, until no export of it passes its check; at
0 there would be no branches.
"""


def main() -> None:
    """Write what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--net", default="resnest50")
    parser.add_argument("--int8", action=argparse.BooleanOptionalAction, default=True)
    asked = parser.parse_args()
    draw_pictures(asked.folder / "images")
    checkpoint = save_net(asked.folder, asked.net)
    made = [checkpoint, export(checkpoint, "openvino").path]
    if asked.int8:
        # By random weights no class is right, so that nothing can be lost either.
        pictures = asked.folder / "images"
        made.append(quantise(made[1], pictures, max_drop=0.999, images=EACH).path)
    for path in made:
        print(f"made        {path}")


def save_net(folder: Path, name: str) -> Path:
    """A checkpoint of random weights, which says that it was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    net = create_model(name, len(CLASSES))
    for part in net.modules():
        if isinstance(part, ResidualBlock) and isinstance(part.last_norm, nn.BatchNorm2d):
            nn.init.constant_(part.last_norm.weight, BRANCH_SCALE)
    settle(net, 3)
    net.head_is_new = False
    save_model(net, folder / f"{name}.safetensors", CLASSES)
    return folder / f"{name}.safetensors"


def draw_pictures(folder: Path) -> None:
    """Soft noise as JPEGs of 640 x 480."""
    random = np.random.default_rng(0)
    for label in DRAWN:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(EACH):
            coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
            picture.save(folder / label / f"{number:02}.jpg", quality=92)


if __name__ == "__main__":
    main()
