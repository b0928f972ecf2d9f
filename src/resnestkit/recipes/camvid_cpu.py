"""CamVid's streets at half resolution on a CPU, from scratch: DeepLabV3 on ResNeSt-14.

Command:  resnestkit train --recipe camvid_cpu --data camvid
Expected: mIoU 0.36 on the test images in 19 minutes of one CPU core. With --kind fpn
          --output-stride None it is 0.40 in 15; with --epochs 100 too 0.49 in 77, and --side 320 in
          `resnestkit evaluate` makes 0.50 (docs/results/camvid.md).
"""

from resnestkit.training.recipe import SegmentationRecipe


def recipe() -> SegmentationRecipe:
    """Light heads at output stride 16; net and heads learn alike, for both are new."""
    return SegmentationRecipe(
        kind="deeplabv3",
        settings="light",
        model="resnest14",
        output_stride=16,
        epochs=20,
        batch_size=4,
        lr=3.2,
        head_lr=1,
        warmup_epochs=2,
        class_weights="softened",
        ema=0.98,
        jitter=0.2,
        base_side=240,
        scale=(0.75, 2.0),
        crop_size=176,
        test_side=240,
    )
