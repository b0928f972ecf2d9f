"""Mask R-CNN with ResNeSt-50 on COCO, the authors' 1x schedule: boxes and masks of each object.

As Faster R-CNN, with a short side drawn from six, as in the authors' configuration for instances.

Command:  torchrun --nproc-per-node=8 -m resnestkit train --recipe coco_mask_rcnn_1x --data COCO
Expected: box AP 42.81 and mask AP 38.14 on val2017 with the authors' code (their README; 39.97 and
          36.05 with ResNet-50); not measured here, and no time was published.
"""

from dataclasses import replace

from resnestkit.recipes import coco_faster_rcnn_1x
from resnestkit.training.recipe import DetectionRecipe


def recipe() -> DetectionRecipe:
    """Faster R-CNN's, with masks and sizes by choice."""
    return replace(
        coco_faster_rcnn_1x.recipe(),
        kind="mask_rcnn",
        short_sides=(640, 672, 704, 736, 768, 800),
        sampling="choice",
    )
