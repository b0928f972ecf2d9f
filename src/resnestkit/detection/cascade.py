"""The cascade: three looks at each region (Cai & Vasconcelos 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import box_iou, clip_boxes_to_image, remove_small_boxes

from resnestkit.detection.heads import (
    Features,
    RegionHeads,
    Target,
    make_box_head,
    make_predictor,
    region_losses,
)
from resnestkit.detection.parts import BoxCoder, Matcher
from resnestkit.detection.regions import Sizes, precise, whole_image
from resnestkit.detection.spec import DetectorSpec

_SMALLEST = 1e-2
"""A box with a shorter side than this many pixels is none."""


class CascadeHeads(RegionHeads):
    """Three box heads, each on the boxes of the one before (Cai & Vasconcelos 2018).

    Stage by stage a region needs more overlap to be an object, and its box is told on a finer
    scale. One box serves all classes. The gradient into the pooled features is a third of each
    head's, as in Detectron2. At test, scores are the mean of the three, on the last boxes.
    """

    def __init__(self, spec: DetectorSpec, names: Sequence[str], strides: Sequence[int]) -> None:
        super().__init__(spec, names, strides)
        ious, weights = spec.settings.cascade_ious, spec.settings.box_weights
        self.matchers = [Matcher(iou, iou, allow_low_quality_matches=False) for iou in ious]
        self.coders = [
            BoxCoder(tuple(weight * (1 + stage) for weight in weights))
            for stage in range(len(ious))
        ]

    def make_box_head(self, spec: DetectorSpec) -> nn.Module:
        """A head for every stage."""
        return nn.ModuleList(make_box_head(spec) for _ in spec.settings.cascade_ious)

    def make_predictor(self, spec: DetectorSpec) -> nn.Module:
        """A predictor for every stage: of the class, and of one box for all classes."""
        return nn.ModuleList(make_predictor(spec, 1) for _ in spec.settings.cascade_ious)

    def predict(
        self, features: Features, proposals: list[Tensor], image_shapes: Sizes
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The stages' mean scores as logits, and the last stage's boxes, told from its regions."""
        regions, scores = proposals, []
        for stage in range(len(self.coders)):
            logits, deltas = self._run(stage, features, regions, image_shapes)
            scores.append(logits.softmax(-1))
            if stage + 1 < len(self.coders):
                moved = self._decode(stage, deltas, regions)
                regions = [
                    clip_boxes_to_image(*each) for each in zip(moved, image_shapes, strict=True)
                ]
        mean = torch.stack(scores).mean(0)
        # The last stage tells boxes on a finer scale than `box_coder`; every class has its box.
        deltas = (deltas / len(self.coders)).repeat(1, mean.shape[-1])
        return mean.log(), deltas, regions

    def box_losses(
        self,
        features: Features,
        proposals: list[Tensor],
        labels: list[Tensor],
        deltas: Sequence[Tensor],
        image_shapes: Sizes,
        targets: list[Target],
    ) -> dict[str, Tensor]:
        """Losses of class and box of every stage; later stages take the boxes before, undrawn."""
        losses: dict[str, Tensor] = {}
        wanted: Sequence[Tensor] = deltas
        for stage in range(len(self.coders)):
            logits, found = self._run(stage, features, proposals, image_shapes)
            classes, boxes = region_losses(
                logits, found, torch.cat(labels), torch.cat(tuple(wanted)), self.beta
            )
            losses |= {
                f"loss_classifier_stage{stage + 1}": classes,
                f"loss_box_reg_stage{stage + 1}": boxes,
            }
            if stage + 1 < len(self.coders):
                moved = self._decode(stage, found.detach(), proposals)
                proposals = [keep_boxes(*each) for each in zip(moved, image_shapes, strict=True)]
                labels, wanted = self._match(stage + 1, proposals, targets)
        return losses

    def _run(
        self, stage: int, features: Features, proposals: list[Tensor], image_shapes: Sizes
    ) -> tuple[Tensor, Tensor]:
        """Class logits and box deltas of one stage."""
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        pooled = _ScaleGradient.apply(pooled, 1 / len(self.coders))
        logits, deltas = self.box_predictor[stage](self.box_head[stage](pooled))
        return precise(logits), precise(deltas)

    def _decode(self, stage: int, deltas: Tensor, proposals: list[Tensor]) -> Sequence[Tensor]:
        """The boxes that a stage makes of its proposals, image by image."""
        boxes: Tensor = self.coders[stage].decode_single(deltas, torch.cat(proposals))
        return torch.split(boxes, [len(each) for each in proposals])

    def _match(
        self, stage: int, proposals: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], Sequence[Tensor]]:
        """Labels of proposals and the deltas to their objects, by a stage's overlap."""
        labels, boxes = [], []
        for proposal, target in zip(proposals, targets, strict=True):
            if not len(target["boxes"]):
                labels.append(proposal.new_zeros(len(proposal), dtype=torch.int64))
                boxes.append(proposal)
                continue
            objects = target["boxes"].to(proposal.dtype)
            index = self.matchers[stage](box_iou(objects, proposal))
            nearest = index.clamp(min=0)
            labels.append(torch.where(index >= 0, target["labels"][nearest], 0))
            boxes.append(objects[nearest])
        return labels, self.coders[stage].encode(boxes, proposals)


def keep_boxes(boxes: Float[Tensor, "n 4"], size: tuple[int, int]) -> Float[Tensor, "m 4"]:
    """Boxes clipped to an image of (height, width), those of some size; the image if none is."""
    clipped = clip_boxes_to_image(boxes, size)
    kept = clipped[remove_small_boxes(clipped, _SMALLEST)]
    return kept if len(kept) else whole_image(size, boxes)


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None
