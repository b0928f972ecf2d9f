"""Detection as a task of the one loop: losses, evaluation, words and report."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from detectors import Oracle, tiny_detector
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from resnestkit.compute import Compute
from resnestkit.data.detection.batches import DetectionBatch, DetectionDataset
from resnestkit.data.detection.shapes import CLASSES, make_shapes
from resnestkit.data.detection.table import DetectionImages
from resnestkit.data.detection.transforms import DetectionAugmentation, DetectionTransform
from resnestkit.data.images import MemoryImages
from resnestkit.data.loaders import Batches, EpochSampler, InOrder
from resnestkit.detectors import create_detector
from resnestkit.report.page import Figure, Table
from resnestkit.tasks import detection
from resnestkit.tasks.detection import DetectionTask

CPU = Compute(torch.device("cpu"), False, torch.contiguous_format)
BFLOAT16 = Compute(torch.device("cpu"), True, torch.contiguous_format)


@pytest.fixture(scope="module")
def images() -> DetectionImages:
    return make_shapes(counts={"val": 6}, seed=1).splits["val"]


def batches(images: DetectionImages, size: int = 2, *, masks: bool = False) -> list[DetectionBatch]:
    transform = DetectionTransform(DetectionAugmentation(0.0, (96, 128), max_side=192))
    dataset = DetectionDataset(images, transform, seed=0, masks=masks)
    return list(Batches(dataset, EpochSampler(len(images), size, 0), 0))


def to_evaluate(images: DetectionImages, size: int = 4) -> Batches[DetectionBatch]:
    return Batches(DetectionDataset(images), InOrder(len(images), size), 0)


def perfect(images: DetectionImages, *, masks: bool = False) -> list[dict[str, Tensor]]:
    outputs = []
    for index in range(len(images)):
        target = images.annotations(index).target(masks=True)
        assert target.masks is not None
        outputs.append(
            {
                "boxes": target.boxes,
                "labels": target.labels,
                "scores": torch.linspace(0.9, 0.6, len(target.labels)),
                **({"masks": target.masks[:, None].float()} if masks else {}),
            }
        )
    return outputs


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("compute", [CPU, BFLOAT16], ids=["float32", "bfloat16"])
def test_the_loss_is_the_sum_of_the_detectors_and_falls(
    images: DetectionImages, masks: bool, compute: Compute
) -> None:
    model = tiny_detector(masks=masks).train()
    task = DetectionTask(CLASSES, masks=masks)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    batch = batches(images, masks=masks)[0]
    losses = []
    for _ in range(20):
        step = task.step(model, batch, compute)
        assert step.loss.dtype == torch.float32
        assert step.images == 2
        named = {name: value for name, value in step.sums.items() if name != "loss"}
        assert ("loss_mask" in named) == masks
        assert {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"} <= set(
            named
        )
        assert step.sums["loss"] == pytest.approx(sum(named.values()), rel=1e-5)
        assert step.loss.item() * 2 == pytest.approx(step.sums["loss"], rel=1e-5)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        losses.append(step.sums["loss"])
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:2])
    assert task.words(step.sums).startswith("loss ")


def test_images_are_resized_once_in_training_and_by_the_model_in_evaluation(
    images: DetectionImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    model = tiny_detector()
    batch_images = GeneralizedRCNNTransform.batch_images

    def watch(self: Any, given: list[Tensor], size_divisible: int = 32) -> Tensor:
        seen.extend(tuple(image.shape[1:]) for image in given)
        return batch_images(self, given, size_divisible)

    monkeypatch.setattr(GeneralizedRCNNTransform, "batch_images", watch)
    task = DetectionTask(CLASSES)
    batch = batches(images)[0]
    task.step(model.train(), batch, CPU)
    assert seen == [tuple(image.shape[1:]) for image in batch.images]
    seen.clear()
    task.evaluate(model, to_evaluate(images), CPU)
    assert len(seen) == 6
    assert all(min(size) == 96 or max(size) == 160 for size in seen)
    assert model.training


@pytest.mark.parametrize("compute", [CPU, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("masks", [False, True])
def test_an_untrained_detector_is_evaluated(
    images: DetectionImages, masks: bool, compute: Compute
) -> None:
    done: list[int] = []
    task = DetectionTask(CLASSES, masks=masks)
    model = tiny_detector(masks=masks).train()
    result = task.evaluate(model, to_evaluate(images), compute, advance=done.append)
    assert done == [4, 2]
    assert result.count == 6
    assert 0 <= result.score < 0.3
    assert (result.masks is not None) == masks


@pytest.mark.parametrize("masks", [False, True])
def test_a_perfect_detector_scores_one(images: DetectionImages, masks: bool) -> None:
    task = DetectionTask(CLASSES, masks=masks)
    result = task.evaluate(Oracle(perfect(images, masks=masks)), to_evaluate(images), CPU)
    assert result.boxes.all.ap == pytest.approx(1)
    assert result.score == pytest.approx(1)
    first = next(iter(result.metrics))
    assert first == ("mask_ap" if masks else "ap")
    assert not result.missed
    assert not result.mistaken
    assert result.precision == result.recall == 1
    words = task.words(result.metrics)
    assert words.startswith("AP 100.00%")
    assert ("mask AP" in words) == masks


def test_masks_decide_the_score_where_there_are_any(images: DetectionImages) -> None:
    outputs = perfect(images, masks=True)
    for output in outputs:
        output["masks"] = output["masks"].roll(12, -1)
    result = DetectionTask(CLASSES, masks=True).evaluate(Oracle(outputs), to_evaluate(images), CPU)
    assert result.boxes.all.ap == pytest.approx(1)
    assert result.masks is not None
    assert result.score == result.masks.all.ap < 0.7


def test_several_processes_give_the_numbers_of_one(
    images: DetectionImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = DetectionTask(CLASSES)
    outputs = perfect(images)
    outputs[2]["labels"] = outputs[2]["labels"] % 3 + 1
    whole = task.evaluate(Oracle(outputs), to_evaluate(images), CPU)

    def pretend(seen: list[Any]) -> list[Any]:
        """As if every other batch had been another process's, and came in later."""
        return [seen[2:], seen[:2]]

    monkeypatch.setattr(detection, "gather", pretend)
    assert task.evaluate(Oracle(outputs), to_evaluate(images), CPU) == whole
    assert 0 < whole.score < 1


