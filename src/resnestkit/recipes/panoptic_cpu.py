"""A panoptic net from scratch on a few hundred small images and a CPU: the detectors' recipe.

Light heads, one cosine; what `detection_cpu` says of the rate holds here too. Give the images' own
`--mean` and `--std`, which `resnestkit doctor` prints.

Command:  resnestkit train --recipe panoptic_cpu --data scenes
Expected: not measured yet.
"""

from resnestkit.training.recipe import PanopticRecipe


def recipe() -> PanopticRecipe:
    """Panoptic FPN of a Mask R-CNN on ResNeSt-14."""
    return PanopticRecipe(
        model="resnest14",
        settings="light",
        norm="batch",
        fpn_channels=64,
        epochs=14,
        batch_size=8,
        lr=1.28,
        warmup_steps=100,
        schedule="cosine",
        nesterov=True,
        clip_norm=10.0,
        ema=0.98,
        short_sides=(96, 128),
        test_side=112,
        max_side=160,
    )
