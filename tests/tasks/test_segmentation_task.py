"""Segmentation as a task of the one loop: loss, evaluation, words and report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.compute import Compute
from resnestkit.data.images import MemoryImages
from resnestkit.data.loaders import Batches, InOrder
from resnestkit.data.segmentation.batches import SegmentationBatch, SegmentationDataset
from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.data.segmentation.scenes import CLASSES, make_scenes
from resnestkit.data.segmentation.table import SegmentationImages
from resnestkit.preprocessing import Preprocessing
from resnestkit.report.page import Figure, Table
from resnestkit.segmentation.scales import Protocol
from resnestkit.tasks import segmentation
from resnestkit.tasks.segmentation import SegmentationTask, pixel_loss

CPU = Compute(torch.device("cpu"), False, torch.contiguous_format)
BFLOAT16 = Compute(torch.device("cpu"), True, torch.contiguous_format)
K = len(CLASSES)


class Plain(nn.Module):
    """The smallest thing that is called as a segmenter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.last, self.auxiliary = nn.Conv2d(16, K, 1), nn.Conv2d(16, K, 1)

    def forward(self, images: Tensor) -> Any:
        seen = torch.relu(self.first(images))
        if not self.training:
            return self.last(seen)
        return {"logits": self.last(seen), "auxiliary": self.auxiliary(seen)}


class Oracle(nn.Module):
    """Says what it is told to, image by image, whatever it sees."""

    def __init__(self, answers: list[Tensor]) -> None:
        super().__init__()
        self.answers, self.shown = answers, 0

    def forward(self, images: Tensor) -> Tensor:
        start = self.shown
        self.shown += len(images)
        masks = torch.stack(self.answers[start : self.shown]).long()
        return F.one_hot(masks, K).permute(0, 3, 1, 2).float()


@pytest.fixture(scope="module")
def images() -> SegmentationImages:
    return make_scenes(counts={"val": 9}, seed=1).splits["val"]


def truth(images: SegmentationImages) -> list[Tensor]:
    return [images.mask(index).clone() for index in range(len(images))]


def to_evaluate(images: SegmentationImages, size: int = 4) -> Batches[SegmentationBatch]:
    return Batches(SegmentationDataset(images), InOrder(len(images), size), 0)


def crops(images: SegmentationImages) -> SegmentationBatch:
    """The middles of the first four."""
    pixels = torch.stack([images.read(i)[:, 16:80, 16:80] for i in range(4)])
    masks = torch.stack([images.mask(i)[16:80, 16:80] for i in range(4)])
    return SegmentationBatch(pixels, masks, list(range(4)))


def make_task(**options: Any) -> SegmentationTask:
    return SegmentationTask(CLASSES, Preprocessing(), **options)


@pytest.mark.parametrize("compute", [CPU, BFLOAT16], ids=["float32", "bfloat16"])
def test_a_step_has_a_loss_that_falls(images: SegmentationImages, compute: Compute) -> None:
    model, task, batch = Plain().train(), make_task(auxiliary=0.2), crops(images)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(15):
        step = task.step(model, batch, compute)
        assert (step.loss.dtype, step.images) == (torch.float32, 4)
        assert step.sums["loss"] == pytest.approx(4 * step.loss.item())
        assert 0 <= step.sums["pixel_accuracy"] <= 4
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        losses.append(step.sums["loss"])
    assert losses[-1] < 0.8 * losses[0]
    words = task.words({name: value / 4 for name, value in step.sums.items()})
    assert words.startswith("loss ")
    assert "pixels" in words


def test_the_loss_is_torchs_and_the_auxiliarys_by_its_weight(images: SegmentationImages) -> None:
    model, batch = Plain().train(), crops(images)
    batch.masks[0, :9] = IGNORE
    weights = (0.5, 1.0, 2.0, 4.0)
    task = make_task(auxiliary=0.3, class_weights=weights)
    outputs = model(task._prepare(batch.images, CPU))
    first, second = (
        F.cross_entropy(
            outputs[name], batch.masks.long(), torch.tensor(weights), ignore_index=IGNORE
        )
        for name in ("logits", "auxiliary")
    )
    found = task.step(model, batch, CPU).loss
    torch.testing.assert_close(found, first + 0.3 * second)
    plain = F.cross_entropy(outputs["logits"], batch.masks.long(), ignore_index=IGNORE)
    torch.testing.assert_close(pixel_loss(outputs["logits"], batch.masks.long()), plain)


def test_a_batch_without_labels_teaches_nothing(images: SegmentationImages) -> None:
    model, batch = Plain().train(), crops(images)
    step = make_task(class_weights=(1, 1, 1, 1)).step(
        model, SegmentationBatch(batch.images, torch.full_like(batch.masks, IGNORE), [0, 1]), CPU
    )
    step.loss.backward()
    assert step.loss.item() == 0
    assert all(float(p.grad.abs().sum()) == 0 for p in model.parameters() if p.grad is not None)


