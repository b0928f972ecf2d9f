"""The part of a detector that torch.compile makes faster, and no other."""

from __future__ import annotations

from typing import Any

from resnestkit.detection.detector import Detector


def compile_detector(model: Detector, multiple: int = 32, **options: Any) -> Detector:
    """Compile backbone and pyramid for images of any size, in place; the rest stays as it is.

    What follows them depends on how many boxes there are, and would be traced anew all the time.
    Names of parameters stay, so that checkpoints do.

    Args:
        model: a detector, in whatever mode; training is compiled too when it comes.
        multiple: images are padded to multiples of so many pixels, of 32: a larger one means
            fewer sizes, for those who compile with ``dynamic=False``, and a little more work.
        **options: those of ``torch.compile``, such as backend or mode.

    Returns:
        The same model.
    """
    if multiple < 32 or multiple % 32:
        raise ValueError(f"multiple is {multiple}; it must be a multiple of 32")
    model.transform.size_divisible = multiple
    model.backbone.compile(**{"dynamic": True, **options})
    return model
