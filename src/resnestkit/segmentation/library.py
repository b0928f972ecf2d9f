"""Decoders of segmentation-models-pytorch on our features. Imported where its extra is there.

They read a list of features, the finest first: the image itself, then the stem, then the stages.
Names of their parameters are the library's, so that its checkpoints load.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone
from resnestkit.segmentation.parts import adopt
from resnestkit.segmentation.spec import SegmenterSpec, aspp_rates

_SKIP = 2
"""Place of the finest stage in the list of features."""

_FPN_GROUPS = 32
"""Of the norms in FPN's blocks. Each has two channels at least, so that one pixel can be normed."""


class SeparableDecoder(DeepLabV3PlusDecoder):
    """DeepLabV3+'s (Chen et al. 2018), whose two inputs meet at the finer one's size.

    The library's own factor between them is right for two strides, and for images of whole strides.
    """

    def forward(self, features: list[Tensor]) -> Float[Tensor, "b c h w"]:
        """Context of the last stage, resized to the first, whose details are added."""
        details = self.block1(features[_SKIP])
        context = F.interpolate(
            self.aspp(features[-1]), details.shape[2:], mode="bilinear", align_corners=True
        )
        fused: Tensor = self.block2(torch.cat([context, details], dim=1))
        return fused


def make_library_decoder(spec: SegmenterSpec, body: Backbone) -> tuple[nn.Module, int]:
    """The decoder of a spec, and its channels. It is fresh, and initialised as the library does.

    Raises UserError if an FPN could not join the backbone's stages.
    """
    channels = [body.in_channels, *(level.channels for level in body.levels)]
    decoder, width = _make(spec, body, channels)
    adopt(decoder, spec.head_norm)
    initialize_decoder(decoder)
    return decoder, width


def _make(spec: SegmenterSpec, body: Backbone, channels: list[int]) -> tuple[nn.Module, int]:
    settings = spec.settings
    if spec.kind == "deeplabv3plus":
        decoder = SeparableDecoder(
            channels,
            encoder_depth=len(channels) - 1,
            out_channels=settings.channels,
            atrous_rates=aspp_rates(settings, body.output_stride),
            output_stride=body.output_stride,
            aspp_separable=True,
            aspp_dropout=settings.aspp_dropout,
        )
        return decoder, settings.channels
    if spec.kind == "pspnet":
        width = settings.psp_channels
        return PSPDecoder(channels, out_channels=width, dropout=settings.dropout), width
    if spec.kind == "upernet":
        depth, width = len(channels) - 1, settings.channels
        return UPerNetDecoder(channels, encoder_depth=depth, decoder_channels=width), width
    if spec.kind == "fpn":
        return _make_fpn(spec, body, channels)
    blocks = settings.unet_channels
    return UnetDecoder(channels, blocks, n_blocks=len(blocks)), blocks[-1]


def _make_fpn(spec: SegmenterSpec, body: Backbone, channels: list[int]) -> tuple[nn.Module, int]:
    """The library's FPN doubles sides on its way up, so that stages must halve them."""
    halved = all(later.stride == 2 * stage.stride for stage, later in pairwise(body.stages))
    if not halved or body.least_side > body.output_stride:
        other = "output stride 32" if spec.output_stride < 32 else "another backbone"
        raise UserError(
            "An fpn joins stages of which each is half as fine as the one before, and this "
            f"backbone's at output stride {spec.output_stride} are not: take {other}, or unet or "
            "upernet."
        )
    pyramid = spec.settings.channels
    width = max(pyramid // (2 * _FPN_GROUPS) * _FPN_GROUPS, 2 * _FPN_GROUPS)
    decoder = FPNDecoder(
        channels,
        encoder_depth=len(channels) - 1,
        pyramid_channels=pyramid,
        segmentation_channels=width,
        dropout=spec.settings.dropout,
    )
    return decoder, width
