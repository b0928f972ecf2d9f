"""What a file of a whole segmenter is, told from its tensors, and the segmenters there are.

The authors' files are named in PyTorch-Encoding at ac74841 (encoding/models/model_store.py); their
mIoU is that of docs/source/model_zoo/segmentation.rst, with several scales and mirrored images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from resnestkit.errors import UserError
from resnestkit.models.spec import NormPolicy
from resnestkit.models.zoo import find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.segmentation.spec import (
    Kind,
    SegmentationSettings,
    own_output_stride,
)
from resnestkit.weights.card import ModelCard
from resnestkit.weights.segmenter_names import (
    SegmenterDialect,
    find_segmenter_dialect,
    segmenter_to_ours,
)
from resnestkit.weights.whole import FoundModel


@dataclass(frozen=True, slots=True)
class PublishedSegmenter:
    """One published segmenter."""

    file: str
    """Its name without the ending."""
    kind: Kind
    net: str
    data: str
    miou: float
    """On the validation images of its data, percent, as its publisher states it."""


PUBLISHED_SEGMENTERS = (
    PublishedSegmenter("fcn_resnet50s_ade-662e979d", "fcn", "resnet50s", "ADE20K", 38.5),
    PublishedSegmenter("fcn_resnest50_ade-4aba491a", "fcn", "resnest50", "ADE20K", 42.94),
    PublishedSegmenter("deeplab_resnest50_ade-2225f09d", "deeplabv3", "resnest50", "ADE20K", 45.12),
    PublishedSegmenter("deeplab_resnest101_ade-06ca799c", "deeplabv3", "resnest101", "ADE20K", 46.91),
    PublishedSegmenter("deeplab_resnest200_ade-7b9e7d3e", "deeplabv3", "resnest200", "ADE20K", 48.36),
    PublishedSegmenter("deeplab_resnest269_ade-0074dd10", "deeplabv3", "resnest269", "ADE20K", 47.60),
    PublishedSegmenter("fcn_resnest50_pcontext-77a2161d", "fcn", "resnest50", "Pascal-Context", 51.98),
    PublishedSegmenter("deeplab_resnest50_pcontext-08dccbc4", "deeplabv3", "resnest50", "Pascal-Context", 53.19),
    PublishedSegmenter("deeplab_resnest101_pcontext-faf58418", "deeplabv3", "resnest101", "Pascal-Context", 56.49),
    PublishedSegmenter("deeplab_resnest200_pcontext-fe76a265", "deeplabv3", "resnest200", "Pascal-Context", 58.37),
    PublishedSegmenter("deeplab_resnest269_pcontext-b661fd26", "deeplabv3", "resnest269", "Pascal-Context", 58.92),
    # torchvision's, on the COCO images of Pascal VOC's classes, as torchvision 0.29 states them.
    PublishedSegmenter("fcn_resnet50_coco-1167a1af", "fcn", "resnet50", "COCO with VOC's labels", 60.5),
    PublishedSegmenter("fcn_resnet101_coco-7ecb50ca", "fcn", "resnet101", "COCO with VOC's labels", 63.7),
    PublishedSegmenter("deeplabv3_resnet50_coco-cd0a2569", "deeplabv3", "resnet50", "COCO with VOC's labels", 66.4),
    PublishedSegmenter("deeplabv3_resnet101_coco-586e9e4e", "deeplabv3", "resnet101", "COCO with VOC's labels", 67.4),
)  # fmt: skip

_FORMS: tuple[tuple[str, Kind], ...] = (
    ("decoder.0.convs.", "deeplabv3"),
    ("decoder.0.weight", "fcn"),
    ("decoder.block2.", "deeplabv3plus"),
    ("decoder.fpn_lateral_blocks.", "upernet"),
    ("decoder.psp.", "pspnet"),  # UPerNet has one too
    ("decoder.p5.", "fpn"),
    ("decoder.blocks.0.conv1.", "unet"),
)
"""Names that tell a decoder, tried in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSegmenter(FoundModel):
    """A whole segmenter in a file: what to build for its weights, and the weights."""

    kind: Kind
    settings: SegmentationSettings
    head_norm: NormPolicy
    output_stride: int
    auxiliary: bool
    """Whether the file holds an auxiliary head."""


