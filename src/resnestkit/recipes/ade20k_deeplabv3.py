"""DeepLabV3 with ResNeSt-50 on ADE20K, the authors': 16 images a step for 120 passes.

ResNeSt-50 with ImageNet's weights at output stride 8, synchronised norms everywhere, an auxiliary
head on the third stage; longer sides of 260 to 1040 pixels, crops of 480. `--model resnet50d`
trains the plain twin under the same recipe. Settings: PyTorch-Encoding at ac74841
(experiments/segmentation/train_dist.py).

Command:  torchrun --nproc-per-node=8 -m resnestkit train --recipe ade20k_deeplabv3 --data ADE20K,
          and for their protocol resnestkit evaluate runs/.../best.safetensors
          --scales 0.5 0.75 1 1.25 1.5 1.75 --flip --windows 480
Expected: mIoU 45.12 and 81.17 % of the pixels on the validation images with the authors' code, by
          that protocol (their model zoo; 42.1 with ResNet-50); not measured here, and no time was
          published.
"""

from resnestkit.training.recipe import SegmentationRecipe


def recipe() -> SegmentationRecipe:
    """Two images on each of eight processes; the other recipes of DeepLabV3 change what differs."""
    return SegmentationRecipe(
        kind="deeplabv3",
        model="resnest50",
        weights="imagenet1k",
        norm="sync",
        auxiliary=0.2,
        epochs=120,
        batch_size=2,
        lr=0.16,
        head_lr=10,
        schedule="poly",
        power=0.9,
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,
        base_side=520,
        scale=(0.5, 2.0),
        crop_size=480,
        test_side=520,
    )
