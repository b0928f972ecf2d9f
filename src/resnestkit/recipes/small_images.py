"""Images of 32x32, such as CIFAR's, from scratch on a GPU with time for a whole schedule.

Command:  resnestkit train --data DATA/cifar10 --recipe small_images
Expected: not measured; `--recipe cifar10` is the short form for a CPU, which was.
"""

from resnestkit.training.recipe import Recipe


def recipe() -> Recipe:
    """Small ResNeSt, 200 epochs, against whose length mixup and erasing stand."""
    return Recipe(
        model="resnest23_small",
        epochs=200,
        batch_size=128,
        lr=0.2,
        warmup_epochs=5,
        weight_decay=5e-4,
        label_smoothing=0.1,
        mixup=0.2,
        mixup_off_epochs=10,
        size=32,
        crop="pad",
        padding=4,
        erase=0.25,
        crop_ratio=1.0,
    )
