"""The family as one table. Imports without torch.

A row is a name, the spec, and what the spec costs: parameters, and multiply-adds (convolutions and
the classifier) at the size the net was published for. The tests build every row and hold it to its
numbers. To add a net, add a row.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace

from resnestkit.errors import UserError, nearest
from resnestkit.models.spec import InceptionSpec, NetSpec, SelectiveKernelSpec, Spec
from resnestkit.preprocessing import Interpolation


@dataclass(frozen=True, slots=True)
class Net:
    """One row of the table."""

    name: str
    spec: Spec
    params: int
    """Parameters with 1000 classes and 3 input channels (10 classes for the small-image forms)."""
    gmacs: float
    """10^9 multiply-adds of one image of ``size``, convolutions and classifier."""
    size: int = 224
    """Side of the square image in pixels for which the net was published."""
    aliases: tuple[str, ...] = ()
    """Names that other libraries give to the same net."""
    crop_ratio: float = 0.875
    """Side of the test crop over the resized short side, as the net was published."""
    interpolation: Interpolation = "bilinear"
    """How test images are resized, as the net was published."""

    @property
    def is_small(self) -> bool:
        """Whether this is a form for images of 32x32 and less."""
        return isinstance(self.spec, NetSpec) and self.spec.stem == "small"

    @property
    def classes(self) -> int:
        """Classes with which `params` and `gmacs` are counted."""
        return 10 if self.is_small else 1000


# --- The steps from ResNet to ResNeSt, each a change of the row before it -----------------------

L18, L34, L50, L101, L152 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)


def _basic(layers: tuple[int, ...]) -> NetSpec:
    return NetSpec(layers, block="basic")


def _resnet_a(layers: tuple[int, ...]) -> NetSpec:
    return NetSpec(layers, stride_in="1x1")


def _resnet(layers: tuple[int, ...]) -> NetSpec:
    return NetSpec(layers)


def _resnet_c(layers: tuple[int, ...], stem_width: int = 32) -> NetSpec:
    return replace(_resnet(layers), stem="deep", stem_width=stem_width)


def _resnet_d(layers: tuple[int, ...], stem_width: int = 32) -> NetSpec:
    return replace(_resnet_c(layers, stem_width), shortcut="avg")


def _resnext(layers: tuple[int, ...], cardinality: int, base_width: int) -> NetSpec:
    return replace(_resnet(layers), cardinality=cardinality, base_width=base_width)


def _se(spec: NetSpec) -> NetSpec:
    return replace(spec, se_reduction=16)


def _caffe(spec: NetSpec) -> NetSpec:
    return replace(spec, pool="max_ceil")


_SENET = replace(
    _se(_resnext(L152, 64, 4)),
    stem="deep",
    stem_width=64,
    reduce_first=2,
    shortcut="conv3x3",
    dropout=0.2,
)


def _resnest(layers: tuple[int, ...], stem_width: int = 32, dropout: float = 0.0) -> NetSpec:
    return replace(_resnet_d(layers, stem_width), radix=2, avd="after", dropout=dropout)


def _resnest_fast(radix: int, cardinality: int, base_width: int) -> NetSpec:
    return replace(
        _resnest(L50), radix=radix, cardinality=cardinality, base_width=base_width, avd="before"
    )


_SK_PAPER = SelectiveKernelSpec(reduction=16, divisor=32)
_SK_SPLIT = SelectiveKernelSpec(reduction=16, divisor=8, split_input=True)
_SK_BASIC = SelectiveKernelSpec(reduction=8, divisor=16, split_input=True)


def _sk(spec: NetSpec, choices: SelectiveKernelSpec) -> NetSpec:
    return replace(spec, sk=choices)


# --- Small images: a 3x3 stem, no pooling -----------------------------------------


def _small(cardinality: int = 1, base_width: int = 64) -> NetSpec:
    """The plain form: what the five twins below share. Their multiply-adds agree within 5%."""
    return NetSpec(
        (1, 2, 2, 2),
        widths=(16, 32, 64, 128),
        stem="small",
        stem_width=16,
        pool="none",
        cardinality=cardinality,
        base_width=base_width,
    )


TABLE: tuple[Net, ...] = (
    Net("resnet18", _basic(L18), 11_689_512, 1.814),
    Net("resnet34", _basic(L34), 21_797_672, 3.664),
    Net("resnet26", _resnet(L18), 15_995_176, 2.342, interpolation="bicubic"),
    Net("resnet50", _resnet(L50), 25_557_032, 4.089, aliases=("resnet50b",)),
    Net("resnet101", _resnet(L101), 44_549_160, 7.801, aliases=("resnet101b",)),
    Net("resnet152", _resnet(L152), 60_192_808, 11.514),
    Net("resnet50a", _resnet_a(L50), 25_557_032, 3.858),
    Net("resnet101a", _resnet_a(L101), 44_549_160, 7.570),
    Net("resnet50c", _resnet_c(L50), 25_576_264, 4.329),
    Net("resnet101c", _resnet_c(L101), 44_568_392, 8.041),
    Net("resnet26d", _resnet_d(L18), 16_014_408, 2.582, interpolation="bicubic"),
    Net("resnet50d", _resnet_d(L50), 25_576_264, 4.329),
    Net("resnet101d", _resnet_d(L101), 44_568_392, 8.041),
    Net("resnet50s", _resnet_c(L50, stem_width=64), 25_680_808, 5.444),
    Net("wide_resnet50_2", replace(_resnet(L50), base_width=128), 68_883_240, 11.398),
    Net("wide_resnet101_2", replace(_resnet(L101), base_width=128), 126_886_696, 22.753),
    Net("resnext50_32x4d", _resnext(L50, 32, 4), 25_028_904, 4.230),
    Net("resnext101_32x4d", _resnext(L101, 32, 4), 44_177_704, 7.970),
    Net("resnext101_64x4d", _resnext(L101, 64, 4), 83_455_272, 15.460),
    Net("seresnet50", _se(_resnet(L50)), 28_088_024, 4.092),
    Net("seresnet101", _se(_resnet(L101)), 49_326_872, 7.806),
    Net("seresnet152", _se(_resnet(L152)), 66_821_848, 11.520),
    Net("seresnet50a", _caffe(_se(_resnet_a(L50))), 28_088_024, 3.860, aliases=("legacy_seresnet50",)),
    Net("seresnet101a", _caffe(_se(_resnet_a(L101))), 49_326_872, 7.575, aliases=("legacy_seresnet101",)),
    Net("seresnet152a", _caffe(_se(_resnet_a(L152))), 66_821_848, 11.289, aliases=("legacy_seresnet152",)),
    Net("seresnext50_32x4d", _se(_resnext(L50, 32, 4)), 27_559_896, 4.233),
    Net("seresnext101_32x4d", _se(_resnext(L101, 32, 4)), 48_955_416, 7.975),
    Net("legacy_seresnext50_32x4d", _caffe(_se(_resnext(L50, 32, 4))), 27_559_896, 4.233),
    Net("legacy_seresnext101_32x4d", _caffe(_se(_resnext(L101, 32, 4))), 48_955_416, 7.975),
    Net("senet154", _SENET, 115_088_984, 20.688),
    Net("legacy_senet154", _caffe(_SENET), 115_088_984, 20.688),
    Net("skresnet18", _sk(_basic(L18), _SK_BASIC), 11_958_056, 1.814),
    Net("skresnet34", _sk(_basic(L34), _SK_BASIC), 22_282_376, 3.664),
    Net("skresnet50", _sk(_resnet(L50), _SK_SPLIT), 25_803_160, 4.089),
    Net("skresnet50d", _sk(_resnet_d(L50), _SK_SPLIT), 25_822_392, 4.329),
    Net("sknet50", _sk(_resnext(L50, 32, 4), _SK_PAPER), 27_479_784, 4.463, aliases=("skresnext50_32x4d",)),
    Net("sknet101", _sk(_resnext(L101, 32, 4), _SK_PAPER), 48_736_040, 8.449),
    Net("resnest14", _resnest((1, 1, 1, 1)), 10_611_688, 2.749, aliases=("resnest14d",)),
    Net("resnest26", _resnest((2, 2, 2, 2)), 17_069_448, 3.623, aliases=("resnest26d",)),
    Net("resnest50", _resnest(L50), 27_483_240, 5.371, aliases=("resnest50d",)),
    Net("resnest101", _resnest(L101, 64), 48_275_016, 13.321, 256, aliases=("resnest101e",)),
    Net("resnest200", _resnest((3, 24, 36, 3), 64, 0.2), 70_201_544, 35.520, 320, ("resnest200e",), 0.909, "bicubic"),
    Net("resnest269", _resnest((3, 30, 48, 8), 64, 0.2), 110_929_480, 77.349, 416, ("resnest269e",), 0.928, "bicubic"),
    Net("resnest50_fast_1s1x64d", _resnest_fast(1, 1, 64), 26_217_896, 4.329, interpolation="bicubic"),
    Net("resnest50_fast_2s1x64d", _resnest_fast(2, 1, 64), 27_483_240, 4.331, interpolation="bicubic"),
    Net("resnest50_fast_4s1x64d", _resnest_fast(4, 1, 64), 31_912_712, 4.335, interpolation="bicubic"),
    Net("resnest50_fast_1s2x40d", _resnest_fast(1, 2, 40), 25_946_680, 4.365, interpolation="bicubic"),
    Net("resnest50_fast_2s2x40d", _resnest_fast(2, 2, 40), 26_943_792, 4.366, interpolation="bicubic"),
    Net("resnest50_fast_4s2x40d", _resnest_fast(4, 2, 40), 30_417_592, 4.369, aliases=("resnest50d_4s2x40d",), interpolation="bicubic"),
    Net("resnest50_fast_1s4x24d", _resnest_fast(1, 4, 24), 25_677_000, 4.400, aliases=("resnest50d_1s4x24d",), interpolation="bicubic"),
    # Inception, and SE-Inception (Hu et al. 2017, section 3.3).
    Net("bn_inception", InceptionSpec("bn"), 11_285_224, 2.033),
    Net("se_bn_inception", InceptionSpec("bn", 16), 11_931_622, 2.033),
    Net("inception_resnet_v2", InceptionSpec("resnet_v2", dropout=0.2), 55_843_464, 13.156, 299, (), 0.8975, "bicubic"),
    Net("se_inception_resnet_v2", InceptionSpec("resnet_v2", 16, 0.2), 64_387_444, 13.164, 299, (), 0.8975, "bicubic"),
    # For images of 32x32 and less.
    Net("resnet23_small", _small(), 877_850, 0.0413, 32, crop_ratio=1.0),
    Net("seresnet23_small", _se(_small()), 966_866, 0.0414, 32, crop_ratio=1.0),
    Net("resnext23_small", _small(4, 24), 859_594, 0.0426, 32, crop_ratio=1.0),
    Net("sknet23_small", _sk(_small(8, 12), _SK_PAPER), 928_250, 0.0427, 32, crop_ratio=1.0),
    Net("resnest23_small", replace(_small(), shortcut="avg", radix=2, avd="before"), 949_690, 0.0414, 32, crop_ratio=1.0),
)  # fmt: skip

_BY_NAME = {name: net for net in TABLE for name in (net.name, *net.aliases)}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the nets that match a shell pattern, in the order of the table.

    Other libraries' names are tried if ours do not match.

    >>> list_models("resnest*50")
    ['resnest50']
    """
    ours = [net.name for net in TABLE if fnmatch.fnmatchcase(net.name, pattern)]
    return ours or [net.name for net in TABLE if fnmatch.filter(net.aliases, pattern)]


def find_net(name: str) -> Net:
    """The row of a net, by its name or another library's name for it.

    Raises UserError, with the nearest names, if there is none.
    """
    if name not in _BY_NAME:
        raise UserError(
            f"There is no net called {name!r}.{nearest(name, _BY_NAME)} "
            "`resnestkit models` lists them all."
        )
    return _BY_NAME[name]
