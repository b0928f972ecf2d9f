"""The smallest detectors of torchvision's parts: the task asks for no more than their calls."""

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign


class Body(nn.Sequential):
    """Stride 8, 16 channels."""

    out_channels = 16

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after in ((3, 8), (8, 16), (16, 16)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.ReLU()]
        super().__init__(*layers)


def tiny_detector(classes: int = 3, *, masks: bool = False) -> nn.Module:
    torch.manual_seed(0)
    options = {
        "num_classes": classes + 1,
        "min_size": 96,
        "max_size": 160,
        "rpn_anchor_generator": AnchorGenerator(((16, 32, 64),), ((0.5, 1.0, 2.0),)),
        "box_roi_pool": MultiScaleRoIAlign(["0"], 5, 1),
        "rpn_post_nms_top_n_train": 100,
        "rpn_post_nms_top_n_test": 50,
        "box_batch_size_per_image": 64,
        "box_score_thresh": 0.01,
        "box_detections_per_img": 20,
    }
    if masks:
        options["mask_roi_pool"] = MultiScaleRoIAlign(["0"], 7, 1)
        return MaskRCNN(Body(), **options)
    return FasterRCNN(Body(), **options)


class Oracle(nn.Module):
    """Finds what it is told to, image by image, whatever it sees."""

    def __init__(self, outputs: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.outputs, self.shown = outputs, 0

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        start = self.shown
        self.shown += len(images)
        return self.outputs[start : self.shown]
