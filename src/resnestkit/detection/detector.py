"""The two detectors: regions first (R-CNN's line), or all in one go (RetinaNet)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import FrozenBatchNorm2d

from resnestkit.detection.cascade import CascadeHeads
from resnestkit.detection.heads import RegionHeads
from resnestkit.detection.images import Resize, check_images, check_targets
from resnestkit.detection.parts import GeneralizedRCNN, Matcher, RetinaNet, RetinaNetHead
from resnestkit.detection.pyramid import PyramidBackbone, head_norm_factory
from resnestkit.detection.regions import Anchors, Proposals, precise
from resnestkit.detection.spec import DetectorSpec, is_cascade
from resnestkit.models.backbone import Backbone
from resnestkit.models.build import build_net
from resnestkit.models.headed import Headed, explain_small_batch
from resnestkit.preprocessing import Preprocessing

Target = dict[str, Tensor]

_RPN_SCALES = (8.0,)
_DENSE_SCALES = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))
"""Three anchors an octave (Lin et al. 2017, *Focal Loss*, section 4)."""


class Detector(Headed):
    """What all detectors share: what they are, what they refuse, and whether they were trained.

    Called as torchvision's: a list of images (c, h, w) with numbers from 0 to 1, in training also a
    list of targets with "boxes" (n, 4) as x1, y1, x2, y2, "labels" (n,) of int64 from 1, and for
    mask detectors "masks" (n, h, w). Gives a dict of losses in training, and in evaluation a list
    of dicts with boxes, labels, scores, and masks (n, 1, h, w) as numbers from 0 to 1.
    """

    spec: DetectorSpec
    preprocessing: Preprocessing
    """How the backbone wants its images; ``size`` and ``crop_ratio`` are not used."""
    backbone: PyramidBackbone
    transform: Resize

    def note(self, spec: DetectorSpec, preprocessing: Preprocessing, classifier: str) -> None:
        """Keep what it was built from, and the name of the module that tells the class."""
        self.spec, self.preprocessing, self._classifier = spec, preprocessing, classifier
        self.head_is_new = True

    @property
    def classifier_name(self) -> str:
        """Name of the module that tells the class."""
        return self._classifier

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Any:
        """Losses in training, detections in evaluation.

        Raises UserError for images or targets that are none, and for a batch too small for its
        norms.
        """
        check_images(images, self.preprocessing.channels)
        if self.training or targets is not None:
            check_targets(images, targets, self.spec)
        with explain_small_batch(len(images), "detector"):
            return super().forward(list(images), targets)

    @property
    @abstractmethod
    def anchors(self) -> Anchors:
        """The boxes from which all others are told."""


class RegionDetector(Detector, GeneralizedRCNN):
    """Faster, Mask, Cascade and Cascade Mask R-CNN: proposals first, then a look at each."""

    rpn: Proposals
    roi_heads: RegionHeads

    def __init__(self, spec: DetectorSpec, preprocessing: Preprocessing, body: Backbone) -> None:
        backbone = PyramidBackbone(body, spec)
        anchors = Anchors(backbone.strides, _RPN_SCALES, rounded=spec.settings.rounded_anchors)
        pooled = [stage.name for stage in backbone.stages]
        make_heads = CascadeHeads if is_cascade(spec.kind) else RegionHeads
        super().__init__(
            backbone,
            Proposals(anchors, spec.fpn_channels, spec.settings),
            make_heads(spec, pooled, backbone.strides[: len(pooled)]),
            Resize(spec, preprocessing),
        )
        stage = ".0" if is_cascade(spec.kind) else ""
        self.note(spec, preprocessing, f"roi_heads.box_predictor{stage}.cls_score")

    @property
    def anchors(self) -> Anchors:
        """Those of the proposals."""
        return self.rpn.anchor_generator


class DenseDetector(Detector, RetinaNet):
    """RetinaNet (Lin et al. 2017, *Focal Loss*): class and box of every anchor at once.

    As in torchvision the classifier has a place for the background, label 0, which learns to say
    nothing and is never an answer.
    """

    anchor_generator: Anchors

    def __init__(self, spec: DetectorSpec, preprocessing: Preprocessing, body: Backbone) -> None:
        backbone, settings = PyramidBackbone(body, spec), spec.settings
        anchors = Anchors(backbone.strides, _DENSE_SCALES, rounded=settings.rounded_anchors)
        super().__init__(
            backbone,
            spec.classes + 1,
            anchor_generator=anchors,
            head=DenseHead(spec, anchors.num_anchors_per_location()[0]),
            proposal_matcher=Matcher(0.5, 0.4, allow_low_quality_matches=True),
            score_thresh=settings.score,
            nms_thresh=settings.nms,
            detections_per_img=settings.detections,
        )
        self.transform = Resize(spec, preprocessing)
        self.note(spec, preprocessing, "head.classification_head.cls_logits")

    @property
    def anchors(self) -> Anchors:
        """Those of every level."""
        return self.anchor_generator

    def postprocess_detections(self, head_outputs: Any, *rest: Any) -> Any:
        """As torchvision's, without the background among the answers."""
        logits = [level.clone() for level in head_outputs["cls_logits"]]
        for level in logits:
            level[..., 0] = -torch.inf
        return super().postprocess_detections({**head_outputs, "cls_logits": logits}, *rest)


class DenseHead(RetinaNetHead):
    """RetinaNet's two towers of four convolutions, which all levels share.

    They have no norm, since levels differ in their statistics, unless it is group normalisation.
    """

    def __init__(self, spec: DetectorSpec, anchors: int) -> None:
        norm = head_norm_factory("group" if spec.head_norm == "group" else "none")
        super().__init__(spec.fpn_channels, anchors, spec.classes + 1, norm_layer=norm)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Logits (b, anchors, classes + 1) and deltas (b, anchors, 4), in 32 bits at least."""
        return {name: precise(output) for name, output in super().forward(x).items()}


def build_detector(
    spec: DetectorSpec, preprocessing: Preprocessing | None = None, body: Backbone | None = None
) -> Detector:
    """The detector of a spec, with a backbone of its own unless one is given.

    Under ``torch.device("meta")`` it is built without memory.
    """
    images = preprocessing or Preprocessing()
    body = body or build_body(spec, images.channels)
    make = DenseDetector if spec.kind == "retinanet" else RegionDetector
    detector = make(spec, images, body)
    for part in detector.modules():
        if isinstance(part, FrozenBatchNorm2d):
            part.eps = spec.norm_eps
    return detector


def build_body(spec: DetectorSpec, in_channels: int = 3) -> Backbone:
    """The backbone of a spec, without a classifier."""
    return build_net(spec.net, classes=0, in_channels=in_channels, norm=spec.norm)
