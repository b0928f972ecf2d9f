"""Panoptic segmentation: one segment for every pixel. Its loss and its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from resnestkit.compute import Compute
from resnestkit.data.images import ImageSet
from resnestkit.data.panoptic.batches import PanopticBatch
from resnestkit.data.segmentation.legend import Colour
from resnestkit.data.segmentation.table import Segment, Segments
from resnestkit.ranks import gather
from resnestkit.report.page import Figure
from resnestkit.tasks.base import Advance, Step, Task, TaskReport
from resnestkit.tasks.detection import learn, leave_resizing_to_the_loader, prepare_images
from resnestkit.tasks.panoptic_counts import PanopticCounts, merge_counts
from resnestkit.tasks.panoptic_evaluation import PanopticEvaluation


class PanopticTask(Task[PanopticBatch, PanopticEvaluation]):
    """How a batch becomes a loss, and a panoptic net becomes an evaluation.

    Images come resized from the training's transform, and the net resizes them in evaluation alone,
    as for the detectors.

    Args:
        classes: names of the classes, things and stuff.
        things: which of them can be counted.
        colours: of each class in drawings; none for colours of our own.
    """

    drawn = "panoptic quality, pictures and classes"

    def __init__(
        self, classes: tuple[str, ...], things: Sequence[bool], colours: Sequence[Colour] = ()
    ) -> None:
        self.classes, self.things, self.colours = classes, tuple(things), tuple(colours)
        self._taught: nn.Module | None = None

    def step(self, model: nn.Module, batch: PanopticBatch, compute: Compute) -> Step:
        """The sum of the net's losses, of which it has weighed that of stuff."""
        if self._taught is not model:
            leave_resizing_to_the_loader(model)
            self._taught = model
        return learn(model, batch, compute)

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        batches: Iterable[PanopticBatch],
        compute: Compute,
        *,
        advance: Advance = lambda _done: None,
    ) -> PanopticEvaluation:
        """Segments against segments, at the size of the true ones."""
        counts = PanopticCounts(self.things)
        was_training = model.training
        model.eval()
        for batch in batches:
            with compute.autocast():
                outputs = model(prepare_images(batch.images, compute))
            rows = zip(batch.indices, outputs, batch.segments, strict=True)
            for index, output, true in rows:
                found, scores = read_segments(output)
                counts.add(index, found, scores, true)
            advance(len(batch.indices))
        model.train(was_training)
        return merge_counts(gather(counts))

    def words(self, metrics: Mapping[str, float]) -> str:
        """Panoptic quality, or the loss of a training."""
        if "pq" not in metrics:
            return f"loss {metrics.get('loss', 0.0):.3f}"
        things, stuff = metrics["pq_things"], metrics["pq_stuff"]
        return f"PQ {metrics['pq']:6.2%}  things {things:6.2%}  stuff {stuff:6.2%}"

    def draw_curves(self, records: Sequence[Mapping[str, float]]) -> Figure:
        """Loss and its parts, panoptic quality, learning rate and speed."""
        from resnestkit.report.panoptic import draw_panoptic_curves  # noqa: PLC0415  (as below)

        caption = "Loss and its parts, panoptic quality, learning rate and speed, by epoch."
        return Figure("Training", draw_panoptic_curves(records), caption, invertible=True)

    def report(self, result: PanopticEvaluation, images: ImageSet, split: str) -> TaskReport:
        """Headlines, the worst pictures and some others, and the table of classes."""
        # Drawing needs matplotlib, which evaluation alone does not.
        from resnestkit.tasks.panoptic_report import describe  # noqa: PLC0415  (as said)

        return describe(result, self.classes, self.things, self.colours, images, split)


def read_segments(output: Mapping[str, Any]) -> tuple[Segments, list[float]]:
    """What a panoptic net found in an image, and how sure it is of each segment."""
    found = output["segments_info"]
    listed = tuple(Segment(one.number, one.label, one.is_thing) for one in found)
    return Segments(output["segments"].cpu(), listed), [one.score for one in found]
