"""Checkpoints with the names and shapes of Detectron2's detectors, as the authors' fork has them.

Written by hand from the sources of chongruo/detectron2-ResNeSt at 54ec876: modeling/backbone/
{resnet,splat,fpn}.py, proposal_generator/rpn.py, roi_heads/{box_head,fast_rcnn,mask_head,
cascade_rcnn}.py, meta_arch/retinanet.py and anchor_generator.py. Values are random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

State = dict[str, Tensor]


def conv(name: str, out: int, fed: int, side: int, *, norm: bool, counted: bool = True) -> State:
    """A Conv2d of theirs: a norm inside it, or a bias."""
    state = {f"{name}.weight": torch.randn(out, fed, side, side) / math.sqrt(fed * side**2)}
    return state | (batch_norm(f"{name}.norm", out, counted) if norm else bias(name, out))


def bias(name: str, out: int) -> State:
    return {f"{name}.bias": torch.randn(out) / 10}


def batch_norm(name: str, channels: int, counted: bool = True) -> State:
    """A SyncBN, or (not counted) what FREEZE_AT makes of it."""
    state = {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": torch.randn(channels) / 10,
        f"{name}.running_mean": torch.randn(channels) / 10,
        f"{name}.running_var": torch.rand(channels) + 0.5,
    }
    return state | ({f"{name}.num_batches_tracked": torch.tensor(7)} if counted else {})


def resnest(layers: tuple[int, ...], stem: int) -> State:
    """A ResNeSt backbone: deep stem, averaged shortcuts, split attention of radix 2."""
    root = "backbone.bottom_up"
    state: State = {}
    for number, (out, fed) in enumerate([(stem, 3), (stem, stem), (2 * stem, stem)], 1):
        state |= conv(f"{root}.stem.conv1_{number}", out, fed, 3, norm=True, counted=False)
    fed = 2 * stem
    for stage, blocks in enumerate(layers):
        width, counted = 64 * 2**stage, stage > 0
        for block in range(blocks):
            name = f"{root}.res{stage + 2}.{block}"
            if block == 0:
                state |= _frozen_or_not(f"{name}.shortcut", 4 * width, fed, 1, counted)
            state |= _frozen_or_not(f"{name}.conv1", width, fed, 1, counted)
            state |= _split_attention(f"{name}.conv2", width, counted)
            state |= _frozen_or_not(f"{name}.conv3", 4 * width, width, 1, counted)
            fed = 4 * width
    return state


def resnet(layers: tuple[int, ...]) -> State:
    """A plain ResNet as the authors train it beside theirs: a stem of 7x7."""
    root = "backbone.bottom_up"
    state, fed = conv(f"{root}.stem.conv1", 64, 3, 7, norm=True, counted=False), 64
    for stage, blocks in enumerate(layers):
        width, counted = 64 * 2**stage, stage > 0
        for block in range(blocks):
            name = f"{root}.res{stage + 2}.{block}"
            if block == 0:
                state |= _frozen_or_not(f"{name}.shortcut", 4 * width, fed, 1, counted)
            state |= _frozen_or_not(f"{name}.conv1", width, fed, 1, counted)
            state |= _frozen_or_not(f"{name}.conv2", width, width, 3, counted)
            state |= _frozen_or_not(f"{name}.conv3", 4 * width, width, 1, counted)
            fed = 4 * width
    return state


def _frozen_or_not(name: str, out: int, fed: int, side: int, counted: bool) -> State:
    return conv(name, out, fed, side, norm=True, counted=counted)


def _split_attention(name: str, width: int, counted: bool) -> State:
    hidden = max(width * 2 // 4, 32)
    return {
        f"{name}.conv.weight": torch.randn(2 * width, width // 2, 3, 3) / math.sqrt(4.5 * width),
        **batch_norm(f"{name}.bn0", 2 * width, counted),
        **conv(f"{name}.fc1", hidden, width, 1, norm=False),
        **batch_norm(f"{name}.bn1", hidden, counted),
        **conv(f"{name}.fc2", 2 * width, hidden, 1, norm=False),
    }


def pyramid(channels: tuple[int, ...], width: int, first: int) -> State:
    """An FPN with norms."""
    state: State = {}
    for level, fed in enumerate(channels, first):
        state |= conv(f"backbone.fpn_lateral{level}", width, fed, 1, norm=True)
        state |= conv(f"backbone.fpn_output{level}", width, width, 3, norm=True)
    return state


def proposals(width: int) -> State:
    head = "proposal_generator.rpn_head"
    return {
        **conv(f"{head}.conv", width, width, 3, norm=False),
        **conv(f"{head}.objectness_logits", 3, width, 1, norm=False),
        **conv(f"{head}.anchor_deltas", 12, width, 1, norm=False),
        **dict(anchors("proposal_generator.anchor_generator", [(s,) for s in LEVELS])),
    }


LEVELS = (32, 64, 128, 256, 512)


def anchors(name: str, sizes: list[tuple[float, ...]]) -> Iterator[tuple[str, Tensor]]:
    """Anchors as they keep them: by size, then by ratio of height to width."""
    for level, those in enumerate(sizes):
        cells = []
        for size in those:
            for ratio in (0.5, 1.0, 2.0):
                width = math.sqrt(size**2 / ratio)
                height = ratio * width
                cells.append([-width / 2, -height / 2, width / 2, height / 2])
        yield f"{name}.cell_anchors.{level}", torch.tensor(cells)


def box_head(stage: str, classes: int, width: int, units: int) -> State:
    """Four convolutions with norms and one layer; a cascade's stages tell one box."""
    head, predictor = f"roi_heads.box_head{stage}", f"roi_heads.box_predictor{stage}"
    state: State = {}
    for number in range(1, 5):
        state |= conv(f"{head}.conv{number}", width, width, 3, norm=True)
    state[f"{head}.fc1.weight"] = torch.randn(units, width * 49) / math.sqrt(width * 49)
    boxes = 4 if stage else 4 * classes
    state |= bias(f"{head}.fc1", units)
    state[f"{predictor}.cls_score.weight"] = torch.randn(classes + 1, units) / math.sqrt(units)
    state[f"{predictor}.bbox_pred.weight"] = torch.randn(boxes, units) / math.sqrt(units)
    return (
        state | bias(f"{predictor}.cls_score", classes + 1) | bias(f"{predictor}.bbox_pred", boxes)
    )


