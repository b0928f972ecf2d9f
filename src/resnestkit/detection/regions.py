"""Anchors, proposals and RoIAlign, where the paper's differ from torchvision's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from resnestkit.detection.parts import (
    AnchorGenerator,
    LevelMapper,
    MultiScaleRoIAlign,
    RegionProposalNetwork,
    RPNHead,
)
from resnestkit.detection.spec import DetectionSettings
from resnestkit.ops import regions as kernels

ASPECT_RATIOS = (0.5, 1.0, 2.0)

Boxes = Float[Tensor, "n 4"]
Sizes = list[tuple[int, int]]


class Anchors(AnchorGenerator):
    """Anchors at the strides of the levels, rounded to pixels as in torchvision or not.

    Args:
        strides: image pixels per pixel, level by level.
        scales: an anchor's sides at each place, in strides: 8 is 32 pixels at stride 4.
        rounded: torchvision cuts the sides to whole pixels and rounds the corners; its order is by
            ratio, then scale. Detectron2 does neither, and its order is by scale.
    """

    def __init__(self, strides: Sequence[int], scales: Sequence[float], *, rounded: bool) -> None:
        self.strides, self.rounded = tuple(strides), rounded
        sides = [[stride * scale for scale in scales] for stride in strides]
        sizes = tuple(tuple(int(s) if rounded else s for s in level) for level in sides)
        super().__init__(sizes, (ASPECT_RATIOS,) * len(sizes))

    def generate_anchors(self, scales: Any, aspect_ratios: Any, *rest: Any, **named: Any) -> Boxes:
        """Anchors around 0 of one level: height / width is the aspect ratio."""
        anchors: Tensor
        if self.rounded:
            anchors = super().generate_anchors(scales, aspect_ratios, *rest, **named)
            return anchors
        sides = [
            (side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2)
            for side in scales
            for ratio in aspect_ratios
        ]
        # On the CPU by name, as torchvision's: they are no buffers, and move when they are used.
        return torch.tensor([(-w, -h, w, h) for w, h in sides], device="cpu")

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Keep anchors in 32 bits at least: 16 know a pixel of a large image to 8 pixels."""
        super().set_cell_anchors(torch.promote_types(dtype, torch.float32), device)

    def grid_anchors(self, grid_sizes: Any, strides: Any) -> list[Tensor]:
        """All anchors, level by level. The strides are ours: those given are guessed from sizes."""
        del strides
        anchors: list[Tensor] = super().grid_anchors(
            grid_sizes, [(stride, stride) for stride in self.strides]
        )
        return anchors


class ProposalHead(RPNHead):
    """The convolutions of the proposals, whose boxes are told in 32 bits at least."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box deltas of every level."""
        logits, deltas = super().forward(x)
        return [precise(each) for each in logits], [precise(each) for each in deltas]


class Proposals(RegionProposalNetwork):
    """Region proposals (Ren et al. 2015, section 3.1) whose box loss has a beta of its own."""

    anchor_generator: Anchors

    def __init__(self, anchors: Anchors, channels: int, settings: DetectionSettings) -> None:
        train, test = range(2)
        super().__init__(
            anchors,
            ProposalHead(channels, anchors.num_anchors_per_location()[0], settings.rpn_convs),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=settings.rpn_batch,
            positive_fraction=0.5,
            pre_nms_top_n={"training": settings.pre_nms[train], "testing": settings.pre_nms[test]},
            post_nms_top_n={
                "training": settings.post_nms[train],
                "testing": settings.post_nms[test],
            },
            nms_thresh=0.7,
        )
        self.beta = settings.beta

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Losses of objectness and of boxes, over the anchors that are drawn."""
        chosen = [torch.cat(each) for each in self.fg_bg_sampler(labels)]
        positive, negative = (torch.where(each)[0] for each in chosen)
        drawn = torch.cat([positive, negative])
        logits = objectness.flatten()[drawn]
        wanted = torch.cat(labels)[drawn].to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, wanted)
        targets = torch.cat(regression_targets)[positive]
        boxes = box_loss(pred_bbox_deltas[positive], targets, self.beta) / max(drawn.numel(), 1)
        return loss, boxes

    def filter_proposals(
        self, proposals: Any, objectness: Any, image_shapes: Sizes, per_level: Any
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best proposals of each image; an image without any is one proposal itself.

        A head that normalises, or averages, over no region at all gives no number.
        """
        boxes, scores = super().filter_proposals(proposals, objectness, image_shapes, per_level)
        for index, size in enumerate(image_shapes):
            if not len(boxes[index]):
                boxes[index] = whole_image(size, boxes[index])
                scores[index] = scores[index].new_zeros(1)
        return boxes, scores


class AlignedPool(MultiScaleRoIAlign):
    """RoIAlign on the level that fits a box's size (Lin et al. 2017, equation 1).

    torchvision guesses the levels' scales from the first image that it sees, which a very flat
    image leads astray for good; here they are the strides.

    Args:
        names: the levels to read.
        strides: image pixels per pixel, level by level.
        side: cells per side of what is pooled.
        settings: how it is pooled.
        flat: whether it will be flattened, for which kernels lay it out; else it is channels_last.
    """

    def __init__(
        self,
        names: Sequence[str],
        strides: Sequence[int],
        side: int,
        settings: DetectionSettings,
        *,
        flat: bool = False,
    ) -> None:
        super().__init__(list(names), side, settings.sampling_ratio)
        self.aligned, self.flat = settings.aligned, flat
        self.scales = [1 / stride for stride in strides]
        self.map_levels = LevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Sizes
    ) -> Float[Tensor, "n c side side"]:
        """Features of each box, of all images in turn."""
        del image_shapes
        levels = [x[name] for name in self.featmap_names]
        index = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        regions = torch.cat([index, torch.cat(boxes)], dim=1)
        level_of = self.map_levels(boxes)
        if kernels.fits(levels, regions):
            ratio, aligned, scales = self.sampling_ratio, self.aligned, tuple(self.scales)
            cut = kernels.Cut(scales, self.output_size[0], ratio, aligned, planes=self.flat)
            return kernels.pool_regions(levels, regions, level_of, cut)
        return self._pool_plainly(levels, regions, level_of)

    def _pool_plainly(
        self, levels: list[Tensor], regions: Float[Tensor, "n 5"], level_of: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n c side side"]:
        pooled = levels[0].new_zeros(len(regions), levels[0].shape[1], *self.output_size)
        for number, (level, scale) in enumerate(zip(levels, self.scales, strict=True)):
            here = torch.where(level_of == number)[0]
            found = roi_align(
                level.to(regions.dtype),
                regions[here],
                self.output_size,
                scale,
                self.sampling_ratio,
                self.aligned,
            )
            pooled[here] = found.to(pooled.dtype)
        return pooled


def box_loss(deltas: Float[Tensor, "n 4"], targets: Float[Tensor, "n 4"], beta: float) -> Tensor:
    """Smooth-L1, summed; at beta 0 it is L1."""
    return F.smooth_l1_loss(deltas.to(targets.dtype), targets, beta=beta, reduction="sum")


def precise(x: Tensor) -> Tensor:
    """The same in 32 bits at least: under autocast, boxes would be told in 16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def whole_image(size: tuple[int, int], like: Tensor) -> Float[Tensor, "1 4"]:
    """The box of an image of (height, width)."""
    height, width = size
    return like.new_tensor([[0.0, 0.0, float(width), float(height)]])
