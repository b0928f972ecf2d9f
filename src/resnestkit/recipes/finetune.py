"""A few thousand photographs of your own, from published weights.

The classifier starts anew, and the rest learns gently: a low rate, mild crops and colours, images
that are not mixed, and a short moving average. With a few hundred images, add `--freeze 2`.

Command:  resnestkit train --data photographs --recipe finetune
Expected: not measured; the published weights (110 MB) are downloaded once.
"""

from resnestkit.training.recipe import Recipe


def recipe() -> Recipe:
    """ResNeSt-50 from the authors' weights, for 20 epochs."""
    return Recipe(
        model="resnest50",
        weights="imagenet1k",
        epochs=20,
        batch_size=32,
        lr=0.04,
        warmup_epochs=2,
        ema=0.99,
        mixup=0.0,
        min_area=0.35,
        jitter=0.2,
    )
