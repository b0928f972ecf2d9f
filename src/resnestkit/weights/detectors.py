"""What a file of a whole detector is, told from its tensors, and the detectors that are published.

The authors' files are named in the README of their fork of Detectron2 (chongruo/detectron2-ResNeSt
at 54ec876), with box and mask AP on COCO val2017 as they state them. Those with deformable
convolutions and the panoptic one are not among them: no net here has these parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from resnestkit.detection.spec import (
    DetectionSettings,
    HeadNorm,
    Kind,
    paper_settings,
    torchvision_settings,
)
from resnestkit.errors import UserError
from resnestkit.models.zoo import find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.card import ModelCard
from resnestkit.weights.detector_names import (
    find_detector_dialect,
    from_detectron2,
    from_torchvision,
)
from resnestkit.weights.names import unwrap_names
from resnestkit.weights.tensors import COUNTER
from resnestkit.weights.whole import FoundModel

_AUTHORS = Preprocessing(
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(58.393 / 255, 57.12 / 255, 57.375 / 255),
)
_MSRA = Preprocessing(
    mean=(103.53 / 255, 116.28 / 255, 123.675 / 255), std=(1 / 255,) * 3, channel_order="BGR"
)


@dataclass(frozen=True, slots=True)
class PublishedDetector:
    """One published detector."""

    file: str
    """Its name without the ending."""
    kind: Kind
    net: str
    box: float
    """AP of boxes on COCO val2017, percent, as its publisher states it."""
    mask: float | None = None
    norm_eps: float = 1e-5
    """What its frozen norms add to a variance."""


PUBLISHED_DETECTORS = (
    PublishedDetector("faster_rcnn_R_50_FPN_syncbn_range-scale_1x-fde56e2b", "faster_rcnn", "resnet50a", 39.25),
    PublishedDetector("faster_rcnn_R_101_FPN_syncbn_range-scale_1x-57c73356", "faster_rcnn", "resnet101a", 41.37),
    PublishedDetector("faster_rcnn_ResNeSt_50_FPN_syncbn_range-scale_1x-ad123c0b", "faster_rcnn", "resnest50", 42.33),
    PublishedDetector("faster_rcnn_ResNeSt_101_FPN_syncbn_range-scale_1x-d8f284b6", "faster_rcnn", "resnest101", 44.72),
    PublishedDetector("faster_cascade_rcnn_R_50_FPN_syncbn_range-scale_1x-3c7f2ef2", "cascade_rcnn", "resnet50a", 42.52),
    PublishedDetector("faster_cascade_rcnn_R_101_FPN_syncbn_range-scale_1x-4073359b", "cascade_rcnn", "resnet101a", 44.03),
    PublishedDetector("faster_cascade_rcnn_ResNeSt_50_FPN_syncbn_range-scale-1x-e9955232", "cascade_rcnn", "resnest50", 45.41),
    PublishedDetector("faster_cascade_rcnn_ResNeSt_101_FPN_syncbn_range-scale_1x-3627ef78", "cascade_rcnn", "resnest101", 47.50),
    PublishedDetector("faster_cascade_rcnn_ResNeSt_200_FPN_syncbn_range-scale_1x-1be2a87e", "cascade_rcnn", "resnest200", 49.03),
    PublishedDetector("mask_rcnn_R_50_FPN_syncbn_1x-4939bd58", "mask_rcnn", "resnet50a", 39.97, 36.05),
    PublishedDetector("mask_rcnn_R_101_FPN_syncbn_1x-55493cc2", "mask_rcnn", "resnet101a", 41.78, 37.51),
    PublishedDetector("mask_rcnn_ResNeSt_50_FPN_syncBN_1x-f442d863", "mask_rcnn", "resnest50", 42.81, 38.14),
    PublishedDetector("mask_rcnn_ResNeSt_101_FPN_syncBN_1x-528502c6", "mask_rcnn", "resnest101", 45.75, 40.65),
    PublishedDetector("mask_cascade_rcnn_R_50_FPN_syncbn_1x-03310c9b", "cascade_mask_rcnn", "resnet50a", 43.06, 37.19),
    PublishedDetector("mask_cascade_rcnn_R_101_FPN_syncbn_1x-8cec1631", "cascade_mask_rcnn", "resnet101a", 44.79, 38.52),
    PublishedDetector("mask_cascade_rcnn_ResNeSt_50_FPN_syncBN_1x-c58bd325", "cascade_mask_rcnn", "resnest50", 46.19, 39.55),
    PublishedDetector("mask_cascade_rcnn_ResNeSt_101_FPN_syncBN_1x-62448b9c", "cascade_mask_rcnn", "resnest101", 48.30, 41.56),
    PublishedDetector("mask_cascade_rcnn_ResNeSt_200_FPN_syncBN_all_tricks_3x", "cascade_mask_rcnn", "resnest200", 50.54, 44.21),
    # torchvision's oldest three were trained without an epsilon (its overwrite_eps says so).
    PublishedDetector("fasterrcnn_resnet50_fpn_coco-258fb6c6", "faster_rcnn", "resnet50", 37.0, norm_eps=0.0),
    PublishedDetector("maskrcnn_resnet50_fpn_coco-bf2d0c1e", "mask_rcnn", "resnet50", 37.9, 34.6, 0.0),
    PublishedDetector("retinanet_resnet50_fpn_coco-eeacb38b", "retinanet", "resnet50", 36.4, norm_eps=0.0),
    PublishedDetector("fasterrcnn_resnet50_fpn_v2_coco-dd69338a", "faster_rcnn", "resnet50", 46.7),
    PublishedDetector("maskrcnn_resnet50_fpn_v2_coco-73cbd019", "mask_rcnn", "resnet50", 47.4, 41.8),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDetector(FoundModel):
    """A whole detector in a file: what to build for its weights, and the weights."""

    kind: Kind
    settings: DetectionSettings
    head_norm: HeadNorm
    """"none", or "batch" where pyramid and heads have statistics."""
    fpn_channels: int
    norm_eps: float = 1e-5
    min_sizes: tuple[int, ...] | None = None
    max_size: int | None = None
    """Where its card says so."""
    anchors: Sequence[Tensor] = field(default_factory=tuple)
    """The anchors of each level around 0, where the file holds them."""


def find_detector(
    path: Path, weights: Mapping[str, Tensor], card: ModelCard | None
) -> FoundDetector | None:
    """The detector whose weights these are; None if they are no detector's.

    Raises UserError for a detector of a form that is not known here.
    """
    if card is not None:
        return _from_card(card, weights)
    dialect = find_detector_dialect(weights)
    if dialect is None:
        return None
    plain = unwrap_names(weights)
    anchors: list[Tensor] = []
    if dialect == "detectron2":
        tensors, anchors = from_detectron2(plain)
    else:
        tensors = from_torchvision(plain)
    known = next((one for one in PUBLISHED_DETECTORS if one.file == path.stem), None)
    found = _describe(path, tensors, known)
    return replace(
        found,
        settings=_find_settings(found.kind, tensors, dialect),
        preprocessing=_find_images(plain, tensors, dialect),
        anchors=anchors,
    )


def _from_card(card: ModelCard, weights: Mapping[str, Tensor]) -> FoundDetector | None:
    spec = card.detector
    if spec is None:
        return None
    return FoundDetector(
        kind=spec.kind,
        classes=spec.classes,
        settings=spec.settings,
        norm=spec.norm,
        head_norm=spec.head_norm,
        fpn_channels=spec.fpn_channels,
        tensors=dict(weights),
        net=spec.net,
        norm_eps=spec.norm_eps,
        min_sizes=spec.min_sizes,
        max_size=spec.max_size,
        preprocessing=card.preprocessing,
        head_is_new=card.head_is_new,
    )


def _describe(
    path: Path, tensors: Mapping[str, Tensor], known: PublishedDetector | None
) -> FoundDetector:
    """What the shapes of a foreign detector's tensors say."""
    kind = _find_kind(tensors)
    lateral = tensors.get("backbone.fpn.inner_blocks.0.0.weight")
    if lateral is None:
        raise UserError(f"{path} is a detector without a feature pyramid, which is not known here.")
    normed = any(re.match(r"backbone\.fpn\.\w+\.0\.1\.", name) for name in tensors)
    counted = [n for n in tensors if n.endswith("running_var") and not n.startswith("backbone.bo")]
    grouped = kind == "retinanet" and any(".conv.0.1." in name for name in tensors)
    if grouped or (normed and not counted):
        raise UserError(
            f"{path} has group norms in its heads, and nothing says of how many groups; it cannot "
            "be loaded."
        )
    frozen = not any(n.startswith("backbone.body.") and n.endswith(COUNTER) for n in tensors)
    return FoundDetector(
        kind=kind,
        classes=_count_classes(kind, tensors),
        settings=DetectionSettings(),
        norm="frozen" if frozen and not normed else "batch",
        head_norm="batch" if normed else "none",
        fpn_channels=len(lateral),
        tensors=dict(tensors),
        net=find_net(known.net).spec if known else None,
        norm_eps=known.norm_eps if known else 1e-5,
    )


