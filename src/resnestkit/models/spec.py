"""What a net is: one frozen record that the network class reads. Imports without torch.

Every field is a step on the road from ResNet to ResNeSt:

=============  ==========================================================================
ResNet-A       ``stride_in="1x1"``                                  (He et al. 2015)
ResNet-B       ``stride_in="3x3"``                                  (torchvision, "v1.5")
ResNet-C       B and ``stem="deep"``                                (He et al. 2018, 4.2)
ResNet-D       C and ``shortcut="avg"``                             (He et al. 2018, 4.2)
ResNeXt        ``cardinality=32, base_width=4``                     (Xie et al. 2016)
SE-Net         ``se_reduction=16``: a sigmoid gate after the block  (Hu et al. 2017)
SK-Net         ``sk=SelectiveKernelSpec(...)``: softmax over paths  (Li et al. 2019)
ResNeSt        D and ``radix=2, avd="after"``                       (Zhang et al. 2020)
=============  ==========================================================================
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

Block = Literal["basic", "bottleneck"]
Stem = Literal["7x7", "deep", "small"]
Pool = Literal["max", "max_ceil", "none"]
StrideIn = Literal["1x1", "3x3"]
Shortcut = Literal["conv", "avg", "conv3x3"]
AverageDown = Literal["none", "before", "after"]
NormPolicy = Literal["batch", "sync", "frozen", "group"]

OUTPUT_STRIDES = (8, 16, 32)
NORM_POLICIES: tuple[NormPolicy, ...] = get_args(NormPolicy)


@dataclass(frozen=True, slots=True)
class SelectiveKernelSpec:
    """Choices of a selective-kernel unit (Li et al. 2019, section 3.1)."""

    reduction: int = 16
    """r: the bottleneck of the gate has channels / r units, rounded to ``divisor``."""
    divisor: int = 32
    """Units of the gate are a multiple of this, and at least this (the paper's L)."""
    split_input: bool = False
    """Each path reads its own half of the channels (a form found in timm, not in the paper)."""


@dataclass(frozen=True, slots=True)
class NetSpec:
    """A residual net, complete: nothing else decides which modules are built."""

    layers: tuple[int, ...]
    """Blocks per stage."""
    block: Block = "bottleneck"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Base channels of each stage; a bottleneck stage puts out four times as many."""

    stem: Stem = "7x7"
    """One 7x7 of stride 2, three 3x3 of which the first has stride 2, or one 3x3 of stride 1."""
    stem_width: int = 64
    """Channels of the stem's convolutions; the last one of a deep stem has twice as many."""
    pool: Pool = "max"
    """3x3 max pooling of stride 2: padded, unpadded and rounded up (Caffe), or none."""

    cardinality: int = 1
    """K: groups of the 3x3 convolution."""
    base_width: int = 64
    """w: a bottleneck is int(width * w / 64) * K channels wide."""
    reduce_first: int = 1
    """The first 1x1 puts out this many times fewer channels (2 in SENet-154)."""
    stride_in: StrideIn = "3x3"
    """Which convolution of a bottleneck takes the stage's stride."""
    shortcut: Shortcut = "conv"
    """How a shortcut changes shape: 1x1, average pool then 1x1, or 3x3 where it strides."""

    radix: int = 0
    """R: 0 is a plain convolution, 1 a sigmoid gate, more a softmax over R splits."""
    attention_reduction: int = 4
    """Split attention's gate has mid channels * R / this units, and at least 32."""
    avd: AverageDown = "none"
    """A 3x3 average pool takes the stride, before or after the attention convolution."""
    se_reduction: int = 0
    """Squeeze-and-excitation after the block's last norm with this reduction; 0 is none."""
    sk: SelectiveKernelSpec | None = None
    """A selective-kernel unit in place of the (first) 3x3 convolution."""

    dropout: float = 0.0
    """Dropout before the classifier, as the authors train this net."""

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.widths):
            raise ValueError(f"{len(self.layers)} stages of blocks but {len(self.widths)} widths")
        if self.radix and self.sk:
            raise ValueError("a net has split attention (radix > 0) or selective kernels, not both")
        plain = NetSpec.__dataclass_fields__
        ignored: tuple[str, ...] = ()
        if self.block == "basic":
            ignored = ("radix", "cardinality", "base_width", "reduce_first", "stride_in", "avd")
        if self.sk:
            ignored += ("reduce_first", "stride_in", "avd", "se_reduction")
        for name in ignored:
            if getattr(self, name) != plain[name].default:
                raise ValueError(f"this block takes no {name}, but it is {getattr(self, name)!r}")
        if self.radix < 0:
            raise ValueError(f"radix is {self.radix}; it must be 0 or more")
        if self.block not in get_args(Block):
            raise ValueError(f"block is {self.block!r}; it must be basic or bottleneck")

    @property
    def expansion(self) -> int:
        """Channels that a stage puts out, per base channel."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def stem_channels(self) -> int:
        """Channels that the stem puts out."""
        return 2 * self.stem_width if self.stem == "deep" else self.stem_width

    @property
    def stem_stride(self) -> int:
        """Pixels of the image per pixel of the first stage's input."""
        return (1 if self.stem == "small" else 2) * (1 if self.pool == "none" else 2)

    def mid_width(self, stage: int) -> int:
        """Channels between the two 1x1 convolutions of a bottleneck of stage 0, 1, ..."""
        return int(self.widths[stage] * self.base_width / 64) * self.cardinality

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetSpec:
        """The inverse of `to_dict`. Raises TypeError on a field that is not known."""
        known = dict(values)
        known["layers"], known["widths"] = tuple(known["layers"]), tuple(known["widths"])
        if known.get("sk") is not None:
            known["sk"] = SelectiveKernelSpec(**known["sk"])
        return cls(**known)


