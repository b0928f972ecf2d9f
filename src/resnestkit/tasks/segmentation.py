"""Semantic segmentation: a class for every pixel. Its loss and its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.compute import Compute
from resnestkit.data.images import ImageSet
from resnestkit.data.segmentation.batches import SegmentationBatch
from resnestkit.data.segmentation.legend import IGNORE, Colour
from resnestkit.data.transforms import normalise
from resnestkit.preprocessing import Preprocessing
from resnestkit.ranks import gather, ranks, sum_over_ranks
from resnestkit.report.page import Figure
from resnestkit.segmentation.scales import SINGLE_SCALE, Protocol, score_images
from resnestkit.tasks.base import Advance, Step, Task, TaskReport
from resnestkit.tasks.segmentation_counts import Counts, merge
from resnestkit.tasks.segmentation_evaluation import SegmentationEvaluation

MOST_SCORES = 2**25
"""Numbers of class scores that an evaluation holds at a time: images of one size up to so many are
looked at together."""


class SegmentationTask(Task[SegmentationBatch, SegmentationEvaluation]):
    """How a batch becomes a loss, and a segmenter becomes an evaluation.

    Args:
        classes: names of the classes, in the order of the logits.
        preprocessing: how images are normalised.
        protocol: how whole images are looked at in an evaluation.
        auxiliary: weight of the auxiliary head's loss, where the model has one.
        class_weights: of each class in the loss; none for all alike.
        colours: of each class in drawings; none for colours of our own.
    """

    drawn = "IoU, pictures and classes"

    def __init__(
        self,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        *,
        protocol: Protocol = SINGLE_SCALE,
        auxiliary: float = 0.0,
        class_weights: Sequence[float] = (),
        colours: Sequence[Colour] = (),
    ) -> None:
        self.classes, self.preprocessing, self.protocol = classes, preprocessing, protocol
        self.auxiliary, self.class_weights = auxiliary, tuple(class_weights)
        self.colours = tuple(colours)

    def step(self, model: nn.Module, batch: SegmentationBatch, compute: Compute) -> Step:
        """Cross-entropy of every labelled pixel, and of the auxiliary head's by its weight."""
        images = self._prepare(batch.images, compute)
        masks = _stack(batch.masks).to(compute.device, non_blocking=True).long()
        with compute.autocast():
            outputs: dict[str, Tensor] = model(images)
        weights = images.new_tensor(self.class_weights) if self.class_weights else None
        loss = segmentation_loss(outputs, masks, self.auxiliary, weights)
        count = len(batch.indices)
        with torch.no_grad():
            labelled = masks != IGNORE
            right = (outputs["logits"].argmax(1) == masks).sum() / labelled.sum().clamp(min=1)
            value, share = torch.stack([loss.detach(), right]).tolist()  # waits for the device once
        return Step(loss, count, {"loss": value * count, "pixel_accuracy": share * count})

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        batches: Iterable[SegmentationBatch],
        compute: Compute,
        *,
        advance: Advance = lambda _done: None,
    ) -> SegmentationEvaluation:
        """All from one confusion matrix over the whole set, at the size of the true masks."""
        counts = Counts(len(self.classes))
        was_training = model.training
        model.eval()
        for batch in batches:
            for images, masks, indices in _by_size(batch, MOST_SCORES // len(self.classes)):
                with compute.autocast():
                    scores = score_images(model, self._prepare(images, compute), self.protocol)
                counts.add(scores, masks.to(compute.device, non_blocking=True), indices)
            advance(len(batch.indices))
        model.train(was_training)
        return merge(gather(counts), str(self.protocol))

    def _prepare(
        self, images: UInt8[Tensor, "b c h w"] | Sequence[Tensor], compute: Compute
    ) -> Float[Tensor, "b c h w"]:
        """Images on the device, normalised."""
        moved = _stack(images).to(compute.device, non_blocking=True, memory_format=compute.layout)
        return normalise(moved, self.preprocessing)

    def words(self, metrics: Mapping[str, float]) -> str:
        """Mean IoU, or the loss of a training, and pixels recognised."""
        first = f"loss {metrics['loss']:.3f}"
        if "miou" in metrics:
            first = f"mIoU {metrics['miou']:6.2%}"
        return f"{first}  pixels {metrics['pixel_accuracy']:6.2%}"

    def draw_curves(self, records: Sequence[Mapping[str, float]]) -> Figure:
        """Loss, mean IoU and pixels, learning rate and speed."""
        from resnestkit.report.segmentation import draw_segmentation_curves  # noqa: PLC0415 (below)

        caption = "Loss, mean IoU and pixels, learning rate and speed, by epoch."
        return Figure("Training", draw_segmentation_curves(records), caption, invertible=True)

    def report(self, result: SegmentationEvaluation, images: ImageSet, split: str) -> TaskReport:
        """Headlines, IoU per class, the worst pictures and some others, confusion and a table."""
        # Drawing needs matplotlib, which evaluation alone does not.
        from resnestkit.tasks.segmentation_report import describe  # noqa: PLC0415  (as said)

        return describe(result, self.classes, self.colours, images, split)


def segmentation_loss(
    outputs: Mapping[str, Float[Tensor, "b k h w"]],
    masks: Int64[Tensor, "b h w"],
    auxiliary: float,
    weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """What a segmenter in training learns from: its heads' losses, the auxiliary by its weight."""
    loss = pixel_loss(outputs["logits"], masks, weights)
    if "auxiliary" not in outputs:
        return loss
    return loss + auxiliary * pixel_loss(outputs["auxiliary"], masks, weights)


def pixel_loss(
    logits: Float[Tensor, "b k h w"],
    masks: Int64[Tensor, "b h w"],
    weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the labelled pixels of all processes; 0 where there are none.

    Processes add up what they sum over, so that several learn what one with all images would.
    """
    summed = F.cross_entropy(logits.float(), masks, weights, ignore_index=IGNORE, reduction="sum")
    labelled = masks != IGNORE
    if weights is None:
        count = labelled.sum().float()
    else:
        count = weights[masks.where(labelled, 0)].where(labelled, 0).sum()
    with torch.no_grad():
        count = sum_over_ranks(count) / ranks()
    return summed / count.clamp(min=torch.finfo(count.dtype).tiny)


def _stack(pictures: Tensor | Sequence[Tensor]) -> Tensor:
    return pictures if isinstance(pictures, Tensor) else torch.stack(list(pictures))


def _by_size(
    batch: SegmentationBatch, most_pixels: int
) -> Iterator[tuple[list[Tensor], UInt8[Tensor, "b h w"], list[int]]]:
    """Neighbours of one size, together as long as they have few enough pixels."""
    rows = zip(batch.images, batch.masks, batch.indices, strict=True)
    for (height, width), group in groupby(rows, lambda row: tuple(row[1].shape)):
        images, masks, indices = (list(column) for column in zip(*group, strict=True))
        step = max(1, most_pixels // (height * width))
        for start in range(0, len(indices), step):
            part = slice(start, start + step)
            yield images[part], torch.stack(masks[part]), indices[part]