def mask_head(classes: int, width: int, convs: int) -> State:
    head = "roi_heads.mask_head"
    state: State = {}
    for number in range(1, convs + 1):
        state |= conv(f"{head}.mask_fcn{number}", width, width, 3, norm=True)
    state[f"{head}.deconv.weight"] = torch.randn(width, width, 2, 2) / math.sqrt(width)
    state |= bias(f"{head}.deconv", width)
    return state | conv(f"{head}.predictor", classes, width, 1, norm=False)


def regions(
    classes: int,
    *,
    cascade: bool,
    mask_convs: int = 0,
    body: State | None = None,
    width: int = 32,
    units: int = 64,
) -> State:
    """Faster, Mask, Cascade or Cascade Mask R-CNN on a net, a small ResNeSt if none is given."""
    state = body or resnest((1, 1, 1, 1), 32)
    state = state | pyramid((256, 512, 1024, 2048), width, 2) | proposals(width)
    for stage in (".0", ".1", ".2") if cascade else ("",):
        state |= box_head(stage, classes, width, units)
    return state | (mask_head(classes, width, mask_convs) if mask_convs else {})


def dense(classes: int, width: int = 32) -> State:
    """RetinaNet on a ResNeSt."""
    state = resnest((1, 1, 1, 1), 32) | pyramid((512, 1024, 2048), width, 3)
    state |= conv("backbone.top_block.p6", width, 2048, 3, norm=False)
    state |= conv("backbone.top_block.p7", width, width, 3, norm=False)
    for tower in ("cls_subnet", "bbox_subnet"):
        for place in (0, 2, 4, 6):
            state |= conv(f"head.{tower}.{place}", width, width, 3, norm=False)
    state |= conv("head.cls_score", 9 * classes, width, 3, norm=False)
    state |= conv("head.bbox_pred", 36, width, 3, norm=False)
    sizes = [(s, s * 2 ** (1 / 3), s * 2 ** (2 / 3)) for s in LEVELS]
    return state | dict(anchors("anchor_generator", sizes))
