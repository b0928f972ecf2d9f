"""ResNeSt-200 on ImageNet-1k, as published: 2048 images per step, trained at 256, tested at 320.

A step is 8 processes x 8 passes x 32 images, and 32 is what each of the authors' 64 GPUs saw.

Command:  torchrun --nproc-per-node=8 -m resnestkit train --recipe imagenet_resnest200 --data DATA
Expected: 83.84% top-1 with the authors' PyTorch weights; not measured here, and no time was
          published.
"""

from dataclasses import replace

from resnestkit.recipes import imagenet_resnest50
from resnestkit.training.recipe import Recipe


def recipe() -> Recipe:
    """ResNeSt-50's, with a quarter of its batch, larger crops, and dropout."""
    return replace(
        imagenet_resnest50.recipe(),
        model="resnest200",
        batch_size=32,
        size=320,
        train_size=256,
        dropout=0.2,
    )
