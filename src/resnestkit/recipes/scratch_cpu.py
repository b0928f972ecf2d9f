"""Photographs from scratch on a CPU: the smallest ResNeSt, at 128 pixels.

With published weights within reach, `--recipe finetune` is the better start.

Command:  resnestkit train --data photographs --recipe scratch_cpu
Expected: not measured; the net takes 0.9 G multiply-adds per image of 128x128.
"""

from resnestkit.training.recipe import Recipe


def recipe() -> Recipe:
    """ResNeSt-14 for 30 epochs, with crops that keep at least a quarter of the image."""
    return Recipe(
        model="resnest14",
        epochs=30,
        batch_size=32,
        lr=0.2,
        warmup_epochs=2,
        mixup=0.0,
        size=128,
        min_area=0.25,
        jitter=0.2,
    )