def _find_kind(names: Mapping[str, Tensor]) -> Kind:
    if any(name.startswith("head.") for name in names):
        return "retinanet"
    masks = any(name.startswith("roi_heads.mask_") for name in names)
    if "roi_heads.box_predictor.0.cls_score.weight" in names:
        return "cascade_mask_rcnn" if masks else "cascade_rcnn"
    return "mask_rcnn" if masks else "faster_rcnn"


def _count_classes(kind: Kind, tensors: Mapping[str, Tensor]) -> int:
    if kind == "retinanet":
        boxes = len(tensors["head.regression_head.bbox_reg.bias"]) // 4
        return len(tensors["head.classification_head.cls_logits.bias"]) // boxes - 1
    stage = "0." if kind.startswith("cascade") else ""
    return len(tensors[f"roi_heads.box_predictor.{stage}cls_score.bias"]) - 1


def _find_settings(kind: Kind, tensors: Mapping[str, Tensor], dialect: str) -> DetectionSettings:
    """Those of the code that trained it: of torchvision if its names and its forms are.

    Weights of ours without a card have torchvision's names; what torchvision does not build, a
    cascade or four convolutions behind a single one for the proposals, is the paper's.
    """
    rpn_convs = sum(1 for name in tensors if re.fullmatch(r"rpn\.head\.conv\.\d\.0\.weight", name))
    two = any(name.startswith("roi_heads.box_head.fc6.") for name in tensors)
    p6 = tensors.get("backbone.fpn.extra_blocks.p6.weight")
    from_p5 = p6 is not None and p6.shape[1] == p6.shape[0]
    theirs = dialect == "torchvision" and (two or rpn_convs > 1 or from_p5)
    base = torchvision_settings(kind) if theirs else paper_settings(kind)
    convs = {m[1] for n in tensors if (m := re.match(r"roi_heads\.mask_head\.(\d)\.0\.", n))}
    units = tensors.get("roi_heads.box_predictor.cls_score.weight")
    if units is None:
        units = tensors.get("roi_heads.box_predictor.0.cls_score.weight")
    return replace(
        base,
        box_head="2fc" if two else "4conv1fc",
        box_units=base.box_units if units is None else units.shape[1],
        rpn_convs=rpn_convs or base.rpn_convs,
        mask_convs=len(convs) or base.mask_convs,
    )


def _find_images(
    weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor], dialect: str
) -> Preprocessing:
    """How a foreign detector wants its images: as its file says, else as its code's recipe.

    Detectron2 without a mean in the file: the authors' for ResNeSt, whose blocks have two norms in
    the attention, and the default (BGR, in steps of 255) for all else.
    """
    if dialect == "torchvision":
        return Preprocessing()
    if "pixel_mean" in weights and "pixel_std" in weights:
        mean, std = (
            tuple(float(v) / 255 for v in weights[name].flatten())
            for name in ("pixel_mean", "pixel_std")
        )
        # ImageNet's red is brighter than its blue.
        return Preprocessing(
            mean=mean, std=std, channel_order="BGR" if mean[0] < mean[-1] else "RGB"
        )
    return _AUTHORS if "backbone.body.layer1.0.conv2.bn0.weight" in tensors else _MSRA