def find_segmenter(
    path: Path, weights: Mapping[str, Tensor], card: ModelCard | None
) -> FoundSegmenter | None:
    """The segmenter whose weights these are; None if they are no segmenter's.

    Raises UserError for a segmenter of a form that is not known here.
    """
    if card is not None:
        return _from_card(card, weights)
    dialect = find_segmenter_dialect(weights)
    if dialect is None:
        return None
    tensors = segmenter_to_ours(weights, dialect)
    known = next((one for one in PUBLISHED_SEGMENTERS if one.file == path.stem), None)
    found = _describe(path, tensors, dialect)
    return replace(found, net=find_net(known.net).spec) if known else found


def _from_card(card: ModelCard, weights: Mapping[str, Tensor]) -> FoundSegmenter | None:
    spec = card.segmenter
    if spec is None:
        return None
    return FoundSegmenter(
        kind=spec.kind,
        classes=spec.classes,
        settings=spec.settings,
        norm=spec.norm,
        head_norm=spec.head_norm,
        output_stride=spec.output_stride,
        auxiliary=spec.auxiliary,
        tensors=dict(weights),
        net=spec.net,
        preprocessing=card.preprocessing,
        head_is_new=card.head_is_new,
    )


def _describe(
    path: Path, tensors: Mapping[str, Tensor], dialect: SegmenterDialect
) -> FoundSegmenter:
    """What the names and the shapes of a segmenter's tensors say."""
    kind = next((k for mark, k in _FORMS if any(n.startswith(mark) for n in tensors)), None)
    head = tensors.get("classifier.weight")
    if kind is None or head is None or head.ndim != 4 or len(head) < 2:
        raise UserError(f"{path} is a segmenter of a form that is not known here.")
    foreign = dialect != "resnestkit"
    norm, head_norm = _find_norm(tensors, "body."), _find_norm(tensors, "decoder.")
    grouped = "group" in ((norm,) if kind == "fpn" else (norm, head_norm))
    if foreign and grouped:
        raise UserError(
            f"{path} has group norms, and nothing says of how many groups; it cannot be loaded."
        )
    return FoundSegmenter(
        kind=kind,
        classes=len(head),
        settings=_find_settings(kind, tensors, dialect),
        norm=norm,
        head_norm=head_norm,
        output_stride=own_output_stride(kind),
        auxiliary=any(name.startswith("auxiliary.") for name in tensors),
        tensors=dict(tensors),
        preprocessing=Preprocessing() if foreign else None,
    )


def _find_norm(tensors: Mapping[str, Tensor], start: str) -> NormPolicy:
    """Batch norms where there are statistics."""
    counted = any(name.startswith(start) and name.endswith("running_var") for name in tensors)
    return "batch" if counted else "group"


def _find_settings(
    kind: Kind, tensors: Mapping[str, Tensor], dialect: SegmenterDialect
) -> SegmentationSettings:
    """Channels as the tensors have them; what no tensor tells, as the code has it by default."""
    width = tensors["classifier.weight"].shape[1]
    base = SegmentationSettings(align_corners=dialect != "torchvision")
    if kind == "unet":
        blocks = [
            (int(match[1]), len(tensor))
            for name, tensor in tensors.items()
            if (match := re.fullmatch(r"decoder\.blocks\.(\d)\.conv1\.0\.weight", name))
        ]
        return replace(base, unet_channels=tuple(channels for _, channels in sorted(blocks)))
    if kind == "pspnet":
        return replace(base, psp_channels=width)
    if kind == "fcn":
        return base
    if kind == "deeplabv3plus" and dialect == "smp":
        # Its rates do not follow the stride: 12, 24 and 36 at 16 are twice as many at 8.
        base = replace(base, aspp_rates=tuple(2 * rate for rate in base.aspp_rates))
    pyramid = tensors.get("decoder.p5.weight")
    return replace(base, channels=width if pyramid is None else len(pyramid))
