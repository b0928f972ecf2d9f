"""From a spec to its decoder: what turns a backbone's features into what a classifier reads."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.extras import require
from resnestkit.models.backbone import Backbone
from resnestkit.models.layers import norm_factory
from resnestkit.segmentation.parts import ASPP, FCNHead, adopt
from resnestkit.segmentation.spec import SegmenterSpec, aspp_rates

LIBRARY = "segmentation_models_pytorch"
EXTRA = "segmentation"
_NARROWED = 4
"""An FCN head has so many times fewer channels than it reads (PyTorch-Encoding, torchvision)."""


class LastStageDecoder(nn.Sequential):
    """Layers on the last stage's features alone."""

    def forward(self, features: list[Tensor]) -> Float[Tensor, "b c h w"]:
        """One layer after the other."""
        x = features[-1]
        for layer in self:
            x = layer(x)
        return x


def make_decoder(spec: SegmenterSpec, body: Backbone) -> tuple[nn.Module, int]:
    """The decoder of a spec, which reads a list of the image and its features, and its channels.

    Raises UserError if it needs an extra that is not there, or does not fit the backbone.
    """
    if spec.kind == "deeplabv3":
        return make_deeplab(spec, body), spec.settings.channels
    if spec.kind == "fcn":
        channels = body.stages[-1].channels
        # torchvision's, without its last layer, which is the classifier.
        head = make_fcn_head(spec, channels)
        return LastStageDecoder(*list(head)[:-1]), channels // _NARROWED
    require(LIBRARY, EXTRA)
    from resnestkit.segmentation.library import (  # noqa: PLC0415  (the library is an extra)
        make_library_decoder,
    )

    return make_library_decoder(spec, body)


def make_deeplab(spec: SegmenterSpec, body: Backbone) -> LastStageDecoder:
    """DeepLabV3's head (Chen et al. 2017) as the authors of ResNeSt have it.

    torchvision's ASPP, which has the authors' layers, but that theirs drops whole channels; and
    behind it, other than torchvision, they drop once more before the classifier.
    """
    settings, channels = spec.settings, spec.settings.channels
    aspp = ASPP(body.stages[-1].channels, aspp_rates(settings, body.output_stride), channels)
    aspp.project[-1] = nn.Dropout2d(settings.aspp_dropout)
    decoder = LastStageDecoder(
        aspp,
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        norm_factory(spec.head_norm)(channels),
        nn.ReLU(),
        nn.Dropout(settings.dropout),
    )
    adopt(decoder, spec.head_norm)
    return decoder


def make_fcn_head(spec: SegmenterSpec, channels: int) -> FCNHead:
    """3x3 to a quarter of the channels, norm, ReLU, dropout, classifier (Long et al. 2015)."""
    head = FCNHead(channels, spec.classes)
    adopt(head, spec.head_norm)
    for layer in head:
        if isinstance(layer, nn.Dropout):
            layer.p = spec.settings.dropout
    return head
