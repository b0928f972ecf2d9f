"""DeepLabV3 with ResNeSt-50 on Pascal-Context's 59 classes, the authors': 80 passes.

As on ADE20K, at a tenth of the rate. Settings: PyTorch-Encoding at ac74841
(experiments/segmentation/train_dist.py).

Command:  torchrun --nproc-per-node=8 -m resnestkit train --recipe pcontext_deeplabv3
          --data VOCContext, and for their protocol resnestkit evaluate runs/.../best.safetensors
          --scales 0.5 0.75 1 1.25 1.5 1.75 --flip --windows 480
Expected: mIoU 53.19 and 80.41 % of the pixels on the validation images with the authors' code, by
          that protocol (their model zoo); not measured here, and no time was published.
"""

from dataclasses import replace

from resnestkit.recipes import ade20k_deeplabv3
from resnestkit.training.recipe import SegmentationRecipe


def recipe() -> SegmentationRecipe:
    """Two images on each of eight processes."""
    return replace(ade20k_deeplabv3.recipe(), epochs=80, lr=0.016)
