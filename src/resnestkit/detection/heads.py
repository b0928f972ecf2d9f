"""What looks at each region: class, box and mask, in one stage or in a cascade of three."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from resnestkit.detection.parts import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    MaskRCNNHeads,
    MaskRCNNPredictor,
    RoIHeads,
    TwoMLPHead,
    maskrcnn_inference,
)
from resnestkit.detection.pyramid import head_norm_factory
from resnestkit.detection.regions import AlignedPool, Sizes, box_loss, precise
from resnestkit.detection.spec import DetectorSpec, has_masks

Target = dict[str, Tensor]
Features = dict[str, Tensor]

BOX_SIDE, MASK_SIDE = 7, 14
"""Sides of what is pooled from a region."""


class RegionHeads(RoIHeads):
    """The heads of Faster and Mask R-CNN (Ren et al. 2015; He et al. 2017).

    torchvision's, but for its losses: their beta is a setting, the masks to learn are pooled with
    the alignment of the features, and a batch without objects leaves every head a number to give.
    """

    def __init__(self, spec: DetectorSpec, names: Sequence[str], strides: Sequence[int]) -> None:
        settings = spec.settings
        super().__init__(
            AlignedPool(names, strides, BOX_SIDE, settings, flat=settings.box_head == "2fc"),
            self.make_box_head(spec),
            self.make_predictor(spec),
            fg_iou_thresh=settings.cascade_ious[0],
            bg_iou_thresh=settings.cascade_ious[0],
            batch_size_per_image=settings.box_batch,
            positive_fraction=0.25,
            bbox_reg_weights=settings.box_weights,
            score_thresh=settings.score,
            nms_thresh=settings.nms,
            detections_per_img=settings.detections,
        )
        self.beta, self.aligned = settings.beta, settings.aligned
        if has_masks(spec.kind):
            self.mask_roi_pool = AlignedPool(names, strides, MASK_SIDE, settings)
            self.mask_head = MaskRCNNHeads(
                spec.fpn_channels,
                (spec.fpn_channels,) * settings.mask_convs,
                1,
                norm_layer=head_norm_factory(spec.head_norm),
            )
            self.mask_predictor = MaskRCNNPredictor(
                spec.fpn_channels, spec.fpn_channels, spec.classes + 1
            )
            start_small(self.mask_predictor.mask_fcn_logits, 0.001)

    def make_box_head(self, spec: DetectorSpec) -> nn.Module:
        """The layers between a region's features and its class and box."""
        return make_box_head(spec)

    def make_predictor(self, spec: DetectorSpec) -> nn.Module:
        """A region's class, and a box for every class."""
        return make_predictor(spec, spec.classes + 1)

    def forward(
        self,
        features: Features,
        proposals: list[Tensor],
        image_shapes: Sizes,
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], dict[str, Tensor]]:
        """Detections in evaluation, losses in training; the other one is empty."""
        if not self.training:
            return self.detect(features, proposals, image_shapes), {}
        assert targets is not None
        drawn, matched, labels, deltas = self.select_training_samples(proposals, targets)
        losses = self.box_losses(features, drawn, labels, deltas, image_shapes, targets)
        if self.has_mask():
            losses["loss_mask"] = self.mask_losses(
                features, drawn, matched, labels, image_shapes, targets
            )
        return [], losses

    def detect(
        self, features: Features, proposals: list[Tensor], image_shapes: Sizes
    ) -> list[Target]:
        """Boxes, labels and scores of each image, and masks of 28x28 in its boxes."""
        logits, deltas, regions = self.predict(features, proposals, image_shapes)
        found = self.postprocess_detections(logits, deltas, regions, image_shapes)
        names = ("boxes", "scores", "labels")
        detections = [dict(zip(names, one, strict=True)) for one in zip(*found, strict=True)]
        if self.has_mask():
            logits = self.mask_logits(features, [d["boxes"] for d in detections], image_shapes)
            masks = maskrcnn_inference(logits, [d["labels"] for d in detections])
            for detection, mask in zip(detections, masks, strict=True):
                detection["masks"] = mask
        return detections

    def predict(
        self, features: Features, proposals: list[Tensor], image_shapes: Sizes
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Class logits, a box for every class, and the regions from which these are told."""
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        return precise(logits), precise(deltas), proposals

    def box_losses(
        self,
        features: Features,
        proposals: list[Tensor],
        labels: list[Tensor],
        deltas: Sequence[Tensor],
        image_shapes: Sizes,
        targets: list[Target],
    ) -> dict[str, Tensor]:
        """Losses of class and box over the proposals that were drawn."""
        del targets
        logits, found, _ = self.predict(features, proposals, image_shapes)
        classes, boxes = region_losses(
            logits, found, torch.cat(labels), torch.cat(tuple(deltas)), self.beta
        )
        return {"loss_classifier": classes, "loss_box_reg": boxes}

    def mask_losses(
        self,
        features: Features,
        proposals: list[Tensor],
        matched: list[Tensor],
        labels: list[Tensor],
        image_shapes: Sizes,
        targets: list[Target],
    ) -> Tensor:
        """Loss of the masks, over the proposals that are objects."""
        objects = [torch.where(each > 0)[0] for each in labels]
        weight = 1.0
        if not sum(map(len, objects)):
            # The head must run all the same: over no region a norm's statistics are no numbers,
            # and processes that share them would wait for each other.
            objects[0], weight = objects[0].new_zeros(1), 0.0
        boxes = [box[o] for box, o in zip(proposals, objects, strict=True)]
        logits = self.mask_logits(features, boxes, image_shapes)
        if not weight:
            return logits.sum() * weight
        wanted = [
            self._crop(target["masks"], box, index[o], logits.shape[-1])
            for target, box, index, o in zip(targets, boxes, matched, objects, strict=True)
        ]
        classes = torch.cat([label[o] for label, o in zip(labels, objects, strict=True)])
        chosen = logits[torch.arange(len(classes), device=classes.device), classes]
        return F.binary_cross_entropy_with_logits(chosen, torch.cat(wanted).to(chosen.dtype))

    def mask_logits(
        self, features: Features, boxes: list[Tensor], image_shapes: Sizes
    ) -> Float[Tensor, "n classes 28 28"]:
        """Logits of every class's mask in each box."""
        pooled = self.mask_roi_pool(features, boxes, image_shapes)
        return precise(self.mask_predictor(self.mask_head(pooled)))

    def _crop(
        self, masks: Tensor, boxes: Float[Tensor, "n 4"], index: Int[Tensor, " n"], side: int
    ) -> Float[Tensor, "n side side"]:
        """Each box's part of its object's mask."""
        if not len(boxes):
            return boxes.new_zeros(0, side, side)
        regions = torch.cat([index[:, None].to(boxes), boxes], dim=1)
        planes = masks[:, None].to(boxes)
        cropped: Tensor = roi_align(planes, regions, side, 1.0, -1, self.aligned)
        return cropped[:, 0]


def make_box_head(spec: DetectorSpec) -> nn.Module:
    """Four convolutions and a layer, or two layers."""
    width, units = spec.fpn_channels, spec.settings.box_units
    head: nn.Module
    if spec.settings.box_head == "2fc":
        head = TwoMLPHead(width * BOX_SIDE**2, units)
    else:
        norm = head_norm_factory(spec.head_norm)
        head = FastRCNNConvFCHead((width, BOX_SIDE, BOX_SIDE), [width] * 4, [units], norm)
    return head


def make_predictor(spec: DetectorSpec, boxes: int) -> nn.Module:
    """A region's class, background included, and so many boxes.

    Both start near nothing (Girshick 2015, *Fast R-CNN*, section 3.1), so that a cascade's first
    boxes are its proposals.
    """
    predictor: nn.Module = FastRCNNPredictor(spec.settings.box_units, spec.classes + 1)
    predictor.bbox_pred = nn.Linear(spec.settings.box_units, 4 * boxes)
    start_small(predictor.cls_score, 0.01)
    start_small(predictor.bbox_pred, 0.001)
    return predictor


def start_small(layer: Any, deviation: float) -> None:
    """Draw a layer's weights with a deviation of their own, and no bias.

    torchvision draws them by the number of outputs: with few classes, masks would start sure.
    """
    nn.init.normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)


def region_losses(
    logits: Float[Tensor, "n c"],
    deltas: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    wanted: Float[Tensor, "n 4"],
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy over all regions, and the boxes' smooth-L1 over those that are objects.

    Both are divided by the number of all regions, so that every object weighs alike.
    ``deltas`` are a box (4) or a box for every class (4 c).
    """
    objects = torch.where(labels > 0)[0]
    boxes = deltas.reshape(len(deltas), deltas.shape[1] // 4, 4)
    column = labels[objects] if boxes.shape[1] > 1 else 0
    found = boxes[objects, column]
    return (
        F.cross_entropy(logits, labels),
        box_loss(found, wanted[objects], beta) / labels.numel(),
    )
