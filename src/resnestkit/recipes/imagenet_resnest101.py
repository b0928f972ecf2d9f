"""ResNeSt-101 on ImageNet-1k, as published: 4096 images per step, trained at 224, tested at 256.

A step is 8 processes x 8 passes x 64 images, and 64 is what each of the authors' 64 GPUs saw.

Command:  torchrun --nproc-per-node=8 -m resnestkit train --recipe imagenet_resnest101 --data DATA
Expected: 82.83% top-1 with the authors' PyTorch weights; not measured here, and no time was
          published.
"""

from dataclasses import replace

from resnestkit.recipes import imagenet_resnest50
from resnestkit.training.recipe import Recipe


def recipe() -> Recipe:
    """ResNeSt-50's, with half its batch and a larger test crop."""
    return replace(
        imagenet_resnest50.recipe(), model="resnest101", batch_size=64, size=256, train_size=224
    )
