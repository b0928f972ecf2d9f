"""Classification: one label per image. Its data, its loss, its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchvision.transforms import v2

from resnestkit.data.loaders import Batch
from resnestkit.data.transforms import normalise
from resnestkit.preprocessing import Preprocessing

Autocast = Callable[[], torch.autocast]


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image that was taken for another class."""

    index: int
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a classifier does on a set of images."""

    count: int
    loss: float
    """Mean cross-entropy, without smoothing."""
    top1: float
    """Share of images whose first guess is right."""
    top5: float
    """Share of images with the label among the first five guesses (or all, if fewer classes)."""
    confusion: list[list[int]]
    """Images by true class (row) and predicted class (column)."""
    mistakes: tuple[Mistake, ...]
    """The most confident wrong guesses, the worst first."""

    @property
    def per_class(self) -> list[float]:
        """Share of each class's images that were recognised; 0 for a class without images."""
        return [row[i] / sum(row) if sum(row) else 0.0 for i, row in enumerate(self.confusion)]


class ClassificationTask:
    """How a batch becomes a loss, and a model becomes an evaluation.

    Args:
        classes: number of classes.
        preprocessing: how images are normalised.
        label_smoothing: share of the target spread over all classes.
        mixup: alpha of mixup (Zhang et al. 2017), 0 for none.
        cutmix: alpha of CutMix (Yun et al. 2019), 0 for none; with both, each batch takes one.
    """

    def __init__(
        self,
        classes: int,
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
            mixes.append(v2.MixUp(alpha=mixup, num_classes=classes))
        if cutmix > 0:
            mixes.append(v2.CutMix(alpha=cutmix, num_classes=classes))
        self._mix = v2.RandomChoice(mixes) if mixes else None

    def prepare(
        self, batch: Batch, device: torch.device, layout: torch.memory_format
    ) -> tuple[Float[Tensor, "b c s s"], Tensor]:
        """Images, normalised, and labels, on the device."""
        images = batch.images.to(device, non_blocking=True, memory_format=layout)
        labels = batch.labels.to(device, non_blocking=True)
        return normalise(images, self.preprocessing), labels

    def loss(
        self, model: nn.Module, images: Float[Tensor, "b c s s"], labels: Tensor, autocast: Autocast
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b classes"]]:
        """The training loss, in float32, and the logits; mixes images and labels first."""
        targets = labels
        if self._mix is not None:
            images, targets = self._mix(images, labels)
        with autocast():
            logits = model(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        return loss, logits

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        device: torch.device,
        autocast: Autocast,
        *,
        layout: torch.memory_format = torch.contiguous_format,
        most_mistakes: int = 24,
        advance: Callable[[int], None] = lambda _count: None,
    ) -> Evaluation:
        """Run the model over labelled images; every image counts once."""
        top1 = MulticlassAccuracy(self.classes, average="micro").to(device)
        top5 = MulticlassAccuracy(self.classes, average="micro", top_k=min(5, self.classes))
        top5 = top5.to(device)
        confusion = MulticlassConfusionMatrix(self.classes).to(device)
        mistakes: list[Mistake] = []
        total, count = 0.0, 0
        was_training = model.training
        model.eval()
        for batch in batches:
            images, labels = self.prepare(batch, device, layout)
            with autocast():
                logits = model(images)
            logits = logits.float()
            total += F.cross_entropy(logits, labels, reduction="sum").item()
            count += len(labels)
            for metric in (top1, top5, confusion):
                metric.update(logits, labels)
            mistakes += _find_mistakes(logits, labels, batch.indices)
            mistakes = sorted(mistakes, key=lambda m: -m.confidence)[:most_mistakes]
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


def _find_mistakes(logits: Tensor, labels: Tensor, indices: list[int]) -> list[Mistake]:
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels).nonzero().flatten().tolist()
    return [
        Mistake(indices[i], int(labels[i]), int(predicted[i]), float(confidence[i])) for i in wrong
    ]
