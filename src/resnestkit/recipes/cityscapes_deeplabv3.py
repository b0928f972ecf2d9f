"""DeepLabV3 with ResNeSt-50 on Cityscapes: the authors' rate and length, 240 passes.

As on ADE20K, at the size of the streets. Rate and passes: PyTorch-Encoding at ac74841
(experiments/segmentation/train_dist.py). Sizes: what it has for Cityscapes' coarse masks
(encoding/datasets/cityscapescoarse.py); those of the published results are not told.

Command:  torchrun --nproc-per-node=8 -m resnestkit train --recipe cityscapes_deeplabv3
          --data cityscapes, and for their protocol resnestkit evaluate
          runs/.../best.safetensors --scales 0.75 1 1.25 1.5 1.75 2 2.25 --flip --windows 720
Expected: not measured here, and no time was published; 79.87 mIoU on the validation images is
          remembered of the paper's table 7, and was not verified.
"""

from dataclasses import replace

from resnestkit.recipes import ade20k_deeplabv3
from resnestkit.training.recipe import SegmentationRecipe


def recipe() -> SegmentationRecipe:
    """Two images on each of eight processes."""
    return replace(
        ade20k_deeplabv3.recipe(), epochs=240, base_side=2048, crop_size=720, test_side=2048
    )
