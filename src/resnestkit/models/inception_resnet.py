"""Inception-ResNet-v2 and SE-Inception-ResNet-v2: Inception's branches as residual branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.errors import UserError
from resnestkit.models.backbone import Stage
from resnestkit.models.inception import InceptionNet, MaxPool, make_gate
from resnestkit.models.layers import ConvNormAct, NormFactory, drop_block, stochastic_depth
from resnestkit.models.spec import InceptionSpec, StagePlan


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of a branch: its channels, its kernel, and whether it takes the stride."""

    width: int
    kernel: int | tuple[int, int] = 1
    strided: bool = False


Pool = Literal["average", "max"]
"""The average at stride 1, before a convolution; the maximum with the module's stride, alone."""
Branches = tuple[tuple[Conv | Pool, ...], ...]


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """A residual block: its channels, its branches, and by how much their sum is scaled down."""

    channels: int
    branches: Branches
    scale: float
    """Of a stage's blocks (Szegedy et al. 2016, section 3.3); the net's last one is not scaled."""


# Szegedy et al. 2016, figures 7 and 16 to 19, with the widths of the published weights.
MIXED_5B: Branches = (
    (Conv(96),),
    (Conv(48), Conv(64, 5)),
    (Conv(64), Conv(96, 3), Conv(96, 3)),
    ("average", Conv(64)),
)
MIXED_6A: Branches = (
    (Conv(384, 3, strided=True),),
    (Conv(256), Conv(256, 3), Conv(384, 3, strided=True)),
    ("max",),
)
MIXED_7A: Branches = (
    (Conv(256), Conv(384, 3, strided=True)),
    (Conv(256), Conv(288, 3, strided=True)),
    (Conv(256), Conv(288, 3), Conv(320, 3, strided=True)),
    ("max",),
)
BLOCK35 = BlockPlan(
    320, ((Conv(32),), (Conv(32), Conv(32, 3)), (Conv(32), Conv(48, 3), Conv(64, 3))), 0.17
)
BLOCK17 = BlockPlan(1088, ((Conv(192),), (Conv(128), Conv(160, (1, 7)), Conv(192, (7, 1)))), 0.10)
BLOCK8 = BlockPlan(2080, ((Conv(192),), (Conv(192), Conv(224, (1, 3)), Conv(256, (3, 1)))), 0.20)


