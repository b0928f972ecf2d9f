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
) -> Float32[NDArray[np.float32], "h w"]:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of one output, the largest value 1.

    Args:
        forward: gives a number for each class (1, classes).
        layer: whose maps are looked at.
        image: what ``forward`` takes.
        target: the class.

    Returns:
        A map of the layer's size; zeros where nothing speaks for the class.

    Raises:
        UserError: captum is not installed.
    """
    require_captum()
    from captum.attr import LayerGradCam  # noqa: PLC0415  (an extra)

    with torch.enable_grad():
        found = LayerGradCam(forward, layer).attribute(
            image.detach().clone(), target, relu_attributions=True
        )
    values: NDArray[np.float32] = found.detach()[0, 0].float().cpu().numpy()
    largest = float(values.max())
    return values / np.float32(largest) if largest > 0 else values
