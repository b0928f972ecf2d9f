"""Weights for another number of classes or input channels than they were trained for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from resnestkit.models.backbone import Backbone


def adapt_stem(weight: Float[Tensor, "o i k k"], channels: int) -> Float[Tensor, "o channels k k"]:
    """The first convolution's weights for another number of input channels.

    Channels that both have keep their weights, new ones get the mean, and all are scaled by i /
    channels: an image whose channels are all alike gets exactly the response it got before. Fewer
    channels than before get the mean alone, so that one channel is grey.
    """
    before = weight.shape[1]
    mean = weight.mean(1, keepdim=True)
    if channels < before:
        spread = mean.expand(-1, channels, -1, -1)
    else:
        new = mean.expand(-1, channels - before, -1, -1)
        spread = torch.cat([weight, new], dim=1)
    return spread * (before / channels)


def adapt(model: Backbone, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Tensors made to fit a model's classes and input channels, and whether its head is new.

    A head of another number of classes is left as the model drew it: it is untrained.
    """
    state = model.state_dict()
    fitted = dict(tensors)
    stem = model.first_weight
    found = fitted.get(stem)
    if found is not None and found.ndim == 4 and found.shape[1] not in {0, state[stem].shape[1]}:
        fitted[stem] = adapt_stem(fitted[stem], state[stem].shape[1])
    head = [name for name in state if name.startswith(f"{model.head}.")]
    same = all(name in fitted and fitted[name].shape == state[name].shape for name in head)
    for name in [name for name in fitted if name.startswith(f"{model.head}.")]:
        if not same or name not in state:
            del fitted[name]
    if not same:
        fitted |= {name: state[name] for name in head}
    return fitted, not same
