"""The branch for stuff (Kirillov et al. 2019, *Panoptic Feature Pyramid Networks*, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.detection.heads import start_small
from resnestkit.models.layers import ConvNormAct, norm_factory
from resnestkit.models.spec import NormPolicy


@torch.no_grad()
def read_stuff(
    logits: Float[Tensor, "k h w"], size: tuple[int, int]
) -> tuple[Int64[Tensor, "h2 w2"], Float[Tensor, "h2 w2"]]:
    """The likeliest channel of every pixel of a size, and its probability.

    As of all logits resized at once, but they are resized one channel at a time: at a photo's own
    size all of them would take gigabytes.
    """
    best, total = logits.new_full(size, -torch.inf), logits.new_zeros(size)
    channels = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for channel, row in enumerate(logits.contiguous()):
        one = F.interpolate(row[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        channels[one > best] = channel  # the first of equals, as argmax has it
        higher = torch.maximum(one, best)
        total = total.mul_(best.sub_(higher).exp_()).add_(one.sub_(higher).exp_())
        best = higher
    return channels, total.reciprocal_()


class StuffBranch(nn.Module):
    """Every level of the pyramid, brought to the size of the finest, added up and classified.

    A level goes up by 3x3 convolution, norm, ReLU and bilinear resizing, once for each finer level.
    The decoder of segmentation-models-pytorch's FPN is the same for nets that halve the side from
    stage to stage, with group norms of 32 groups; this one takes the sizes as they are, so that
    every net of the table fits, and any norm.

    Args:
        names: of the levels, the finest first.
        in_channels: of each level.
        channels: of the convolutions.
        outputs: how many classes it tells apart.
        norm: policy of its norms.
    """

    def __init__(
        self,
        names: Sequence[str],
        in_channels: int,
        channels: int,
        outputs: int,
        norm: NormPolicy,
    ) -> None:
        super().__init__()
        self.names, make = tuple(names), norm_factory(norm)
        self.towers = nn.ModuleList(
            nn.ModuleList(
                ConvNormAct(channels if step else in_channels, channels, 3, make)
                for step in range(max(1, depth))
            )
            for depth in range(len(self.names))
        )
        self.classifier = nn.Conv2d(channels, outputs, 1)
        start_small(self.classifier, 0.01)

    def forward(
        self, features: Mapping[str, Float[Tensor, "b c _ _"]]
    ) -> Float[Tensor, "b outputs h w"]:
        """Logits at the size of the finest level."""
        levels = [features[name] for name in self.names]
        total = self._tower(0)[0](levels[0])
        for depth in range(1, len(levels)):
            total = total + self._climb(levels, depth)
        logits: Tensor = self.classifier(total)
        return logits

    def _tower(self, depth: int) -> nn.ModuleList:
        tower = self.towers[depth]
        assert isinstance(tower, nn.ModuleList)
        return tower

    def _climb(self, levels: Sequence[Tensor], depth: int) -> Float[Tensor, "b channels h w"]:
        """One level at the size of the finest, by the sizes of those between."""
        x = levels[depth]
        for layer, finer in zip(self._tower(depth), reversed(levels[:depth]), strict=True):
            x = F.interpolate(layer(x), finer.shape[2:], mode="bilinear", align_corners=False)
        return x