InceptionForm = Literal["bn", "resnet_v2"]


@dataclass(frozen=True, slots=True)
class InceptionSpec:
    """An Inception net, with or without the gates of SE-Inception (Hu et al. 2017, section 3.3)."""

    form: InceptionForm
    """BN-Inception (Ioffe & Szegedy 2015) or Inception-ResNet-v2 (Szegedy et al. 2016)."""
    se_reduction: int = 0
    """Squeeze-and-excitation with this reduction: after every module of BN-Inception, on every
    residual branch of Inception-ResNet-v2; 0 is none."""
    dropout: float = 0.0
    """Dropout before the classifier."""

    def __post_init__(self) -> None:
        if self.form not in get_args(InceptionForm):
            raise ValueError(f"form is {self.form!r}; it must be bn or resnet_v2")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return dataclasses.asdict(self)


Spec = NetSpec | InceptionSpec


def spec_from_dict(values: dict[str, Any]) -> Spec:
    """The inverse of a spec's `to_dict`. Raises TypeError on a field that is not known."""
    return InceptionSpec(**values) if "form" in values else NetSpec.from_dict(values)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Where a stage strides and dilates, given the output stride asked of the whole net."""

    stride: int
    first_dilation: int
    dilation: int
    output_stride: int


def plan_stages(spec: NetSpec, output_stride: int = 32) -> list[StagePlan]:
    """Trade strides for dilations once the wanted output stride is reached.

    A dilated stage's first block still uses the dilation of the stage before it, as in the
    authors' code. Raises ValueError unless output_stride is 8, 16 or 32.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride is {output_stride}; it must be 8, 16 or 32")
    plans: list[StagePlan] = []
    reached, dilation = spec.stem_stride, 1
    for index in range(len(spec.layers)):
        wanted = 1 if index == 0 else 2
        before = dilation
        if reached * wanted > output_stride:
            dilation, wanted = dilation * wanted, 1
        reached *= wanted
        plans.append(StagePlan(wanted, before, dilation, reached))
    return plans
