"""Mean IoU and its kin: torchmetrics' and a plain count's, whatever the batches and processes."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.tasks.segmentation_counts import PICTURE_PIXELS, SHOWN, Counts, confuse, merge
from resnestkit.tasks.segmentation_evaluation import (
    Example,
    SegmentationEvaluation,
    class_shares,
    encode_mask,
    mean_iou,
    pixel_accuracy,
)


def draw(count: int, classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores and masks of images with something to ignore, and a class that is nowhere."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(classes - 1, (count, 9, 13), generator=generator).to(torch.uint8)
    masks[torch.rand(masks.shape, generator=generator) < 0.2] = IGNORE
    scores = torch.randn(count, classes, 9, 13, generator=generator)
    scores[:, -1] = -100.0
    right = F.one_hot(masks.long().clamp(max=classes - 1), classes).permute(0, 3, 1, 2)
    return scores + right * torch.randint(3, (count, 1, 9, 13), generator=generator), masks


def evaluate(scores: Tensor, masks: Tensor, *groups: list[int]) -> SegmentationEvaluation:
    """Of the images in groups, each a process of its own; of all in one if no groups are given."""
    parts = []
    for indices in groups or [list(range(len(masks)))]:
        counts = Counts(scores.shape[1])
        for index in indices:
            counts.add(scores[index, None], masks[index, None], [index])
        parts.append(counts)
    return merge(parts, "single scale")


def plain_iou(found: np.ndarray, masks: np.ndarray, classes: int) -> list[float]:
    """Each class's, by a loop; nan for what is nowhere."""
    labelled = masks != IGNORE
    shares = []
    for label in range(classes):
        there, said = (masks == label) & labelled, (found == label) & labelled
        union = int((there | said).sum())
        shares.append(int((there & said).sum()) / union if union else np.nan)
    return shares


@pytest.mark.parametrize("classes", [2, 5, 19])
def test_numbers_are_torchmetrics_and_a_plain_counts(classes: int) -> None:
    scores, masks = draw(7, classes)
    result = evaluate(scores, masks)
    theirs = MulticlassJaccardIndex(classes, average=None, ignore_index=IGNORE)
    theirs.update(scores, masks.long())
    counted = theirs.confmat
    assert torch.equal(torch.tensor(result.confusion), counted)
    # Of these counts torchmetrics makes numbers of 32 bits, as it always does.
    ours = torch.tensor([max(0.0, one.iou) for one in result.per_class], dtype=torch.float32)
    assert torch.equal(ours, theirs.compute())
    macro = MulticlassJaccardIndex(classes, average="macro", ignore_index=IGNORE)
    assert float(macro(scores, masks.long())) == pytest.approx(result.miou, rel=3e-7)
    found = scores.argmax(1).numpy()
    plain = plain_iou(found, masks.numpy(), classes)
    assert [one.iou for one in result.per_class] == [-1 if np.isnan(p) else p for p in plain]
    assert result.miou == np.nanmean(plain)
    labelled = masks.numpy() != IGNORE
    assert result.pixel_accuracy == (found == masks.numpy())[labelled].mean()
    accuracy = MulticlassAccuracy(classes, average="micro", ignore_index=IGNORE)
    assert float(accuracy(scores, masks.long())) == pytest.approx(result.pixel_accuracy, rel=1e-6)
    loss = F.cross_entropy(scores.double(), masks.long(), ignore_index=IGNORE)
    assert result.loss == pytest.approx(float(loss), rel=1e-5)


def test_it_is_no_mean_of_images() -> None:
    scores, masks = draw(4, 4)
    masks[0, :, 2:] = IGNORE  # an image with little to say
    parts = [evaluate(scores[i, None], masks[i, None]).miou for i in range(4)]
    assert evaluate(scores, masks).miou != pytest.approx(np.mean(parts), abs=1e-4)


@given(st.permutations(range(9)), st.integers(0, 9), st.integers(0, 9))
def test_processes_and_order_change_no_bit(order: list[int], one: int, two: int) -> None:
    scores, masks = draw(9, 4)
    low, high = sorted((one, two))
    groups = [order[:low], order[low:high], order[high:]]
    assert evaluate(scores, masks, *groups) == evaluate(scores, masks)


def test_the_worst_are_kept_and_others_by_lot() -> None:
    scores, masks = draw(20, 4)
    masks[3] = IGNORE
    scores[5] = F.one_hot((masks[5].long() + 1) % 4, 4).permute(2, 0, 1)
    result = evaluate(scores, masks)
    each = {i: evaluate(scores[i, None], masks[i, None]).miou for i in range(20) if i != 3}
    expected = sorted(each, key=lambda i: (each[i], i))[:SHOWN]
    assert [one.index for one in result.worst] == expected
    assert expected[0] == 5
    assert [one.miou for one in result.worst] == [each[i] for i in expected]
    assert len(result.drawn) == SHOWN
    assert {one.index for one in result.drawn} != set(expected)
    first = result.worst[0]
    assert np.array_equal(first.decode(), scores[5].argmax(0).numpy())
    again = json.loads(json.dumps(asdict(result)))
    assert again["miou"] == result.miou
    assert again["worst"][0]["mask"] == first.mask


@pytest.mark.parametrize("size", [(1, 1), (3000, 2000), (400, 461)])
def test_masks_are_kept_at_the_size_of_a_report(size: tuple[int, int]) -> None:
    mask = np.full(size, 7)
    mask[: size[0] // 2] = 300 if size[0] > 1 else 7
    found = Example(0, 0.5, encode_mask(mask, PICTURE_PIXELS)).decode()
    assert found.shape[0] <= PICTURE_PIXELS[1]
    assert found.shape[1] <= PICTURE_PIXELS[0]
    assert set(np.unique(found)) == set(np.unique(mask))


def test_nothing_labelled_is_nothing_measured() -> None:
    scores, masks = draw(2, 3)
    result = evaluate(scores, torch.full_like(masks, IGNORE))
    assert (result.miou, result.pixel_accuracy, result.score) == (-1, -1, 0)
    assert result.worst == ()
    assert np.isfinite(result.loss)
    assert next(iter(result.metrics)) == "miou"
    assert all(value >= 0 for value in result.metrics.values())


def test_shares_of_a_matrix() -> None:
    # Ten pixels of a, of which two are called b; none of b; c is neither there nor said.
    shares = class_shares(np.array([[8, 2, 0], [0, 0, 0], [0, 0, 0]]))
    assert [one.iou for one in shares] == [0.8, 0, -1]
    assert [one.accuracy for one in shares] == [0.8, -1, -1]
    assert [one.precision for one in shares] == [1, 0, -1]
    assert [one.pixels for one in shares] == [10, 0, 0]
    assert mean_iou(shares) == 0.4
    assert pixel_accuracy(np.zeros((2, 2), np.int64)) == -1


def test_a_confusion_has_truth_in_its_rows() -> None:
    found, mask = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, IGNORE]])
    assert confuse(found, mask, 2).tolist() == [[1, 1], [0, 0]]
