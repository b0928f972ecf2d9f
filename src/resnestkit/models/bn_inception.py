"""BN-Inception and SE-BN-Inception: ten modules of parallel convolutions."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.errors import UserError
from resnestkit.models.backbone import Stage
from resnestkit.models.inception import InceptionNet, MaxPool, make_gate
from resnestkit.models.layers import ConvNormAct, NormFactory, drop_block
from resnestkit.models.spec import InceptionSpec, StagePlan


class Widths(NamedTuple):
    """Channels of a module's branches, in the columns of Ioffe & Szegedy's figure 5."""

    conv1x1: int
    """0 leaves the branch out."""
    conv3x3_reduce: int
    conv3x3: int
    double3x3_reduce: int
    double3x3: int
    """Of both convolutions."""
    pool: Literal["average", "max"]
    pool_proj: int
    """0 passes what was pooled through."""

    @property
    def strides(self) -> bool:
        """Whether the module halves its maps: those that pass the pool through do."""
        return self.pool_proj == 0


MODULES = {
    #             1x1  3x3 reduce  double reduce   pool, projection
    "3a": Widths(64, *(64, 64), *(64, 96), "average", 32),
    "3b": Widths(64, *(64, 96), *(64, 96), "average", 64),
    "3c": Widths(0, *(128, 160), *(64, 96), "max", 0),
    "4a": Widths(224, *(64, 96), *(96, 128), "average", 128),
    "4b": Widths(192, *(96, 128), *(96, 128), "average", 128),
    "4c": Widths(160, *(128, 160), *(128, 160), "average", 128),
    "4d": Widths(96, *(128, 192), *(160, 192), "average", 128),
    "4e": Widths(0, *(128, 192), *(192, 256), "max", 0),
    "5a": Widths(352, *(192, 320), *(160, 224), "average", 128),
    "5b": Widths(352, *(192, 320), *(192, 224), "max", 128),
}
STAGES = (("3a", "3b"), ("3c", "4a", "4b", "4c", "4d"), ("4e", "5a", "5b"))
"""The modules of stage2, stage3 and stage4."""


class BNInception(InceptionNet):
    """Inception with batch normalisation (Ioffe & Szegedy 2015, section 4.2 and figure 5).

    Layer for layer the net of the SE authors' released SE-BN-Inception.prototxt, with its gates or
    without: every module's output is gated as a whole (Hu et al. 2017, section 3.3). Its pools pad
    nothing and round up; here they reach past the right and bottom border instead, which is the
    same for maps of even sides, and fits the convolutions beside them for odd ones.

    A stage of stride s has sides of ceil(side / s). Arguments are those of `InceptionNet`;
    DropBlock acts on a module's output before its gate.

    Raises:
        UserError: drop_path is not 0, but there are no shortcuts.
    """

    form = "bn"
    eps = 1e-5
    first_weight = "conv1.conv.weight"
    head = "fc"

    def _build(
        self,
        spec: InceptionSpec,
        plans: list[StagePlan],
        norm: NormFactory,
        drop_path: float,
        drop_block: float,
    ) -> tuple[Stage, ...]:
        if drop_path > 0:
            raise UserError(
                f"BN-Inception has no residual blocks to drop, but drop_path is {drop_path}; "
                "leave it at 0."
            )
        self.conv1 = ConvNormAct(self.in_channels, 64, 7, norm, stride=2)
        self.pool1 = ceil_max_pool(stride=2)
        self.conv2_reduce = ConvNormAct(64, 64, 1, norm)
        self.conv2 = ConvNormAct(64, 192, 3, norm)
        self.pool2 = ceil_max_pool(stride=2)
        levels = [
            Stage("stem", 64, 2, ("conv1",)),
            Stage("stage1", 192, plans[0].output_stride, ("pool1", "conv2_reduce", "conv2")),
        ]
        channels = 192
        for stage, (names, plan) in enumerate(zip(STAGES, plans[1:], strict=True), start=2):
            parts = ["pool2"] if stage == 2 else []
            for name in names:
                widths = MODULES[name]
                module = InceptionModule(
                    channels,
                    widths,
                    spec,
                    norm,
                    stride=plan.stride if widths.strides else 1,
                    dilation=plan.first_dilation if widths.strides else plan.dilation,
                    drop=drop_block if stage > 2 else 0.0,
                )
                channels = module.out_channels
                parts.append(f"inception_{name}")
                self.add_module(parts[-1], module)
            levels.append(Stage(f"stage{stage}", channels, plan.output_stride, tuple(parts)))
        return tuple(levels)


class InceptionModule(nn.Module):
    """A 1x1, a 3x3, two 3x3 and a pool side by side, joined by channel, and gated."""

    def __init__(
        self,
        in_channels: int,
        widths: Widths,
        spec: InceptionSpec,
        norm: NormFactory,
        *,
        stride: int = 1,
        dilation: int = 1,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        reduce, double = widths.conv3x3_reduce, widths.double3x3
        self.conv1x1 = ConvNormAct(in_channels, widths.conv1x1, 1, norm) if widths.conv1x1 else None
        self.conv3x3_reduce = ConvNormAct(in_channels, reduce, 1, norm)
        self.conv3x3 = ConvNormAct(
            reduce, widths.conv3x3, 3, norm, stride=stride, dilation=dilation
        )
        self.double3x3_reduce = ConvNormAct(in_channels, widths.double3x3_reduce, 1, norm)
        self.double3x3a = ConvNormAct(widths.double3x3_reduce, double, 3, norm, dilation=dilation)
        self.double3x3b = ConvNormAct(double, double, 3, norm, stride=stride, dilation=dilation)
        self.pool: nn.Module
        self.pool_proj: nn.Module
        if widths.strides:
            self.pool = ceil_max_pool(stride, dilation)
            self.pool_proj = nn.Identity()
        else:
            centred = MaxPool(1, dilation, before=dilation, after=dilation)
            self.pool = AveragePool(dilation) if widths.pool == "average" else centred
            self.pool_proj = ConvNormAct(in_channels, widths.pool_proj, 1, norm)
        pooled = widths.pool_proj or in_channels
        self.out_channels = widths.conv1x1 + widths.conv3x3 + double + pooled
        self.drop = drop_block(drop)
        self.se = make_gate(spec, self.out_channels)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Run the branches, join them, gate them."""
        branches = [] if self.conv1x1 is None else [self.conv1x1(x)]
        branches += [
            self.conv3x3(self.conv3x3_reduce(x)),
            self.double3x3b(self.double3x3a(self.double3x3_reduce(x))),
            self.pool_proj(self.pool(x)),
        ]
        out: Tensor = self.se(self.drop(torch.cat(branches, 1)))
        return out


class AveragePool(nn.Module):
    """3x3 average pooling at stride 1; beyond the border are zeros, and they count."""

    def __init__(self, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Average pixels that are ``dilation`` apart."""
        if self.dilation == 1:
            return F.avg_pool2d(x, 3, 1, 1)
        channels = x.shape[1]
        kernel = x.new_full((channels, 1, 3, 3), 1 / 9)
        return F.conv2d(x, kernel, None, 1, self.dilation, self.dilation, channels)


def ceil_max_pool(stride: int, dilation: int = 1) -> MaxPool:
    """Max pooling whose windows start at every ``stride``-th pixel, to sides of ceil(n / stride).

    At stride 2 and even sides that is Caffe's (no padding, rounded up); at odd sides Caffe's would
    be one less.
    """
    return MaxPool(stride, dilation, after=2 * dilation)
