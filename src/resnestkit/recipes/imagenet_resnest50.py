"""ResNeSt-50 on ImageNet-1k, as published: 270 epochs, 8192 images per step, 224 pixels.

A step is 8 processes x 8 passes x 128 images; 128 is also what each of the authors' 64 GPUs saw,
and so what batch normalisation and mixup saw. docs/guides/recipe.md has the sources, line by line.

Command:  torchrun --nproc-per-node=8 -m resnestkit train --recipe imagenet_resnest50 --data DATA
Expected: 81.03% top-1 with the authors' PyTorch weights, 81.13% in the paper; not measured here,
          and no time was published.
"""

from resnestkit.training.recipe import Recipe


def recipe() -> Recipe:
    """Everything that the paper names; the other ImageNet recipes change what differs."""
    return Recipe(
        model="resnest50",
        epochs=270,
        batch_size=128,
        accumulate=8,
        lr=0.1,
        warmup_epochs=5,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        label_smoothing=0.1,
        mixup=0.2,
        drop_block=0.1,
        zero_gamma=True,
        size=224,
        train_size=224,
        crop="resized",
        min_area=0.08,
        auto_augment="autoaugment",
        jitter=0.4,
        lighting=0.1,
    )