def test_every_kind_of_mistake_is_named(images: DetectionImages) -> None:
    outputs = perfect(images)
    target = images.annotations(0).target(masks=False)
    box, label = target.boxes[0], int(target.labels[0])
    other = label % 3 + 1
    size = box[2:] - box[:2]
    aside = box + torch.cat([size, size]) * 0.55
    outputs[0] = {
        "boxes": torch.stack([box, box, box, aside, torch.tensor([0.0, 0, 2, 2])]),
        "labels": torch.tensor([label, label, other, label, other]),
        "scores": torch.tensor([0.99, 0.98, 0.97, 0.96, 0.95]),
    }
    outputs[1] = {name: value[:0] for name, value in outputs[1].items()}
    result = DetectionTask(CLASSES).evaluate(Oracle(outputs), to_evaluate(images), CPU)
    faults = {miss.fault for miss in result.mistaken}
    assert {"found twice", "another class", "badly placed", "nothing there"} <= faults
    assert [miss.score for miss in result.mistaken] == sorted(
        (miss.score for miss in result.mistaken), reverse=True
    )
    lost = [miss for miss in result.missed if miss.index == 1]
    assert len(lost) == len(images.annotations(1).labels)
    areas = [(m.box[2] - m.box[0]) * (m.box[3] - m.box[1]) for m in lost]
    assert areas == sorted(areas, reverse=True)
    assert result.examples[0].index in {0, 1}


