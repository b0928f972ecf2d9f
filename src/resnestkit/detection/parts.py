"""Every part of torchvision that this package takes from below its documented surface.

What is imported here may move between torchvision's versions; nothing else of this package imports
from ``torchvision.models.detection``, so that a move is mended in this file alone.
"""

from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    maskrcnn_inference,
    paste_masks_in_image,
)
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import LevelMapper, MultiScaleRoIAlign

__all__ = [
    "AnchorGenerator",
    "BoxCoder",
    "FastRCNNConvFCHead",
    "FastRCNNPredictor",
    "GeneralizedRCNN",
    "GeneralizedRCNNTransform",
    "ImageList",
    "LastLevelMaxPool",
    "LastLevelP6P7",
    "LevelMapper",
    "MaskRCNNHeads",
    "MaskRCNNPredictor",
    "Matcher",
    "MultiScaleRoIAlign",
    "RPNHead",
    "RegionProposalNetwork",
    "RetinaNet",
    "RetinaNetHead",
    "RoIHeads",
    "TwoMLPHead",
    "maskrcnn_inference",
    "paste_masks_in_image",
]
