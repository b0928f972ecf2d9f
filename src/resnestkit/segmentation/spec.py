"""What a segmenter is: one frozen record, from which it is built again. Imports without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from resnestkit.models.spec import (
    NORM_POLICIES,
    OUTPUT_STRIDES,
    NormPolicy,
    Spec,
    spec_from_dict,
)

Kind = Literal["deeplabv3", "deeplabv3plus", "fcn", "pspnet", "upernet", "fpn", "unet"]

KINDS: tuple[Kind, ...] = get_args(Kind)

_OUTPUT_STRIDES: dict[Kind, int] = {"deeplabv3": 8, "fcn": 8, "pspnet": 8, "deeplabv3plus": 16}


def own_output_stride(kind: Kind) -> int:
    """At which output stride of the backbone a decoder was published."""
    return _OUTPUT_STRIDES.get(kind, max(OUTPUT_STRIDES))


def wants_auxiliary(kind: Kind) -> bool:
    """Whether a decoder is usually trained with a second head, on the last stage but one.

    It came with PSPNet (Zhao et al. 2017, section 3.3), and the authors of ResNeSt train their
    DeepLabV3 and FCN so. Decoders that read the other stages too have gradients there anyway.
    """
    return kind in {"deeplabv3", "fcn", "pspnet"}


@dataclass(frozen=True, slots=True)
class SegmentationSettings:
    """The choices in which segmentation codes differ; the defaults are those of the paper's models.

    They are those of PyTorch-Encoding at ac74841 (encoding/models/sseg/{base,deeplab,fcn}.py),
    where the authors train; what it lacks is as in the decoder's own paper.
    """

    align_corners: bool = True
    """Whether the centres of the corner pixels meet where logits are resized, or the borders
    (torchvision)."""
    aspp_rates: tuple[int, ...] = (12, 24, 36)
    """Dilations of ASPP's three convolutions at output stride 8. They span the same part of an
    image at any other: half as much at 16 (Chen et al. 2017, section 3.3)."""
    channels: int = 256
    """Of DeepLab's and UPerNet's convolutions, and of FPN's pyramid, whose blocks have half."""
    psp_channels: int = 512
    """Of PSPNet's last convolution."""
    unet_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    """Of U-Net's blocks, from the coarsest to that of the image's own size."""
    aspp_dropout: float = 0.5
    """Dropout after ASPP."""
    dropout: float = 0.1
    """Dropout before the classifier; DeepLabV3+, UPerNet and U-Net have none."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SegmentationSettings:
        """The inverse of ``dataclasses.asdict``. Raises TypeError on a field that is not known."""
        known: dict[str, Any] = {
            n: tuple(v) if isinstance(v, list) else v for n, v in values.items()
        }
        return cls(**known)


def aspp_rates(settings: SegmentationSettings, output_stride: int) -> tuple[int, ...]:
    """ASPP's dilations in pixels of the features that it reads."""
    return tuple(
        max(1, rate * min(OUTPUT_STRIDES) // output_stride) for rate in settings.aspp_rates
    )


def light_settings() -> SegmentationSettings:
    """For few classes, small images and few cores: a quarter of the channels."""
    return SegmentationSettings(
        channels=64, psp_channels=128, unet_channels=(128, 64, 32, 16, 16), aspp_dropout=0.1
    )


@dataclass(frozen=True, slots=True)
class SegmenterSpec:
    """A segmenter, complete but for how it wants its images, which is a `Preprocessing`."""

    kind: Kind
    net: Spec
    """The backbone."""
    classes: int
    """Labels are 0 to classes - 1; a background, where there is one, is a class as any other."""
    output_stride: int = 32
    """Image pixels per pixel of the backbone's last stage, at most."""
    norm: NormPolicy = "batch"
    """The backbone's norms."""
    head_norm: NormPolicy = "batch"
    """Norms of decoder and auxiliary head; FPN's blocks have group norms in any case."""
    auxiliary: bool = False
    """Whether an FCN head on the last stage but one gives logits too, in training alone."""
    settings: SegmentationSettings = SegmentationSettings()

    def __post_init__(self) -> None:
        settings = self.settings
        for holds, said in (
            (self.kind in KINDS, f"kind is {self.kind!r}; it must be one of {', '.join(KINDS)}"),
            (self.classes >= 2, f"classes is {self.classes}; it must be 2 or more"),
            (
                self.output_stride in OUTPUT_STRIDES,
                f"output_stride is {self.output_stride}; it must be 8, 16 or 32",
            ),
            (self.norm in NORM_POLICIES, f"norm is {self.norm!r}"),
            (self.head_norm in NORM_POLICIES, f"head_norm is {self.head_norm!r}"),
            (len(settings.aspp_rates) == 3, "aspp_rates are not three"),
            (
                1 <= len(settings.unet_channels) <= 5,
                f"unet_channels are {len(settings.unet_channels)}; they must be 1 to 5",
            ),
            (
                min(settings.channels, settings.psp_channels, *settings.unet_channels) >= 1,
                "channels are none",
            ),
            (0 <= settings.dropout < 1, f"dropout is {settings.dropout}"),
            (0 <= settings.aspp_dropout < 1, f"aspp_dropout is {settings.aspp_dropout}"),
        ):
            if not holds:
                raise ValueError(said)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SegmenterSpec:
        """The inverse of `to_dict`. Raises TypeError or ValueError where nothing can be built."""
        known = dict(values)
        known["net"] = spec_from_dict(dict(known["net"]))
        if "settings" in known:
            known["settings"] = SegmentationSettings.from_dict(known["settings"])
        return cls(**known)