class InceptionResNetV2(InceptionNet):
    """Inception-ResNet-v2 (Szegedy et al. 2016, section 3.2), with or without gates.

    It is the net of the published weights (TensorFlow's): its stem is simpler than the paper's
    figure 3, and it has more blocks. Names of parameters and outputs are those of timm's
    ``inception_resnet_v2``.

    With gates it is SE-Inception-ResNet-v2: one on the residual branch of every block, before the
    sum, as Hu et al. 2017 rule in section 3.3. The authors released no file of that net, so where
    the paper is silent the choice is ours: the gate comes before the branch is scaled, and the
    three modules without a shortcut have none.

    Little is padded: a side n is (n - 1) // 2 after each of the five strides, and two less after
    each of two convolutions, so an image of 299 ends at 8. Where a stride becomes a dilation,
    padding keeps the size. Arguments are those of `InceptionNet`; DropBlock acts on the residual
    branches, and on what the modules without a shortcut put out.

    The call raises UserError if the image is too small for one pixel to be left.
    """

    form = "resnet_v2"
    eps = 1e-3
    first_weight = "conv2d_1a.conv.weight"
    head = "classif"
    blocks: ClassVar[tuple[int, int, int]] = (10, 20, 9)
    """Residual blocks of stage2, stage3, and of stage4 before its last one."""

    def _build(
        self,
        spec: InceptionSpec,
        plans: list[StagePlan],
        norm: NormFactory,
        drop_path: float,
        drop_block: float,
    ) -> tuple[Stage, ...]:
        # What the sizes above leave one pixel of.
        self.least_side = 2 * self.output_stride + 11
        last = sum(self.blocks)
        rates = iter([drop_path * depth / last for depth in range(last + 1)])
        _, second, third, fourth = plans

        def repeat(plan: BlockPlan, blocks: int, dilation: int, drop: float) -> nn.Sequential:
            return nn.Sequential(
                *(
                    ResidualModule(plan, spec, norm, dilation, next(rates), drop)
                    for _ in range(blocks)
                )
            )

        self.conv2d_1a = BranchConv(self.in_channels, 32, 3, norm, stride=2, padded=False)
        self.conv2d_2a = BranchConv(32, 32, 3, norm, padded=False)
        self.conv2d_2b = BranchConv(32, 64, 3, norm)
        self.maxpool_3a = MaxPool(2)
        self.conv2d_3b = BranchConv(64, 80, 1, norm)
        self.conv2d_4a = BranchConv(80, 192, 3, norm, padded=False)
        self.maxpool_5a = MaxPool(2)
        self.mixed_5b = MixedModule(192, MIXED_5B, norm)
        self.repeat = repeat(BLOCK35, self.blocks[0], second.dilation, 0.0)
        self.mixed_6a = MixedModule(320, MIXED_6A, norm, third, drop_block)
        self.repeat_1 = repeat(BLOCK17, self.blocks[1], third.dilation, drop_block)
        self.mixed_7a = MixedModule(1088, MIXED_7A, norm, fourth, drop_block)
        self.repeat_2 = repeat(BLOCK8, self.blocks[2], fourth.dilation, drop_block)
        self.block8 = ResidualModule(
            BLOCK8, spec, norm, fourth.dilation, next(rates), drop_block, is_last=True
        )
        self.conv2d_7b = BranchConv(2080, 1536, 1, norm)
        parts = (
            ("conv2d_1a", "conv2d_2a", "conv2d_2b"),
            ("maxpool_3a", "conv2d_3b", "conv2d_4a"),
            ("maxpool_5a", "mixed_5b", "repeat"),
            ("mixed_6a", "repeat_1"),
            ("mixed_7a", "repeat_2", "block8", "conv2d_7b"),
        )
        names = ("stem", "stage1", "stage2", "stage3", "stage4")
        strides = (2, *(plan.output_stride for plan in plans))
        return tuple(map(Stage, names, (64, 192, 320, 1088, 1536), strides, parts))

    def _run(self, level: Stage, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        if level is self.stem_level and min(x.shape[2:]) < self.least_side:
            raise UserError(
                f"An image of {x.shape[2]}x{x.shape[3]} is too small for Inception-ResNet-v2 at "
                f"output stride {self.output_stride}; its sides must be {self.least_side} or more."
            )
        return super()._run(level, x)


class BranchConv(ConvNormAct):
    """A `ConvNormAct` whose kernel may be oblong, and which may do without padding."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        norm: NormFactory,
        *,
        stride: int = 1,
        dilation: int = 1,
        padded: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, 1, norm)
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (dilation * (high - 1) // 2, dilation * (wide - 1) // 2) if padded else 0
        self.conv = nn.Conv2d(
            in_channels, out_channels, (high, wide), stride, padding, dilation, bias=False
        )


class ParallelBranches(nn.Module):
    """Branches side by side, ``branch0`` and on, joined by channel."""

    out_channels: int

    def __init__(
        self,
        in_channels: int,
        branches: Branches,
        norm: NormFactory,
        *,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.branches = len(branches)
        self.out_channels = 0
        for index, branch in enumerate(branches):
            layers: list[nn.Module] = []
            channels = in_channels
            for layer in branch:
                if layer == "average":
                    layers.append(nn.AvgPool2d(3, 1, 1, count_include_pad=False))
                elif layer == "max":
                    around = 0 if stride > 1 else dilation
                    layers.append(MaxPool(stride, dilation, before=around, after=around))
                else:
                    layers.append(
                        BranchConv(
                            channels,
                            layer.width,
                            layer.kernel,
                            norm,
                            stride=stride if layer.strided else 1,
                            dilation=dilation,
                            padded=not layer.strided or stride == 1,
                        )
                    )
                    channels = layer.width
            self.out_channels += channels
            alone = len(layers) == 1
            self.add_module(f"branch{index}", layers[0] if alone else nn.Sequential(*layers))

    def join(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Run the branches and join them."""
        branches = [self.get_submodule(f"branch{index}") for index in range(self.branches)]
        return torch.cat([branch(x) for branch in branches], 1)


class MixedModule(ParallelBranches):
    """A module without a shortcut (Szegedy et al. 2016, figures 7 and 18, and mixed_5b).

    Where its stride became a dilation, it still has the dilation of the stage before.
    """

    def __init__(
        self,
        in_channels: int,
        branches: Branches,
        norm: NormFactory,
        plan: StagePlan | None = None,
        drop: float = 0.0,
    ) -> None:
        stride, dilation = (plan.stride, plan.first_dilation) if plan else (1, 1)
        super().__init__(in_channels, branches, norm, stride=stride, dilation=dilation)
        self.drop = drop_block(drop)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Run the branches and join them; DropBlock acts on all together."""
        out: Tensor = self.drop(self.join(x))
        return out


class ResidualModule(ParallelBranches):
    """relu(x + scale * gate(conv1x1(branches))) (Szegedy et al. 2016, figure 20).

    The 1x1 has a bias and no norm. The net's last block is neither scaled nor rectified.
    """

    def __init__(
        self,
        plan: BlockPlan,
        spec: InceptionSpec,
        norm: NormFactory,
        dilation: int,
        drop_path: float,
        drop: float,
        *,
        is_last: bool = False,
    ) -> None:
        super().__init__(plan.channels, plan.branches, norm, dilation=dilation)
        self.scale = 1.0 if is_last else plan.scale
        self.is_last = is_last
        self.conv2d = nn.Conv2d(self.out_channels, plan.channels, 1)
        self.drop = drop_block(drop)
        self.se = make_gate(spec, plan.channels)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add the branch, which stochastic depth may drop, to x, which always stays."""
        branch = self.se(self.drop(self.conv2d(self.join(x))))
        out = x + self.scale * self.drop_path(branch)
        return out if self.is_last else torch.relu_(out)
