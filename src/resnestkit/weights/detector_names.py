"""The names that other codes give to a detector's parameters, and ours.

Ours are torchvision's. Detectron2's are those of the fork in which the authors trained (repository
chongruo/detectron2-ResNeSt at 54ec876: modeling/backbone/fpn.py, proposal_generator/rpn.py,
roi_heads/{box_head,fast_rcnn,mask_head,cascade_rcnn}.py, meta_arch/retinanet.py), in which three
things differ beside names:

* the background is the last class there and the first here, and there no box or mask is told for
  it: rows move, and rows of zeros take the background's place;
* RetinaNet tells no background there: a place that never answers is put before each anchor's
  classes;
* anchors are kept among the weights there: they are handed back, to be compared.

A box is told by the same four numbers, and a region's features are flattened in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from resnestkit.weights.names import to_ours, unwrap_names

DetectorDialect = Literal["torchvision", "detectron2"]

_NEVER = -100.0
"""A logit whose sigmoid no float32 tells from 0."""

_STAGE = r"roi_heads\.{}((?:\.\d)?)\."

_FROM_DETECTRON2 = (
    (r"^backbone\.top_block\.", "backbone.fpn.extra_blocks."),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.head.conv.0.0."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.head.bbox_pred."),
    (r"^roi_heads\.mask_head\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"^roi_heads\.mask_head\.predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
    (r"^head\.cls_score\.", "head.classification_head.cls_logits."),
    (r"^head\.bbox_pred\.", "head.regression_head.bbox_reg."),
)
_COUNTED = (
    (r"^backbone\.fpn_lateral(\d)\.(norm\.)?", "backbone.fpn.inner_blocks."),
    (r"^backbone\.fpn_output(\d)\.(norm\.)?", "backbone.fpn.layer_blocks."),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.(norm\.)?", "roi_heads.mask_head."),
)
_TOWERS = {"cls_subnet": "classification_head", "bbox_subnet": "regression_head"}

_FROM_OLD_TORCHVISION = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
)


def find_detector_dialect(tensors: Mapping[str, Tensor]) -> DetectorDialect | None:
    """Whose detector these are the weights of; None if they are no detector's."""
    names = unwrap_names(tensors)
    if not any(name.startswith(("roi_heads.box_", "head.")) for name in names):
        return None
    if any(name.startswith("backbone.bottom_up.") for name in names):
        return "detectron2"
    return "torchvision" if any(name.startswith("backbone.body.") for name in names) else None


def from_torchvision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under our names: only those of torchvision's versions before 0.13 differ."""
    old_towers = any(
        re.match(r"head\.\w+_head\.conv\.\d\.(weight|bias)$", name) for name in tensors
    )
    renamed = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in _FROM_OLD_TORCHVISION:
            new = re.sub(pattern, replacement, new)
        new = re.sub(
            r"^roi_heads\.mask_head\.mask_fcn(\d)\.",
            lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0.",
            new,
        )
        if old_towers:
            new = re.sub(
                r"^(head\.\w+_head\.conv)\.(\d)\.(?=weight|bias)",
                lambda match: f"{match[1]}.{int(match[2]) // 2}.0.",
                new,
            )
        renamed[new] = tensor
    return renamed


def from_detectron2(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Under our names and in our order of classes, and the anchors of each level."""
    anchors = [name for name in tensors if "anchor_generator.cell_anchors." in name]
    anchors.sort(key=lambda name: int(name.rsplit(".", 1)[1]))
    body = {n: t for n, t in tensors.items() if n.startswith("backbone.bottom_up.")}
    renamed = {f"backbone.body.{name}": tensor for name, tensor in to_ours(body)[0].items()}
    first_level = min(map(int, _all(r"^backbone\.fpn_lateral(\d)", tensors)), default=0)
    convs = len(set(_all(r"^roi_heads\.box_head(?:\.\d)?\.conv(\d)\.weight", tensors)))
    for name, tensor in tensors.items():
        if name not in body and name not in anchors and not name.startswith("pixel_"):
            renamed[_rename(name, first_level, convs)] = tensor
    return _reorder(renamed), [tensors[name] for name in anchors]


def _all(pattern: str, names: Mapping[str, Tensor]) -> list[str]:
    """The first group of a pattern in every name that has it."""
    return [match[1] for match in (re.search(pattern, name) for name in names) if match]


def _rename(name: str, first_level: int, convs: int) -> str:
    """A name of Detectron2's outside the backbone."""
    for pattern, replacement in _FROM_DETECTRON2:
        name = re.sub(pattern, replacement, name)
    for pattern, replacement in _COUNTED:
        match = re.match(pattern, name)
        if match:
            first = 1 if "mask" in pattern else first_level
            place = f"{int(match[1]) - first}.{1 if match[2] else 0}"
            return f"{replacement}{place}.{name[match.end() :]}"
    match = re.match(r"head\.(cls_subnet|bbox_subnet)\.(\d)\.", name)
    if match:
        return f"head.{_TOWERS[match[1]]}.conv.{int(match[2]) // 2}.0.{name[match.end() :]}"
    return _rename_box_head(name, convs)


def _rename_box_head(name: str, convs: int) -> str:
    """A name in a box head: convolutions with their norms, then layers."""
    match = re.match(_STAGE.format("box_head") + r"(conv|fc)(\d)\.(norm\.)?", name)
    if not match:
        return name
    stage, part, number, norm = match[1], match[2], int(match[3]), match[4]
    if part == "conv":
        place = f"{number - 1}.{1 if norm else 0}"
    elif convs:  # a layer that flattens lies between, and a ReLU after each
        place = str(convs + 2 * number - 1)
    else:
        place = f"fc{number + 5}"
    return f"roi_heads.box_head{stage}.{place}.{name[match.end() :]}"


def _reorder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows of classes with the background first."""
    classes = next(
        (len(t) - 1 for n, t in tensors.items() if re.search(r"cls_score\.weight$", n)), 0
    )
    boxes = tensors.get("head.regression_head.bbox_reg.weight")
    anchors = len(boxes) // 4 if boxes is not None else 0
    reordered = {}
    for name, tensor in tensors.items():
        new = tensor
        if re.search(r"box_predictor.*\.cls_score\.", name):
            new = tensor.roll(1, 0)
        elif re.search(r"box_predictor.*\.bbox_pred\.", name) and len(tensor) == 4 * classes > 4:
            new = torch.cat([tensor.new_zeros(4, *tensor.shape[1:]), tensor])
        elif ".mask_fcn_logits." in name:
            new = torch.cat([tensor.new_zeros(1, *tensor.shape[1:]), tensor])
        elif "classification_head.cls_logits." in name and anchors:
            new = _put_background(tensor, anchors)
        reordered[name] = new
    return reordered


def _put_background(rows: Tensor, anchors: int) -> Tensor:
    """A row before each anchor's classes that never answers: no weights, and a bias far below 0."""
    each = rows.unflatten(0, (anchors, -1))  # type: ignore[no-untyped-call]  # untyped
    value = _NEVER if rows.ndim == 1 else 0.0
    none = each.new_full((anchors, 1, *rows.shape[1:]), value)
    return torch.cat([none, each], dim=1).flatten(0, 1)
