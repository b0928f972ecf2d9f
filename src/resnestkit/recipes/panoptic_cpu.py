"""A panoptic net from scratch on a few thousand small images and a CPU: the detectors' recipe.

Light heads, one cosine; what `detection_cpu` says of the rate holds here too. Group norms, since in
the drawn scenes every picture has colours of its own, which no running mean fits.

Command:  resnestkit train --recipe panoptic_cpu --data scenes:2880
Expected: panoptic quality 0.72 in 14 minutes of one CPU core (docs/results/panoptic.md).
"""

from resnestkit.training.recipe import PanopticRecipe


def recipe() -> PanopticRecipe:
    """Panoptic FPN of a Mask R-CNN on ResNeSt-14."""
    return PanopticRecipe(
        model="resnest14",
        settings="light",
        norm="group",
        fpn_channels=64,
        epochs=2,
        batch_size=2,
        lr=4.0,
        warmup_steps=100,
        schedule="cosine",
        nesterov=True,
        clip_norm=10.0,
        ema=0.98,
        short_sides=(88, 110),
        test_side=112,
        max_side=168,
    )
