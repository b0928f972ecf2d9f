"""Classification: one label per image. Its loss and its metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassStatScores
from torchvision.transforms import v2

from resnestkit.compute import Compute
from resnestkit.data.images import ImageSet
from resnestkit.data.loaders import Batch
from resnestkit.data.transforms import normalise
from resnestkit.preprocessing import Preprocessing
from resnestkit.ranks import gather
from resnestkit.report.page import Figure
from resnestkit.tasks.base import Advance, Step, Task, TaskReport
from resnestkit.tasks.evaluation import Evaluation, Mistake

MOST_MISTAKES = 24


class ClassificationTask(Task[Batch, Evaluation]):
    """How a batch becomes a loss, and a model becomes an evaluation.

    Args:
        classes: names of the classes, in the order of the logits.
        preprocessing: how images are normalised.
        label_smoothing: share of the target spread over all classes.
        mixup: alpha of mixup (Zhang et al. 2017), 0 for none; a batch shares one draw, as in the
            published ResNeSt codes.
        cutmix: alpha of CutMix (Yun et al. 2019), 0 for none; with both, each batch takes one.
        mix_off_epochs: so many last epochs mix nothing.
    """

    drawn = "accuracy, confusion and mistakes"

    def __init__(
        self,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_off_epochs: int = 0,
    ) -> None:
        self.classes, self.preprocessing = classes, preprocessing
        self.label_smoothing = label_smoothing
        mixes: list[nn.Module] = []
        if mixup > 0:
            mixes.append(v2.MixUp(alpha=mixup, num_classes=len(classes)))
        if cutmix > 0:
            mixes.append(v2.CutMix(alpha=cutmix, num_classes=len(classes)))
        self._mix = v2.RandomChoice(mixes) if mixes else None
        self.mix_off_epochs, self._mixing = mix_off_epochs, True

    def start_epoch(self, left: int) -> None:
        """Mix no more in the last epochs."""
        self._mixing = left > self.mix_off_epochs

    def _prepare(self, batch: Batch, compute: Compute) -> tuple[Float[Tensor, "b c s s"], Tensor]:
        """Images, normalised, and labels, on the device."""
        images = batch.images.to(compute.device, non_blocking=True, memory_format=compute.layout)
        labels = batch.labels.to(compute.device, non_blocking=True)
        return normalise(images, self.preprocessing), labels

    def step(self, model: nn.Module, batch: Batch, compute: Compute) -> Step:
        """Cross-entropy, after mixing; a mixed image is right if its larger part is named."""
        images, labels = self._prepare(batch, compute)
        targets = labels
        if self._mix is not None and self._mixing:
            images, targets = self._mix(images, labels)
            labels = targets.argmax(1)
        with compute.autocast():
            logits = model(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        right = int((logits.argmax(1) == labels).sum())
        return Step(loss, len(labels), {"loss": loss.item() * len(labels), "top1": right})

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        compute: Compute,
        *,
        advance: Advance = lambda _done: None,
    ) -> Evaluation:
        """Loss, accuracy, confusion and the worst mistakes."""
        classes = len(self.classes)
        # What the processes counted is added up once, below, and not by torchmetrics.
        local: dict[str, Any] = {"sync_on_compute": False}
        top5 = MulticlassStatScores(classes, top_k=min(5, classes), average="micro", **local)
        confusion = MulticlassConfusionMatrix(classes, **local)
        counters = [counter.to(compute.device) for counter in (top5, confusion)]
        mistakes: list[Mistake] = []
        losses: list[float] = []
        was_training = model.training
        model.eval()
        for batch in batches:
            images, labels = self._prepare(batch, compute)
            with compute.autocast():
                logits = model(images)
            logits = logits.float()
            losses.append(F.cross_entropy(logits, labels, reduction="sum").item())
            for counter in counters:
                counter.update(logits, labels)
            mistakes += _find_mistakes(logits, labels, batch.indices)
            mistakes = sorted(mistakes, key=lambda m: (-m.confidence, m.index))[:MOST_MISTAKES]
            advance(len(labels))
        model.train(was_training)
        among_five = int(top5.compute()[0]) if losses else 0
        return _merge(gather(_Counts(losses, among_five, confusion.confmat.cpu(), mistakes)))

    def words(self, metrics: Mapping[str, float]) -> str:
        """Loss and accuracy."""
        return f"loss {metrics['loss']:.3f}  acc {metrics['top1']:6.2%}"

    def draw_curves(self, records: Sequence[Mapping[str, float]]) -> Figure:
        """Loss, accuracy, learning rate and speed."""
        from resnestkit.report.figures import draw_curves  # noqa: PLC0415  (as below)

        caption = "Loss, accuracy, learning rate and speed, by epoch."
        return Figure("Training", draw_curves(records), caption, invertible=True)

    def report(self, result: Evaluation, images: ImageSet, split: str) -> TaskReport:
        """Headlines, confusion matrix, worst mistakes and the table of classes."""
        # Drawing needs matplotlib, which evaluation alone does not.
        from resnestkit.tasks.classification_report import describe  # noqa: PLC0415  (as said)

        return describe(result, self.classes, images, split)


@dataclass(frozen=True, slots=True)
class _Counts:
    """What one process saw of the images; everything in it adds up exactly."""

    losses: list[float]
    """Summed loss of each batch."""
    among_five: int
    confusion: Int64[Tensor, "classes classes"]
    mistakes: list[Mistake]


def _merge(parts: list[_Counts]) -> Evaluation:
    """The same numbers, to the bit, however the batches were spread over processes."""
    confusion = torch.stack([part.confusion for part in parts]).sum(0)
    count = int(confusion.sum())
    mistakes = sorted(
        (mistake for part in parts for mistake in part.mistakes),
        key=lambda m: (-m.confidence, m.index),
    )
    return Evaluation(
        count=count,
        # Exactly rounded, so that the order of the batches does not count.
        loss=math.fsum(loss for part in parts for loss in part.losses) / count,
        top1=int(confusion.trace()) / count,
        top5=sum(part.among_five for part in parts) / count,
        confusion=confusion.tolist(),
        mistakes=tuple(mistakes[:MOST_MISTAKES]),
    )


def _find_mistakes(logits: Tensor, labels: Tensor, indices: list[int]) -> list[Mistake]:
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels).nonzero().flatten().tolist()
    return [
        Mistake(indices[i], int(labels[i]), int(predicted[i]), float(confidence[i])) for i in wrong
    ]
