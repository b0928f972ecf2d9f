"""The feature pyramid on any backbone (Lin et al. 2017, figure 3)."""

from __future__ import annotations

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from resnestkit.detection.parts import LastLevelMaxPool, LastLevelP6P7
from resnestkit.detection.spec import DetectorSpec, HeadNorm
from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone, Stage
from resnestkit.models.layers import NormFactory, norm_factory


class PyramidBackbone(nn.Module):
    """A backbone and the pyramid on its stages; parameter names are torchvision's.

    Two-stage detectors read every stage, and a level more that is the last one at every other
    pixel (P6). RetinaNet leaves the finest stage out, whose anchors would be too many, and adds
    two convolutions of stride 2 (P6, P7).

    Raises UserError for a backbone that does not pad: boxes are told from where features lie.
    """

    def __init__(self, body: Backbone, spec: DetectorSpec) -> None:
        super().__init__()
        # A stage that takes a side n to less than n over its stride has unpadded layers before it.
        if body.least_side > body.output_stride:
            raise UserError(
                f"No detector is built on an {type(body).__name__}: it pads so little that its "
                "features do not lie where their strides say; choose another backbone."
            )
        self.body = body
        dense = spec.kind == "retinanet"
        self.stages: tuple[Stage, ...] = body.stages[1:] if dense else body.stages
        self.out_channels = spec.fpn_channels
        self.fpn = FeaturePyramidNetwork(
            [stage.channels for stage in self.stages],
            spec.fpn_channels,
            extra_blocks=_make_extra(self.stages[-1], spec) if dense else LastLevelMaxPool(),
            norm_layer=head_norm_factory(spec.head_norm),
        )
        strides = [stage.stride for stage in self.stages]
        self.strides = (*strides, *(strides[-1] * 2**i for i in range(1, 3 if dense else 2)))
        """Image pixels per pixel of every level, the extra ones too."""

    def forward(self, x: Float[Tensor, "b i h w"]) -> dict[str, Float[Tensor, "b c _ _"]]:
        """Features of every level, the finest first, by their stages' names and "pool" or "p6"."""
        features = self.body.forward_features(x)
        chosen = OrderedDict((stage.name, features[stage.name]) for stage in self.stages)
        levels: dict[str, Tensor] = self.fpn(chosen)
        return levels


def head_norm_factory(policy: HeadNorm) -> NormFactory | None:
    """The norm of pyramid and heads; None is a convolution with a bias in its place."""
    return None if policy == "none" else norm_factory(policy)


def _make_extra(last: Stage, spec: DetectorSpec) -> LastLevelP6P7:
    from_stage = spec.settings.p6_from == "c5"
    extra = LastLevelP6P7(last.channels if from_stage else spec.fpn_channels, spec.fpn_channels)
    # torchvision tells which of the two to read by their channels, which may be equal.
    extra.use_P5 = not from_stage
    return extra
