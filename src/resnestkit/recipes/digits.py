"""Handwritten digits, 8x8, built in: the default of `resnestkit train`.

Command:  resnestkit train
Expected: about a minute on 2 CPU cores; 99.7% of the 359 held-out digits (docs/results/demo.md).
"""

from resnestkit.training.recipe import Recipe


def recipe() -> Recipe:
    """Small ResNeSt on grey digits enlarged to 16x16; a digit is never mirrored."""
    return Recipe(
        model="resnest23_small",
        epochs=20,
        batch_size=64,
        lr=0.4,
        warmup_epochs=2,
        weight_decay=5e-4,
        mixup=0.0,
        size=16,
        crop="pad",
        padding=2,
        flip=False,
        crop_ratio=1.0,
        mean=(0.305,),
        std=(0.376,),
    )
