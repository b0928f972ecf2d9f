"""A detector from scratch on a few hundred images and a CPU: light heads, small images, one cosine.

The rate is high for a detector, since nothing was loaded that it could spoil; the warm-up and the
clipped gradient make it safe. Give the images' own `--mean` and `--std`, which `resnestkit doctor`
prints.

Command:  resnestkit train --recipe detection_cpu --data bccd
Expected: docs/results/bccd.md.
"""

from resnestkit.training.recipe import DetectionRecipe


def recipe() -> DetectionRecipe:
    """Faster R-CNN on ResNeSt-14; `--kind mask_rcnn` finds masks as well."""
    return DetectionRecipe(
        kind="faster_rcnn",
        model="resnest14",
        settings="light",
        norm="batch",
        fpn_channels=128,
        epochs=20,
        batch_size=4,
        lr=1.28,
        warmup_steps=100,
        schedule="cosine",
        nesterov=True,
        clip_norm=10.0,
        ema=0.98,
        short_sides=(192, 288),
        test_side=240,
        max_side=384,
        jitter=0.2,
    )
