"""Split attention (Zhang et al. 2020, section 3), as functions without parameters.

Names: b batch, R radix, K cardinality, C channels put out, c = C / K channels of one cardinal
group. Feature maps are *radix-major*: channel (r, k, c) lies at r*C + k*c' + c. The gate's logits
are *cardinality-major*: (k, r, c) lies at k*R*c' + r*c' + c. The published weights are laid out
so (appendix A of the paper), and `attention_weights` is the one place where the two meet.

Splits are taken with ``chunk``, whose views keep the channels_last layout; a 5-D view would not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def pool_splits(splits: Float[Tensor, "b RC h w"], radix: int) -> Float[Tensor, "b C 1 1"]:
    """Squeeze: the global average of the sum over the splits (equation 1).

    The average is taken before the sum, which is the same and never stores the summed map.
    """
    pooled = splits.mean((2, 3), keepdim=True)
    if radix == 1:
        return pooled
    batch, channels = pooled.shape[:2]
    return pooled.view(batch, radix, channels // radix, 1, 1).sum(1)


def attention_weights(
    logits: Float[Tensor, "b KRc 1 1"], radix: int, cardinality: int
) -> Float[Tensor, "b RC 1 1"]:
    """Gate: softmax over the radix, or a sigmoid where there is only one split (equation 3).

    A softmax over one element is the constant 1 and would gate nothing; the sigmoid is the
    softmax of (x, 0), that is, of one split against nothing. Logits come in cardinality-major
    and weights leave in radix-major, as the feature maps are.
    """
    if radix == 1:
        return torch.sigmoid(logits)
    batch, channels = logits.shape[:2]
    by_group = logits.view(batch, cardinality, radix, channels // (cardinality * radix))
    by_split = torch.softmax(by_group, dim=2).transpose(1, 2)
    return by_split.reshape(batch, channels, 1, 1)


def weigh_splits(
    splits: Float[Tensor, "b RC h w"], weights: Float[Tensor, "b RC 1 1"], radix: int
) -> Float[Tensor, "b C h w"]:
    """Join: the sum of the splits, each times its weight per channel (equation 2)."""
    return join(splits.chunk(radix, 1), weights.chunk(radix, 1))


def join(
    branches: Sequence[Float[Tensor, "b c h w"]], weights: Sequence[Float[Tensor, "b c 1 1"]]
) -> Float[Tensor, "b c h w"]:
    """The weighted sum of branches, in the branches' own type.

    Autocast computes a softmax in float32; weights of that type would turn every map into one.
    """
    casted = [weight.to(branches[0].dtype) for weight in weights]
    joined = branches[0] * casted[0]
    for branch, weight in zip(branches[1:], casted[1:], strict=True):
        joined = torch.addcmul(joined, branch, weight)
    return joined
