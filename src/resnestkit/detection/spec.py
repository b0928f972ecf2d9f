"""What a detector is: one frozen record, from which it is built again. Imports without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from resnestkit.models.spec import NORM_POLICIES, NormPolicy, Spec, spec_from_dict

Kind = Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet"]
BoxHead = Literal["4conv1fc", "2fc"]
HeadNorm = NormPolicy | Literal["none"]

KINDS: tuple[Kind, ...] = get_args(Kind)
HEAD_NORMS: tuple[HeadNorm, ...] = (*NORM_POLICIES, "none")


@dataclass(frozen=True, slots=True)
class DetectionSettings:
    """The choices in which detection codes differ; the defaults are those of the paper's models.

    They are those of Detectron2 with what the authors' configurations change (fork
    chongruo/detectron2-ResNeSt at 54ec876: configs/Base-RCNN-FPN.yaml, config/defaults.py).
    """

    aligned: bool = True
    """Whether RoIAlign takes the centre of a pixel at +0.5 (He et al. 2017; Detectron2's V2)."""
    sampling_ratio: int = 0
    """Samples per bin and axis of RoIAlign; 0 takes as many as the bin is pixels wide."""
    rounded_anchors: bool = False
    """Whether anchors' sides are rounded to pixels, as in torchvision."""
    beta: float = 0.0
    """Where smooth-L1 turns from a square to a line; at 0 it is L1."""
    box_head: BoxHead = "4conv1fc"
    """Four convolutions as wide as the pyramid and one layer of units, or two layers of units."""
    box_units: int = 1024
    rpn_convs: int = 1
    mask_convs: int = 4
    pre_nms: tuple[int, int] = (2000, 1000)
    """Proposals per level before their suppression, in training and in evaluation."""
    post_nms: tuple[int, int] = (1000, 1000)
    """Proposals per image after it, in training and in evaluation."""
    rpn_batch: int = 256
    """Anchors per image in the loss of the proposals, half of them objects if there are so many."""
    box_batch: int = 512
    """Proposals per image in the loss of the boxes, a quarter of them objects at most."""
    box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    """Scales of a box's four regressed numbers; a cascade's stages take them 1, 2, 3 times."""
    cascade_ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    """Overlap from which on a proposal is an object, stage by stage (Cai & Vasconcelos 2018)."""
    score: float = 0.05
    """Detections below this score are dropped."""
    nms: float = 0.5
    """Overlap above which the lower of two detections of a class is dropped."""
    detections: int = 100
    """Detections per image at most."""
    p6_from: Literal["c5", "p5"] = "c5"
    """What RetinaNet's sixth level reads: the last stage, or the pyramid's fifth level."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectionSettings:
        """The inverse of ``dataclasses.asdict``. Raises TypeError on a field that is not known."""
        known: dict[str, Any] = {
            n: tuple(v) if isinstance(v, list) else v for n, v in values.items()
        }
        return cls(**known)


_TORCHVISION = DetectionSettings(
    aligned=False,
    sampling_ratio=2,
    rounded_anchors=True,
    beta=1 / 9,
    box_head="2fc",
    post_nms=(2000, 1000),
    p6_from="p5",
)


def paper_settings(kind: Kind) -> DetectionSettings:
    """What the authors of ResNeSt train with; a cascade sees twice as many proposals."""
    return DetectionSettings(post_nms=(2000, 1000)) if is_cascade(kind) else DetectionSettings()


def torchvision_settings(kind: Kind) -> DetectionSettings:
    """What torchvision's ``fasterrcnn_resnet50_fpn`` and its kin have by default."""
    # RetinaNet's boxes are L1 there, and it keeps more of them.
    return replace(_TORCHVISION, beta=0.0, detections=300) if kind == "retinanet" else _TORCHVISION


def light_settings(kind: Kind) -> DetectionSettings:
    """For small images and few cores: two layers of units, and a quarter of the regions.

    At 512 regions an image the heads of a small net cost several times what its backbone does.
    Anchors half as large, as the images are, were slower to learn BCCD's cells: the small ones
    gain, but the others move to a coarser level.
    """
    return replace(
        torchvision_settings(kind),
        aligned=True,
        beta=0.0,
        box_units=512,
        pre_nms=(1000, 500),
        post_nms=(500, 250),
        rpn_batch=128,
        box_batch=128,
        mask_convs=2,
        score=0.01,
        nms=0.6,
    )


def is_cascade(kind: Kind) -> bool:
    """Whether boxes are refined in stages."""
    return kind in {"cascade_rcnn", "cascade_mask_rcnn"}


def has_masks(kind: Kind) -> bool:
    """Whether it gives a mask to each box."""
    return kind in {"mask_rcnn", "cascade_mask_rcnn"}


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A detector, complete but for how it wants its images, which is a `Preprocessing`."""

    kind: Kind
    net: Spec
    """The backbone."""
    classes: int
    """Classes of objects: labels are 1 to classes, and 0 is the background."""
    norm: NormPolicy = "batch"
    """The backbone's norms."""
    head_norm: HeadNorm = "batch"
    """Norms of the pyramid, the box head and the mask head; RetinaNet's head has none but group."""
    norm_eps: float = 1e-5
    """What frozen norms add to a variance (0 in torchvision's oldest detectors)."""
    fpn_channels: int = 256
    min_sizes: tuple[int, ...] = (800,)
    """An image's short side: training draws one of them, evaluation takes the last."""
    max_size: int = 1333
    """Its long side at most; the short side gives way."""
    settings: DetectionSettings = DetectionSettings()

    def __post_init__(self) -> None:
        for holds, said in (
            (self.kind in KINDS, f"kind is {self.kind!r}; it must be one of {', '.join(KINDS)}"),
            (self.classes >= 1, f"classes is {self.classes}; it must be 1 or more"),
            (self.norm in NORM_POLICIES, f"norm is {self.norm!r}"),
            (self.head_norm in HEAD_NORMS, f"head_norm is {self.head_norm!r}"),
            (self.fpn_channels >= 1, f"fpn_channels is {self.fpn_channels}"),
            (self.min_sizes and min(self.min_sizes) >= 1, f"min_size is {self.min_sizes}"),
            (self.max_size >= 1, f"max_size is {self.max_size}; it must be 1 or more"),
            (len(self.settings.box_weights) == 4, "box_weights are not four"),
            (self.settings.cascade_ious, "cascade_ious are none"),
        ):
            if not holds:
                raise ValueError(said)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorSpec:
        """The inverse of `to_dict`. Raises TypeError or ValueError where nothing can be built."""
        known = dict(values)
        known["net"] = spec_from_dict(dict(known["net"]))
        if "settings" in known:
            known["settings"] = DetectionSettings.from_dict(known["settings"])
        if "min_sizes" in known:
            known["min_sizes"] = tuple(known["min_sizes"])
        return cls(**known)