def test_crowds_are_neither_missed_nor_mistaken(images: DetectionImages) -> None:
    table = images.table
    crowd = table.crowd.copy()
    crowd[table.starts[0]] = True
    crowded = DetectionImages(images.pictures, replace(table, crowd=crowd))
    left, top, right, bottom = images.annotations(0).target(masks=False).boxes[0].tolist()
    whole = images.annotations(0).target(masks=False)
    middle = [(left + right) / 2 - 2, (top + bottom) / 2 - 2, (left + right) / 2 + 2]
    middle.append((top + bottom) / 2 + 2)
    outputs = perfect(images)
    outputs[0] = {
        "boxes": torch.cat([torch.tensor([middle]), whole.boxes[1:]]),
        "labels": whole.labels,
        "scores": torch.full((len(whole.labels),), 0.9),
    }
    result = DetectionTask(CLASSES).evaluate(Oracle(outputs), to_evaluate(crowded), CPU)
    assert result.score == pytest.approx(1)
    assert not result.mistaken
    assert not result.missed


@pytest.mark.parametrize("masks", [False, True])
def test_the_report_shows_it(images: DetectionImages, masks: bool) -> None:
    task = DetectionTask(CLASSES, masks=masks)
    outputs = perfect(images, masks=masks)
    outputs[0]["labels"] = outputs[0]["labels"] % 3 + 1
    outputs[1] = {name: value[:0] for name, value in outputs[1].items()}
    result = task.evaluate(Oracle(outputs), to_evaluate(images), CPU)
    json.dumps(asdict(result), allow_nan=False)
    report = task.report(result, images, "val")
    titles = [section.title for section in report.sections]
    assert {"Precision and recall", "True and found", "Largest objects missed"} <= set(titles)
    assert "Surest mistakes" in titles
    figures = [one for one in report.sections if isinstance(one, Figure)]
    assert all(one.png.startswith(b"\x89PNG") for one in figures)
    tables = {one.title: one for one in report.sections if isinstance(one, Table)}
    assert ("Classes, by masks" in tables) == masks
    rows = tables["Classes, by boxes"].rows
    assert [row[0] for row in rows] == list(CLASSES)
    counted = sum(len(images.annotations(i).labels) for i in range(6))
    assert sum(int(row[1]) for row in rows) == counted
    assert report.headlines[0].label == ("Mask AP" if masks else "AP")


def test_our_detectors_in_bfloat16_lose_as_in_float32(images: DetectionImages) -> None:
    torch.manual_seed(0)
    model = create_detector(
        "mask_rcnn", "resnest14", classes=3, settings="torchvision", fpn_channels=16,
        min_size=64, max_size=96,
    )  # fmt: skip
    task = DetectionTask(CLASSES, masks=True)
    batch = batches(images, 3, masks=True)[0]
    sums = []
    for compute in (CPU, BFLOAT16):
        torch.manual_seed(1)  # of the boxes that the losses are drawn from
        sums.append(task.step(model.train(), batch, compute).sums)
    assert sums[0].keys() == sums[1].keys()
    assert sums[1]["loss"] == pytest.approx(sums[0]["loss"], rel=0.1)
    assert model.transform._skip_resize
    result = task.evaluate(model, to_evaluate(images), BFLOAT16)
    assert result.count == 6


def test_an_image_without_objects_alone_has_a_finite_loss() -> None:
    images = make_shapes(counts={"val": 1}).splits["val"]
    batch = batches(images, 1)[0]
    empty = DetectionBatch(
        [torch.zeros(3, 100, 60, dtype=torch.uint8)],
        [batch.targets[0].keep(torch.zeros(0, dtype=torch.int64))],
        [],
        [0],
    )
    step = DetectionTask(CLASSES).step(tiny_detector().train(), empty, CPU)
    assert step.loss.isfinite()
    step.loss.backward()


def test_pictures_of_one_pixel_and_of_strips_are_drawn_in_grey_too() -> None:
    made = make_shapes(channels=1, counts={"val": 2}).splits["val"]
    strip = torch.zeros(1, 5, 900, dtype=torch.uint8)
    images = DetectionImages(MemoryImages([strip, made.read(1)], [0, 1], ["s", "m"]), made.table)
    task = DetectionTask(CLASSES)
    result = task.evaluate(Oracle(perfect(made)), to_evaluate(images), CPU)
    assert task.report(result, images, "val").pictures
