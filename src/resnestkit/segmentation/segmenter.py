"""A segmenter: a class for every pixel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone
from resnestkit.models.build import build_net
from resnestkit.models.headed import Headed, explain_small_batch
from resnestkit.preprocessing import Preprocessing
from resnestkit.segmentation.decoders import make_decoder, make_fcn_head
from resnestkit.segmentation.spec import SegmenterSpec

Image = Float[Tensor, "b i h w"]
Logits = Float[Tensor, "b k h w"]


class Segmenter(Headed):
    """A backbone, a decoder on its features, and a classifier of every pixel.

    Called with images that were normalised as `preprocessing` says, of any size from one pixel on.
    Gives their logits in evaluation; in training a dict of "logits" and, if there is one, those of
    the "auxiliary" head. Both have the size of the images.

    An image that is smaller than the backbone takes, or whose sides are no multiples of what the
    decoder takes (an FPN alone is so), is padded at the right and at the bottom: with zeros, which
    are the mean colour, as an image's part beyond a training crop is.
    """

    def __init__(self, spec: SegmenterSpec, preprocessing: Preprocessing, body: Backbone) -> None:
        super().__init__()
        self.spec, self.preprocessing, self.body = spec, preprocessing, body
        self.decoder, channels = make_decoder(spec, body)
        kernel = 3 if spec.kind in {"pspnet", "unet"} else 1  # as the library has them
        self.classifier = nn.Conv2d(channels, spec.classes, kernel, padding=kernel // 2)
        self.auxiliary = make_fcn_head(spec, body.stages[-2].channels) if spec.auxiliary else None
        self.multiple = body.output_stride if spec.kind == "fpn" else 1
        """Sides of an image that the decoder sees are multiples of this."""
        self.head_is_new = True

    @property
    def classifier_name(self) -> str:
        """Name of the module that tells the class."""
        return "classifier"

    def head_modules(self) -> list[nn.Module]:
        """All that is not the backbone, for a learning rate of its own."""
        heads = (self.decoder, self.classifier, self.auxiliary)
        return [head for head in heads if head is not None]

    def forward(self, images: Image) -> Logits | dict[str, Logits]:
        """Logits in evaluation, a dict of them in training.

        Raises UserError for what is no batch of images, and for one too small for its norms.
        """
        _check(images, self.body.in_channels)
        padded = self._pad(images)
        size = (images.shape[2], images.shape[3])
        if not self.training:
            return self._resize(self._decode(self._look(padded)), padded, size)
        with explain_small_batch(len(images), "segmenter"):
            features = self._look(padded)
            logits = {"logits": self._resize(self._decode(features), padded, size)}
            if self.auxiliary is not None:
                logits["auxiliary"] = self._resize(self.auxiliary(features[-2]), padded, size)
        return logits

    def _pad(self, images: Image) -> Image:
        """The images, with as little around them as backbone and decoder need."""
        height, width = (
            -(-max(side, self.body.least_side) // self.multiple) * self.multiple
            for side in images.shape[2:]
        )
        below, right = height - images.shape[2], width - images.shape[3]
        return F.pad(images, (0, right, 0, below)) if below or right else images

    def _look(self, images: Image) -> list[Float[Tensor, "b _ _ _"]]:
        """The images and their features, the finest first."""
        if self.spec.kind == "unet":
            return [images, *self.body.forward_levels(images).values()]
        # No other decoder reads the stem's: it is not kept, and the image has its place.
        return [images, images, *self.body.forward_features(images).values()]

    def _decode(self, features: list[Tensor]) -> Float[Tensor, "b k h2 w2"]:
        logits: Tensor = self.classifier(self.decoder(features))
        return logits

    def _resize(
        self, logits: Float[Tensor, "b k h2 w2"], images: Image, size: tuple[int, int]
    ) -> Logits:
        """Logits at the size of what was seen, without what was padded, in 32 bits at least."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        corners = self.spec.settings.align_corners
        whole = F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=corners)
        return whole[:, :, : size[0], : size[1]]


def _check(images: Tensor, channels: int) -> None:
    """Raise UserError unless these are images (b, channels, h, w) of numbers."""
    if images.ndim != 4 or images.shape[1] != channels or not images.numel():
        raise UserError(
            f"The images are of shape {tuple(images.shape)}; they must be (images, {channels}, "
            "height, width)."
        )
    if not images.is_floating_point():
        raise UserError(
            f"The images hold whole numbers ({images.dtype}); normalise them as the segmenter's "
            "preprocessing says."
        )


def build_segmenter(
    spec: SegmenterSpec, preprocessing: Preprocessing | None = None, body: Backbone | None = None
) -> Segmenter:
    """The segmenter of a spec, with a backbone of its own unless one is given.

    Under ``torch.device("meta")`` it is built without memory.
    Raises UserError if its decoder needs an extra that is not there, or does not fit the backbone.
    """
    images = preprocessing or Preprocessing()
    return Segmenter(spec, images, body or build_body(spec, images.channels))


def build_body(spec: SegmenterSpec, in_channels: int = 3) -> Backbone:
    """The backbone of a spec, without a classifier."""
    return build_net(
        spec.net,
        classes=0,
        in_channels=in_channels,
        output_stride=spec.output_stride,
        norm=spec.norm,
    )
