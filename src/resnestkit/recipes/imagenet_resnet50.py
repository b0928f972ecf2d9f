"""ResNet-50 on ImageNet-1k under ResNeSt-50's recipe: the plain twin, for a paired comparison.

`--model resnet50d` makes it the paper's own baseline.

Command:  torchrun --nproc-per-node=8 -m resnestkit train --recipe imagenet_resnet50 --data DATA
Expected: not measured, and not published for this net; the paper has 79.41% top-1 for ResNet-50-D
          with mixup and AutoAugment.
"""

from dataclasses import replace

from resnestkit.recipes import imagenet_resnest50
from resnestkit.training.recipe import Recipe


def recipe() -> Recipe:
    """ResNeSt-50's, for another net."""
    return replace(imagenet_resnest50.recipe(), model="resnet50")
