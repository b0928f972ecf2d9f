"""Classification: one label per image. Its loss and its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchvision.transforms import v2

from resnestkit.compute import Compute
from resnestkit.data.images import ImageSet
from resnestkit.data.loaders import Batch
from resnestkit.data.transforms import normalise
from resnestkit.preprocessing import Preprocessing
from resnestkit.tasks.base import Advance, Step, Task, TaskReport
from resnestkit.tasks.evaluation import Evaluation, Mistake

MOST_MISTAKES = 24


class ClassificationTask(Task[Batch, Evaluation]):
    """How a batch becomes a loss, and a model becomes an evaluation.

    Args:
        classes: names of the classes, in the order of the logits.
        preprocessing: how images are normalised.
        label_smoothing: share of the target spread over all classes.
        mixup: alpha of mixup (Zhang et al. 2017), 0 for none.
        cutmix: alpha of CutMix (Yun et al. 2019), 0 for none; with both, each batch takes one.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        self.classes, self.preprocessing = classes, preprocessing
        self.label_smoothing = label_smoothing
        mixes: list[nn.Module] = []
        if mixup > 0:
            mixes.append(v2.MixUp(alpha=mixup, num_classes=len(classes)))
        if cutmix > 0:
            mixes.append(v2.CutMix(alpha=cutmix, num_classes=len(classes)))
        self._mix = v2.RandomChoice(mixes) if mixes else None

    def _prepare(self, batch: Batch, compute: Compute) -> tuple[Float[Tensor, "b c s s"], Tensor]:
        """Images, normalised, and labels, on the device."""
        images = batch.images.to(compute.device, non_blocking=True, memory_format=compute.layout)
        labels = batch.labels.to(compute.device, non_blocking=True)
        return normalise(images, self.preprocessing), labels

    def step(self, model: nn.Module, batch: Batch, compute: Compute) -> Step:
        """Cross-entropy, after mixing; a mixed image is right if its larger part is named."""
        images, labels = self._prepare(batch, compute)
        targets = labels
        if self._mix is not None:
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
        count, classes = 0, len(self.classes)
        top1 = MulticlassAccuracy(classes, average="micro")
        top5 = MulticlassAccuracy(classes, average="micro", top_k=min(5, classes))
        confusion = MulticlassConfusionMatrix(classes)
        metrics = [metric.to(compute.device) for metric in (top1, top5, confusion)]
        mistakes: list[Mistake] = []
        total = 0.0
        was_training = model.training
        model.eval()
        for batch in batches:
            images, labels = self._prepare(batch, compute)
            with compute.autocast():
                logits = model(images)
            logits = logits.float()
            total += F.cross_entropy(logits, labels, reduction="sum").item()
            count += len(labels)
            for metric in metrics:
                metric.update(logits, labels)
            mistakes += _find_mistakes(logits, labels, batch.indices)
            mistakes = sorted(mistakes, key=lambda m: -m.confidence)[:MOST_MISTAKES]
            advance(len(labels))
        model.train(was_training)
        return Evaluation(
            count=count,
            loss=total / count,
            top1=top1.compute().item(),
            top5=top5.compute().item(),
            confusion=confusion.compute().tolist(),
            mistakes=tuple(mistakes),
        )

    def words(self, metrics: Mapping[str, float]) -> str:
        """Loss and accuracy."""
        return f"loss {metrics['loss']:.3f}  acc {metrics['top1']:6.2%}"

    def report(self, result: Evaluation, images: ImageSet, split: str) -> TaskReport:
        """Headlines, confusion matrix, worst mistakes and the table of classes."""
        # Drawing needs matplotlib, which evaluation alone does not.
        from resnestkit.tasks.classification_report import describe  # noqa: PLC0415

        return describe(result, self.classes, images, split)


def _find_mistakes(logits: Tensor, labels: Tensor, indices: list[int]) -> list[Mistake]:
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels).nonzero().flatten().tolist()
    return [
        Mistake(indices[i], int(labels[i]), int(predicted[i]), float(confidence[i])) for i in wrong
    ]
