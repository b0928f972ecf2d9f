"""Anchors, pooling and losses by hand: what the paper's settings are, and torchvision's."""

import math

import pytest
import torch
from small_detectors import few_regions, make, scene
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss

from resnestkit.detection.cascade import CascadeHeads, keep_boxes
from resnestkit.detection.heads import region_losses
from resnestkit.detection.regions import AlignedPool, Anchors, box_loss
from resnestkit.detection.spec import DetectionSettings, paper_settings, torchvision_settings


def test_the_papers_anchors_are_not_rounded() -> None:
    sides = [(math.sqrt(32**2 / r), math.sqrt(32**2 * r)) for r in (0.5, 1.0, 2.0)]
    exact = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])
    torch.testing.assert_close(Anchors((4,), (8.0,), rounded=False).cell_anchors[0], exact)
    assert torch.equal(Anchors((4,), (8.0,), rounded=True).cell_anchors[0], exact.round())


def test_anchors_by_level() -> None:
    model = make("faster_rcnn")
    sides = [float(anchors[1, 2] * 2) for anchors in model.anchors.cell_anchors]
    assert sides == [32, 64, 128, 256, 512]
    dense = make("retinanet").anchors.cell_anchors
    octave = [32 * 2 ** (i / 3) for i in range(3)]
    assert [float(dense[0][3 * i + 1, 2] * 2) for i in range(3)] == pytest.approx(octave)


def test_anchors_stand_at_multiples_of_the_stride() -> None:
    anchors = Anchors((4, 8), (8.0,), rounded=False)
    levels = anchors.grid_anchors([(2, 3), (1, 1)], None)
    centres = (levels[0][:, :2] + levels[0][:, 2:]) / 2
    assert [tuple(c) for c in centres[1::3].tolist()] == [
        (0, 0),
        (4, 0),
        (8, 0),
        (0, 4),
        (4, 4),
        (8, 4),
    ]


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_by_hand(aligned: bool) -> None:
    """On a ramp, a bin's mean is the ramp at its centre: half a pixel less where it is aligned."""
    settings = DetectionSettings(aligned=aligned, sampling_ratio=2)
    pool = AlignedPool(["one"], [4], 2, settings)
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    box = torch.tensor([[8.0, 8.0, 24.0, 40.0]])  # in pixels: cells 2 to 6, so bins of 2
    found = pool({"one": ramp}, [box], [(64, 64)])
    expected = torch.tensor([3.0, 5.0]) - (0.5 if aligned else 0.0)
    torch.testing.assert_close(found[0, 0], expected.expand(2, 2))


def test_boxes_go_to_the_level_of_their_size() -> None:
    pool = AlignedPool(list("abcd"), [4, 8, 16, 32], 1, DetectionSettings())
    levels = {name: torch.full((1, 1, 64, 64), float(i)) for i, name in enumerate("abcd")}
    boxes = torch.tensor([[0.0, 0.0, s, s] for s in (20.0, 112.0, 224.0, 448.0, 900.0)])
    assert pool(levels, [boxes], [(999, 999)]).flatten().tolist() == [0, 1, 2, 3, 3]


def test_beta_0_is_l1_and_torchvisions_is_not() -> None:
    found, wanted = torch.randn(7, 4) / 20, torch.randn(7, 4) / 20
    assert torch.equal(box_loss(found, wanted, 0.0), (found - wanted).abs().sum())
    smooth = F.smooth_l1_loss(found, wanted, beta=1 / 9, reduction="sum")
    assert torch.equal(box_loss(found, wanted, 1 / 9), smooth)
    assert smooth < 0.9 * box_loss(found, wanted, 0.0)
    assert paper_settings("faster_rcnn").beta == 0
    assert torchvision_settings("faster_rcnn").beta == 1 / 9


