"""Class activation maps, by captum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from torch import Tensor, nn

from resnestkit.extras import require

EXTRA = "explain"


def require_captum() -> None:
    """Raise UserError, naming the extra that installs it, if the library is absent."""
    require("captum", EXTRA)


def map_activation(
    forward: Callable[[Tensor], Tensor],
    layer: nn.Module,
    image: Float[Tensor, "1 c h w"],
    target: int,
    *,
    by_place: bool = False,
) -> Float32[NDArray[np.float32], "h w"]:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of one output, the largest value 1.

    Grad-CAM weighs a channel by the mean of its gradients, everywhere alike, which fits what is
    pooled from the whole image. What is pooled from a part of it is HiResCAM's to tell (Draelos
    and Carin 2020, section 3): every place is weighed by its own gradient.

    Args:
        forward: gives a number for each class (1, classes).
        layer: whose maps are looked at.
        image: what ``forward`` takes.
        target: the class.
        by_place: whether it is HiResCAM instead.

    Returns:
        A map of the layer's size; zeros where nothing speaks for the class.

    Raises:
        UserError: captum is not installed.
    """
    require_captum()
    from captum.attr import LayerGradCam, LayerGradientXActivation  # noqa: PLC0415  (an extra)

    method = LayerGradientXActivation if by_place else LayerGradCam  # whose one map is a sum too
    with torch.enable_grad():
        found = method(forward, layer).attribute(image.detach().clone(), target)
    values: NDArray[np.float32] = found.detach()[0].sum(0).relu().float().cpu().numpy()
    largest = float(values.max())
    return values / np.float32(largest) if largest > 0 else values
