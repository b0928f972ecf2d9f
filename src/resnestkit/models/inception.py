"""What the two Inception nets share: a chain of modules, cut into levels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.models.attention import SqueezeExcite
from resnestkit.models.backbone import Backbone, Stage
from resnestkit.models.layers import NormFactory, draw_weights, norm_factory
from resnestkit.models.spec import (
    InceptionForm,
    InceptionSpec,
    NetSpec,
    NormPolicy,
    StagePlan,
    plan_stages,
)

_FOUR_STAGES = NetSpec((1, 1, 1, 1))
"""Stages of strides 4, 8, 16 and 32, as a ResNet's: so they trade strides for dilations alike."""


class InceptionNet(Backbone):
    """A chain of modules in five levels, global average, classifier.

    The parts of a level (`Stage.parts`) are its modules in the order in which they run, so a
    subclass only builds them and says where the levels end.

    Args:
        spec: which net, with or without gates.
        classes: number of logits; 0 leaves the classifier out, and the call then gives the pooled
            features (b, channels of the last stage).
        in_channels: channels of the image.
        output_stride: 8, 16 or 32. A module whose stride would go beyond it strides no more, and
            what comes after it is dilated: convolutions and pools, with padding to match.
        norm: "batch", "sync", "frozen" or "group".
        drop_path: stochastic depth's probability in the last residual block; it rises linearly
            from 0 at the first (Huang et al. 2016, equation 4).
        drop_block: DropBlock's probability in the modules of the last two stages.
        dropout: before the classifier; None is what the spec says.
        zero_gamma: taken for the sake of the options that all nets share. No branch of these nets
            ends in a norm, so there is no last norm to zero; nothing happens.

    Raises:
        ValueError: the spec is another net's, or output_stride or norm is none of those named.
    """

    form: ClassVar[InceptionForm]
    eps: ClassVar[float]
    """What the norms add to the variance."""

    def __init__(
        self,
        spec: InceptionSpec,
        *,
        classes: int = 1000,
        in_channels: int = 3,
        output_stride: int = 32,
        norm: NormPolicy = "batch",
        drop_path: float = 0.0,
        drop_block: float = 0.0,
        dropout: float | None = None,
        zero_gamma: bool = True,
    ) -> None:
        super().__init__()
        if spec.form != self.form:
            raise ValueError(f"form is {spec.form!r}; this net is {self.form!r}")
        del zero_gamma
        self.spec, self.classes, self.in_channels = spec, classes, in_channels
        self.norm_policy = norm
        plans = plan_stages(_FOUR_STAGES, output_stride)
        self.output_stride = plans[-1].output_stride
        self.head_is_new = classes > 0

        make_norm = norm_with_eps(norm, self.eps)
        levels = self._build(spec, plans, make_norm, drop_path, drop_block)
        self.stem_level, self.stages = levels[0], levels[1:]
        self.drop = nn.Dropout(spec.dropout if dropout is None else dropout)
        features = self.stages[-1].channels
        self.add_module(self.head, nn.Linear(features, classes) if classes else nn.Identity())
        draw_weights(self)

    @abstractmethod
    def _build(
        self,
        spec: InceptionSpec,
        plans: list[StagePlan],
        norm: NormFactory,
        drop_path: float,
        drop_block: float,
    ) -> tuple[Stage, ...]:
        """Add the modules up to the classifier, and give the levels, the stem's first."""

    def forward_levels(self, x: Float[Tensor, "b i h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Features of the stem before its pooling, and of every stage."""
        features = {}
        for level in self.levels:
            x = self._run(level, x)
            features[level.name] = x
        return features

    def forward_features(self, x: Float[Tensor, "b i h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Features of every stage by name: stage1 (finest) to stage4 (coarsest)."""
        features = self.forward_levels(x)
        del features[self.stem_level.name]
        return features

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b classes"]:
        """Logits of an image that was normalised as its preprocessing says."""
        for level in self.levels:  # not by forward_levels, which keeps every level's
            x = self._run(level, x)
        logits: Tensor = self.get_submodule(self.head)(self.drop(x.mean((2, 3))))
        return logits

    def _run(self, level: Stage, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        for part in level.parts:
            x = self.get_submodule(part)(x)
        return x


class MaxPool(nn.Module):
    """3x3 max pooling of a map to which so many pixels that never win are added on either side.

    `nn.MaxPool2d` pads both sides alike, and by no more than half its undilated kernel.
    """

    def __init__(self, stride: int, dilation: int = 1, *, before: int = 0, after: int = 0) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.padding = (before, after, before, after)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Pad and pool."""
        if any(self.padding):
            x = F.pad(x, self.padding, value=-torch.inf)
        return F.max_pool2d(x, 3, self.stride, dilation=self.dilation)


def norm_with_eps(policy: NormPolicy, eps: float) -> NormFactory:
    """The norm layer of a policy, with that eps. Raises ValueError on another policy."""
    make_norm = norm_factory(policy)

    def make(channels: int) -> nn.Module:
        norm: Any = make_norm(channels)
        norm.eps = eps
        made: nn.Module = norm
        return made

    return make


def make_gate(spec: InceptionSpec, channels: int) -> nn.Module:
    """The gate of a module, or the identity: channels / reduction units, to the unit.

    That is how wide the authors' released SE-BN-Inception is (320 channels have 20 units).
    """
    if not spec.se_reduction:
        return nn.Identity()
    return SqueezeExcite(channels, spec.se_reduction, divisor=1)