def test_the_proposals_box_loss_is_l1() -> None:
    proposals = make("faster_rcnn").rpn
    deltas, targets = torch.randn(50, 4), torch.randn(50, 4)
    labels = (torch.arange(50) < 10).float()
    _, loss = proposals.compute_loss(torch.randn(50, 1), deltas, [labels], [targets])
    torch.testing.assert_close(loss, (deltas - targets)[:10].abs().sum() / 50)


def test_region_losses_equal_torchvisions() -> None:
    logits, deltas = torch.randn(9, 4), torch.randn(9, 16)
    labels, wanted = torch.randint(0, 4, (9,)), torch.randn(9, 4)
    expected = fastrcnn_loss(logits, deltas, [labels], [wanted])
    torch.testing.assert_close(region_losses(logits, deltas, labels, wanted, 1 / 9), expected)
    agnostic = region_losses(logits, deltas[:, :4], labels, wanted, 0.0)[1]
    objects = labels > 0
    by_hand = (deltas[objects, :4] - wanted[objects]).abs().sum() / 9
    torch.testing.assert_close(agnostic, by_hand)


def test_mask_losses_equal_torchvisions() -> None:
    settings = few_regions("mask_rcnn", "torchvision")
    heads = make("mask_rcnn", "resnet18", settings=settings, head_norm="none").roi_heads.eval()
    _, targets = scene()
    boxes = [torch.tensor([[4.0, 6, 44, 38], [18, 22, 33, 49], [0, 0, 60, 50]])]
    labels, matched = [torch.tensor([1, 3, 0])], [torch.tensor([0, 1, 0])]
    features = {f"layer{i}": torch.randn(1, 32, 64 // 2**i, 96 // 2**i) for i in range(1, 5)}
    loss = heads.mask_losses(features, boxes, matched, labels, [(60, 80)], targets[:1])
    objects = [boxes[0][:2]]
    logits = heads.mask_logits(features, objects, [(60, 80)])
    kept = [targets[0]["masks"]], [targets[0]["labels"]], [matched[0][:2]]
    torch.testing.assert_close(loss, maskrcnn_loss(logits, objects, *kept))


def _cascade() -> CascadeHeads:
    heads = make("cascade_rcnn", "resnet18").roi_heads
    assert isinstance(heads, CascadeHeads)
    return heads


def test_a_cascades_stages() -> None:
    heads = _cascade()
    assert [m.high_threshold for m in heads.matchers] == [0.5, 0.6, 0.7]
    assert [m.low_threshold for m in heads.matchers] == [0.5, 0.6, 0.7]
    assert [coder.weights for coder in heads.coders] == [
        (10, 10, 5, 5),
        (20, 20, 10, 10),
        (30, 30, 15, 15),
    ]
    assert all(predictor.bbox_pred.out_features == 4 for predictor in heads.box_predictor)


def test_a_cascade_refines_boxes_and_averages_scores() -> None:
    heads = _cascade().eval()
    features = {f"layer{i}": torch.randn(1, 32, 128 // 2**i, 128 // 2**i) for i in range(1, 5)}
    shapes = [(128, 128)]
    start = [torch.tensor([[10.0, 10.0, 60.0, 70.0], [30.0, 20.0, 90.0, 120.0]])]
    for predictor in heads.box_predictor:
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.3)
    scores, boxes = [], start
    with torch.no_grad():
        for stage in range(3):
            pooled = heads.box_roi_pool(features, boxes, shapes)
            logits, deltas = heads.box_predictor[stage](heads.box_head[stage](pooled))
            scores.append(logits.softmax(1))
            made = heads.coders[stage].decode_single(deltas, boxes[0]).clamp(0, 128)
            boxes = [made]
        logits, deltas, regions = heads.predict(features, start, shapes)
        decoded = heads.box_coder.decode(deltas, regions).clamp(0, 128)
    torch.testing.assert_close(logits.softmax(1), sum(scores) / 3)
    assert decoded.shape == (2, 4, 4)
    for column in range(4):
        torch.testing.assert_close(decoded[:, column], boxes[0])
    assert not torch.allclose(boxes[0], start[0], atol=0.5)


def test_a_stage_asks_for_its_overlap() -> None:
    heads = _cascade()
    target = {"boxes": torch.tensor([[0.0, 0.0, 100.0, 100.0]]), "labels": torch.tensor([2])}
    proposals = [torch.tensor([[0.0, 0.0, 100.0, 65.0], [0.0, 0.0, 100.0, 75.0]])]
    assert heads._match(1, proposals, [target])[0][0].tolist() == [2, 2]
    assert heads._match(2, proposals, [target])[0][0].tolist() == [0, 2]
    _, deltas = heads._match(2, proposals, [target])
    # The object's centre is (100 - 75) / 2 / 75 heights lower, on the scale of stage 3.
    assert float(deltas[0][1, 1]) == pytest.approx(30 * 12.5 / 75)
    assert float(deltas[0][1, 3]) == pytest.approx(15 * math.log(100 / 75))


def test_a_cascades_heads_pull_on_the_features_a_third_each() -> None:
    heads = _cascade()
    features = {f"layer{i}": torch.randn(1, 32, 16, 16, requires_grad=True) for i in range(1, 5)}
    boxes = [torch.tensor([[2.0, 2.0, 40.0, 50.0]])]
    pooled = heads.box_roi_pool(features, boxes, [(64, 64)])
    whole = heads.box_predictor[0](heads.box_head[0](pooled))[0].sum()
    third = heads._run(0, features, boxes, [(64, 64)])[0].sum()
    torch.testing.assert_close(third, whole)
    gradients = [torch.autograd.grad(x, features["layer1"])[0] for x in (third, whole)]
    torch.testing.assert_close(gradients[0] * 3, gradients[1])


def test_boxes_that_vanish_leave_the_image() -> None:
    boxes = torch.tensor([[-9.0, -9.0, -1.0, -1.0], [90.0, 90.0, 99.0, 99.0]])
    assert keep_boxes(boxes, (40, 60)).tolist() == [[0, 0, 60, 40]]
    assert keep_boxes(boxes, (95, 95)).tolist() == [[90, 90, 95, 95]]


@pytest.mark.parametrize("settings", ["paper", "torchvision"])
def test_a_mask_is_pasted_where_its_regions_alignment_has_it(settings: str) -> None:
    """A half-plane, cropped as the heads learn it, comes back where it was."""
    transform = make("mask_rcnn", settings=settings).transform
    size, box = (40, 60), torch.tensor([10.3, 5.6, 42.7, 33.2])
    centres = torch.arange(60) + 0.5
    found = transform.paste(((torch.arange(28) + 0.5) / 28).expand(1, 28, 28), box, size)
    assert found.shape == size
    inside = (found > 0).nonzero()
    assert inside.amin(0).tolist() == [5, 10]
    assert inside.amax(0).tolist() == [33, 42]
    # Away from the edges, where values fade, each pixel has the ramp's value at its centre.
    ramp = (centres - box[0]) / (box[2] - box[0])
    error = (found[20, 14:38] - ramp[14:38]).abs().max()
    assert error < 1e-5 if settings == "paper" else 1e-3 < error < 0.05, error


def test_masks_of_boxes_beyond_the_image_or_of_no_size() -> None:
    transform = make("mask_rcnn").transform
    for box in ([-20.0, -9.0, -3.0, -1.0], [50.0, 3.0, 80.0, 9.0], [4.0, 4.0, 4.0, 4.0]):
        found = transform.paste(torch.ones(1, 28, 28), torch.tensor(box), (30, 40))
        assert found.shape == (30, 40)
        assert found.sum() == 0
    corner = torch.tensor([-10.0, -10.0, 10.0, 10.0])
    half = transform.paste(torch.ones(1, 28, 28), corner, (30, 40))
    assert (half > 0.5).sum() == 100
