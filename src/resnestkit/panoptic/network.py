"""Panoptic FPN: a Mask R-CNN and a branch for stuff on one pyramid (arXiv 1901.02446, part 3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from resnestkit.detection.detector import RegionDetector, Target, build_detector
from resnestkit.detection.images import check_images, check_targets
from resnestkit.detection.parts import ImageList
from resnestkit.detection.regions import precise
from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone
from resnestkit.models.headed import Headed, explain_small_batch
from resnestkit.panoptic.branch import StuffBranch, read_stuff
from resnestkit.panoptic.merge import OTHER, Things, merge
from resnestkit.panoptic.spec import PanopticSpec
from resnestkit.preprocessing import Preprocessing

_NOTHING = -100
"""Of pixels that are not learnt: torch's own word for it."""
_VOID = 255
"""In a target's "semantic", of pixels without a class; so is every number beyond the classes."""
_MASK_THRESHOLD = 0.5


class PanopticNet(Headed):
    """One segment for every pixel: things by a detector, stuff by a branch beside its heads.

    Called as the detectors are: a list of images (c, h, w) with numbers from 0 to 1, in training
    also a list of targets with "boxes" (n, 4), "labels" (n,) and "masks" (n, h, w) of things, whose
    labels count things alone from 1, and "semantic" (h, w) of uint8, each pixel's class among all
    from 0, or 255. Gives a dict of losses in training. In evaluation it gives a list of dicts with
    boxes, labels and scores as a detector does, "segments" (h, w) of int32, and "segments_info", a
    list of `FoundSegment` in the order of their numbers in that map. There are no masks but those
    segments: every mask of a photo at its own size would take gigabytes.

    The branch tells things from nothing but stuff: to it they are one class, "other", as in the
    paper. Which thing it is the heads know better, and the merge would not ask.
    """

    def __init__(self, spec: PanopticSpec, detector: RegionDetector) -> None:
        super().__init__()
        self.spec, self.detector = spec, detector
        backbone = detector.backbone
        self.stuff = StuffBranch(
            [stage.name for stage in backbone.stages],
            backbone.out_channels,
            spec.settings.channels,
            1 + len(spec.stuff_classes),
            spec.stuff_norm,
        )
        self.head_is_new = True

    @property
    def classifier_name(self) -> str:
        """Name of the module that tells a thing's class."""
        return f"detector.{self.detector.classifier_name}"

    @property
    def preprocessing(self) -> Preprocessing:
        """How the backbone wants its images; ``size`` and ``crop_ratio`` are not used."""
        return self.detector.preprocessing

    @property
    def body(self) -> Backbone:
        """The net of the table."""
        return self.detector.backbone.body

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Any:
        """Losses in training, segments in evaluation.

        Raises UserError for images or targets that are none, and for a batch too small for its
        norms.
        """
        check_images(images, self.preprocessing.channels)
        if not self.training:
            return self._find(list(images))
        check_targets(images, targets, self.spec.detector)
        assert targets is not None
        _check_semantic(images, targets)
        with explain_small_batch(len(images), "panoptic net"):
            return self._learn(list(images), targets)

    def _learn(self, images: list[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        detector = self.detector
        boxed = [{n: t for n, t in one.items() if n != "semantic"} for one in targets]
        seen, boxed = detector.transform(images, boxed)
        features = detector.backbone(seen.tensors)
        proposals, losses = detector.rpn(seen, features, boxed)
        _, more = detector.roi_heads(features, proposals, seen.image_sizes, boxed)
        logits = self._stuff_logits(features, seen)
        loss = _pixel_loss(logits, self._wanted(targets, seen))
        return {**more, **losses, "loss_semantic": self.spec.settings.loss_weight * loss}

    def _find(self, images: list[Tensor]) -> list[dict[str, Any]]:
        detector = self.detector
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        seen, _ = detector.transform(images)
        features = detector.backbone(seen.tensors)
        proposals, _ = detector.rpn(seen, features)
        found, _ = detector.roi_heads(features, proposals, seen.image_sizes)
        masks = [one.pop("masks") for one in found]  # of 28x28 in their boxes
        found = detector.transform.postprocess(found, seen.image_sizes, sizes)
        logits = self._stuff_logits(features, seen)
        rows = zip(found, masks, logits, seen.image_sizes, sizes, strict=True)
        return [self._join(one, *rest) for one, *rest in rows]

    def _stuff_logits(self, features: Any, seen: ImageList) -> Float[Tensor, "b k h w"]:
        """At the size of what the net sees, padding included, in 32 bits at least."""
        logits = precise(self.stuff(features))
        size = seen.tensors.shape[2:]
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)

    def _wanted(self, targets: Sequence[Target], seen: ImageList) -> Int64[Tensor, "b h w"]:
        """The branch's class of every pixel that the net sees."""
        device = seen.tensors.device
        shape = (len(targets), *seen.tensors.shape[2:])
        wanted = torch.full(shape, _VOID, dtype=torch.uint8, device=device)
        rows = zip(wanted, targets, seen.image_sizes, strict=True)
        for row, target, (height, width) in rows:
            row[:height, :width] = _resize(target["semantic"], (height, width))
        table = torch.full((256,), _NOTHING, device=device)
        table[: self.spec.classes] = 0  # "other", but for stuff
        for channel, label in enumerate(self.spec.stuff_classes, 1):
            table[label] = channel
        return table[wanted.int()]

    def _join(
        self,
        found: dict[str, Tensor],
        masks: Float[Tensor, "n 1 m m"],
        logits: Float[Tensor, "k h2 w2"],
        seen: tuple[int, int],
        size: tuple[int, int],
    ) -> dict[str, Any]:
        """What was found in one image, at its own size."""
        channels, sureness = read_stuff(logits[:, : seen[0], : seen[1]], size)
        classes = torch.tensor([OTHER, *self.spec.stuff_classes], device=channels.device)
        things = Things(
            partial(self._paste, masks, found["boxes"], size),
            [self.spec.thing_classes[label - 1] for label in found["labels"].tolist()],
            found["scores"].tolist(),
        )
        numbers, segments = merge(things, classes[channels], sureness, self.spec.settings)
        return {**found, "segments": numbers, "segments_info": segments}

    def _paste(
        self,
        masks: Float[Tensor, "n 1 m m"],
        boxes: Float[Tensor, "n 4"],
        size: tuple[int, int],
        place: int,
    ) -> Bool[Tensor, "h w"]:
        """The mask of one thing in an image of a size."""
        return self.detector.transform.paste(masks[place], boxes[place], size) > _MASK_THRESHOLD


def build_panoptic(
    spec: PanopticSpec,
    preprocessing: Preprocessing | None = None,
    detector: RegionDetector | None = None,
) -> PanopticNet:
    """The panoptic net of a spec, with a detector of its own unless one is given.

    Under ``torch.device("meta")`` it is built without memory.
    """
    made = detector or build_detector(spec.detector, preprocessing)
    assert isinstance(made, RegionDetector)
    return PanopticNet(spec, made)


def _pixel_loss(
    logits: Float[Tensor, "b k h w"], wanted: Int64[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the labelled pixels; 0 where there are none."""
    summed = F.cross_entropy(logits, wanted, ignore_index=_NOTHING, reduction="sum")
    return summed / (wanted != _NOTHING).sum().clamp(min=1)


def _resize(mask: UInt8[Tensor, "h w"], size: tuple[int, int]) -> UInt8[Tensor, "h2 w2"]:
    """The pixels nearest, by their centres."""
    if tuple(mask.shape) == size:
        return mask
    return F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]


def _check_semantic(images: Sequence[Tensor], targets: Sequence[Target]) -> None:
    """Raise UserError unless every target tells the class of its image's pixels."""
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        semantic, size = target.get("semantic"), tuple(image.shape[1:])
        if not isinstance(semantic, Tensor):
            raise UserError(f"Target {number} has no semantic, which a panoptic net learns from.")
        if semantic.dtype != torch.uint8 or tuple(semantic.shape) != size:
            raise UserError(
                f"Target {number} has a semantic of shape {tuple(semantic.shape)} and "
                f"{semantic.dtype}; it must be {size} of uint8."
            )
