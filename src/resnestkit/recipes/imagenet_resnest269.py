"""ResNeSt-269 on ImageNet-1k, as published: 2048 images per step, trained at 320, tested at 416.

A step is 8 processes x 8 passes x 32 images, and 32 is what each of the authors' 64 GPUs saw.

Command:  torchrun --nproc-per-node=8 -m resnestkit train --recipe imagenet_resnest269 --data DATA
Expected: 84.54% top-1 with the authors' PyTorch weights; not measured here, and no time was
          published.
"""

from dataclasses import replace

from resnestkit.recipes import imagenet_resnest200
from resnestkit.training.recipe import Recipe


def recipe() -> Recipe:
    """ResNeSt-200's, with larger crops, of which none covers less than a tenth of the image."""
    return replace(
        imagenet_resnest200.recipe(), model="resnest269", size=416, train_size=320, min_area=0.1
    )