def test_processes_learn_what_one_would(
    images: SegmentationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many labelled pixels each has: their mean is over the pixels of all."""
    model, batch = Plain().train(), crops(images)
    batch.masks[1:, 20:] = IGNORE
    whole = pixel_loss(model.eval()(batch.images.float()), batch.masks.long())
    halves = [(batch.images[part], batch.masks[part]) for part in (slice(1), slice(1, 4))]
    counts = [(masks != IGNORE).sum().float() for _, masks in halves]
    monkeypatch.setattr(segmentation, "sum_over_ranks", lambda _own: sum(counts))
    monkeypatch.setattr(segmentation, "ranks", lambda: 2)
    parts = [pixel_loss(model(some.float()), masks.long()) for some, masks in halves]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)


@pytest.mark.parametrize("protocol", [Protocol(), Protocol(flip=True), Protocol(window=40)])
def test_an_untrained_segmenter_is_evaluated(
    images: SegmentationImages, protocol: Protocol
) -> None:
    done: list[int] = []
    model = Plain().train()
    task = make_task(protocol=protocol)
    result = task.evaluate(model, to_evaluate(images), CPU, advance=done.append)
    assert done == [4, 4, 1]
    assert (result.count, result.protocol) == (9, str(protocol))
    assert 0 < result.score < 0.5
    assert sum(one.pixels for one in result.per_class) == sum(m.numel() for m in truth(images))
    assert model.training


def test_a_perfect_segmenter_scores_one_at_sizes_of_every_kind(
    images: SegmentationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {tuple(mask.shape) for mask in truth(images)}
    assert len(sizes) > 1
    task = make_task()
    whole = task.evaluate(Oracle(truth(images)), to_evaluate(images), CPU)
    assert whole.miou == whole.pixel_accuracy == 1
    assert task.words(whole.metrics).startswith("mIoU 100.00%")
    # However few are looked at together.
    monkeypatch.setattr(segmentation, "MOST_SCORES", 1)
    assert task.evaluate(Oracle(truth(images)), to_evaluate(images), CPU) == whole


def test_several_processes_give_the_numbers_of_one(
    images: SegmentationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = truth(images)
    answers[2] = (answers[2] + 1) % K
    task = make_task()
    whole = task.evaluate(Oracle(answers), to_evaluate(images), CPU)
    seen = []
    monkeypatch.setattr(segmentation, "gather", lambda counts: [seen.append(counts) or counts])
    for part in (range(3, 9), range(3)):
        batches = [
            SegmentationBatch([images.read(i)], [images.mask(i)], [i]) for i in part
        ]  # each process has some of the images
        task.evaluate(Oracle([answers[i] for i in part]), batches, CPU)
    monkeypatch.setattr(segmentation, "gather", lambda _counts: seen)
    assert task.evaluate(Oracle(answers), to_evaluate(images), CPU) == whole
    assert 0 < whole.score < 1


def test_a_report_shows_the_worst_beside_the_truth(images: SegmentationImages) -> None:
    answers = truth(images)
    answers[4] = torch.zeros_like(answers[4])
    task = make_task()
    result = task.evaluate(Oracle(answers), to_evaluate(images), CPU)
    assert result.worst[0].index == 4
    report = task.report(result, images, "val")
    assert report.headlines[0].value == f"{result.miou:.1%}"
    assert "single scale" in report.headlines[0].note
    assert set(report.pictures) == {"classes.png", "worst.png", "examples.png", "confusion.png"}
    assert all(png.startswith(b"\x89PNG") for png in report.pictures.values())
    titles = [section.title for section in report.sections]
    assert titles[:3] == ["Classes", "Worst images", "Other images"]
    (table,) = (section for section in report.sections if isinstance(section, Table))
    assert [row[0] for row in table.rows] == list(CLASSES)
    assert "single scale" in next(s for s in report.sections if isinstance(s, Figure)).caption
    curves = task.draw_curves([{"epoch": 1, "train_loss": 1.0, "val_miou": 0.5}])
    assert curves.png.startswith(b"\x89PNG")


def test_grey_images_and_ignored_ones_are_reported(images: SegmentationImages) -> None:
    grey = [images.read(index)[:1] for index in range(2)]
    bare = SegmentationImages(MemoryImages(grey, [0, 1], ["a", "b"]), images.masks)
    bare = bare.with_masks({0: images.mask(0), 1: torch.full_like(images.mask(1), IGNORE)})
    task = SegmentationTask(CLASSES, Preprocessing(mean=(0.5,), std=(0.25,)))
    result = task.evaluate(Oracle(truth(images)), to_evaluate(bare), CPU)
    assert [one.index for one in result.worst] == [0]
    assert sorted(one.index for one in result.drawn) == [0, 1]
    assert task.report(result, bare, "val").pictures["examples.png"]
    assert np.isfinite(result.loss)
