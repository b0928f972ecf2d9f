"""Detection and instance segmentation: objects in images. The loss and the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.compute import Compute
from resnestkit.data.detection.batches import DetectionBatch
from resnestkit.data.detection.results import Found
from resnestkit.data.detection.rle import EXTRA
from resnestkit.data.detection.table import Annotations
from resnestkit.data.images import ImageSet
from resnestkit.detection.parts import GeneralizedRCNNTransform
from resnestkit.extras import require
from resnestkit.ranks import gather, is_first, share
from resnestkit.report.page import Figure
from resnestkit.tasks.base import Advance, Step, Task, TaskReport
from resnestkit.tasks.detection_coco import measure
from resnestkit.tasks.detection_evaluation import DetectionEvaluation
from resnestkit.tasks.detection_matching import (
    best_threshold,
    choose_examples,
    find_missed,
    find_mistaken,
    match,
)

Seen = tuple[int, Annotations, Found]
"""An image's index, what is there, and what was found."""


class DetectionTask(Task[DetectionBatch, DetectionEvaluation]):
    """How a batch becomes a loss, and a detector becomes an evaluation.

    The model is called as torchvision's detectors are, and made to be: images come resized from
    the training's transform, and the model resizes them in evaluation alone. In bfloat16 the model
    runs under autocast; its boxes are its own to keep in float32, as `resnestkit.detection` does.

    Args:
        classes: names of the classes; label 1 is the first.
        masks: whether the detector finds masks as well.

    Raises:
        UserError: what measures it is not installed.
    """

    drawn = "precision, pictures and mistakes"

    def __init__(self, classes: tuple[str, ...], *, masks: bool = False) -> None:
        require("faster_coco_eval", EXTRA)  # now, and not after the first epoch
        self.classes, self.masks = classes, masks
        self._taught: nn.Module | None = None

    def step(self, model: nn.Module, batch: DetectionBatch, compute: Compute) -> Step:
        """The sum of the detector's losses, each of weight 1 as in torchvision."""
        if self._taught is not model:
            leave_resizing_to_the_loader(model)
            self._taught = model
        return learn(model, batch, compute)

    def evaluate(
        self,
        model: nn.Module,
        batches: Iterable[DetectionBatch],
        compute: Compute,
        *,
        advance: Advance = lambda _done: None,
    ) -> DetectionEvaluation:
        """COCO's numbers, and what is worth looking at."""
        every = self.find(model, batches, compute, advance=advance)
        evaluation = share(self.judge(every) if is_first() else None)
        assert evaluation is not None
        return evaluation

    @torch.inference_mode()
    def find(
        self,
        model: nn.Module,
        batches: Iterable[DetectionBatch],
        compute: Compute,
        *,
        advance: Advance = lambda _done: None,
    ) -> list[Seen]:
        """What a detector finds in each image, by all processes, in the images' order."""
        seen: list[Seen] = []
        was_training = model.training
        model.eval()
        for batch in batches:
            with compute.autocast():
                outputs = model(prepare_images(batch.images, compute))
            found = [Found.read(output, masks=self.masks) for output in outputs]
            seen += zip(batch.indices, batch.annotations, found, strict=True)
            advance(len(batch.indices))
        model.train(was_training)
        return sorted((one for part in gather(seen) for one in part), key=lambda one: one[0])

    def judge(self, seen: list[Seen]) -> DetectionEvaluation:
        """An evaluation from what was found in each image."""
        pairs = [(annotations, found) for _, annotations, found in seen]
        matched = [match(*one) for one in seen]
        threshold = best_threshold(matched)
        shown = [one.above(threshold) for one in matched]
        right = sum(int(one.right.sum()) for one in shown)
        objects = sum(len(one.objects) for one in shown)
        return DetectionEvaluation(
            count=len(seen),
            boxes=measure(pairs, self.classes, masks=False),
            masks=measure(pairs, self.classes, masks=True) if self.masks else None,
            threshold=threshold,
            precision=right / max(1, sum(len(one.owners) for one in shown)),
            recall=right / max(1, objects),
            examples=choose_examples(shown),
            missed=find_missed(shown),
            mistaken=find_mistaken(shown),
        )

    def words(self, metrics: Mapping[str, float]) -> str:
        """AP, or the loss of a training."""
        if "ap" not in metrics:
            return f"loss {metrics.get('loss', 0.0):.3f}"
        boxes = f"AP {metrics['ap']:6.2%}  AP50 {metrics.get('ap50', 0.0):6.2%}"
        return f"{boxes}  mask AP {metrics['mask_ap']:6.2%}" if "mask_ap" in metrics else boxes

    def notes(self, result: DetectionEvaluation) -> dict[str, float]:
        """The score from which on objects are worth showing."""
        return {"threshold": result.threshold}

    def draw_curves(self, records: Sequence[Mapping[str, float]]) -> Figure:
        """Loss and its parts, average precision, learning rate and speed."""
        from resnestkit.report.detection import draw_detection_curves  # noqa: PLC0415  (as below)

        caption = "Loss and its parts, average precision, learning rate and speed, by epoch."
        return Figure("Training", draw_detection_curves(records), caption, invertible=True)

    def report(self, result: DetectionEvaluation, images: ImageSet, split: str) -> TaskReport:
        """Headlines, precision and recall, pictures, the worst misses and the table of classes."""
        # Drawing needs matplotlib, which evaluation alone does not.
        from resnestkit.tasks.detection_report import describe  # noqa: PLC0415  (as said)

        return describe(result, self.classes, images, split)


class Learnable(Protocol):
    """What one learns from a target of a batch."""

    def to_dict(self, device: torch.device) -> dict[str, Tensor]:
        """As the model takes it."""


class LearnableBatch(Protocol):
    """Images with targets, of detection or of what is built on it."""

    @property
    def images(self) -> list[Tensor]:
        """As bytes."""

    @property
    def targets(self) -> Sequence[Learnable]:
        """One for each."""


def learn(model: nn.Module, batch: LearnableBatch, compute: Compute) -> Step:
    """A step of a model that gives a dict of losses: their sum."""
    images = prepare_images(batch.images, compute)
    targets = [target.to_dict(compute.device) for target in batch.targets]
    with compute.autocast():
        losses: dict[str, Tensor] = model(images, targets)
    losses = {name: value.float() for name, value in losses.items()}
    loss = torch.stack(list(losses.values())).sum()
    count = len(images)
    parts = torch.stack([loss, *losses.values()]).tolist()  # waits for the device once
    sums = {name: part * count for name, part in zip(["loss", *losses], parts, strict=True)}
    return Step(loss, count, sums)


def leave_resizing_to_the_loader(model: nn.Module) -> None:
    """Let a detector take images in training as they come; in evaluation it resizes as before."""
    for module in model.modules():
        if isinstance(module, GeneralizedRCNNTransform):
            module._skip_resize = True


def prepare_images(images: Sequence[Tensor], compute: Compute) -> list[Float[Tensor, "c h w"]]:
    """Images on the device, from 0 to 1; they travel as bytes."""
    moved = [image.to(compute.device, non_blocking=True) for image in images]
    return [image.float().div_(255) for image in moved]
