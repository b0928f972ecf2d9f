"""torchvision's pyramid and detectors take our features as they come."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from resnestkit import create_model, list_models
from resnestkit.models.backbone import Backbone

NETS = ["resnet18", "resnest14", *list_models("se_*inception*")]


class Pyramid(nn.Module):
    """All that torchvision's detectors ask of a backbone."""

    out_channels = 32

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        channels = [stage.channels for stage in backbone.stages]
        self.pyramid = FeaturePyramidNetwork(channels, self.out_channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.pyramid(self.backbone.forward_features(images))


@pytest.mark.parametrize("name", NETS)
def test_the_pyramid_takes_the_stages(name: str) -> None:
    net = Pyramid(create_model(name, classes=0))
    images = torch.randn(2, 3, 96, 96)
    maps = net(images)
    features = net.backbone.forward_features(images)
    assert list(maps) == net.backbone.stage_names
    for stage in net.backbone.stages:
        assert maps[stage.name].shape == (2, 32, *features[stage.name].shape[2:])
    sum(one.square().mean() for one in maps.values()).backward()
    assert all(weight.grad is not None for weight in net.parameters())


def test_a_detector_trains_and_detects() -> None:
    net = Pyramid(create_model("resnet18", classes=0, norm="frozen"))
    stages = net.backbone.stages
    sizes = tuple((4 * stage.stride,) for stage in stages)
    detector = FasterRCNN(
        net,
        num_classes=3,
        min_size=64,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign(net.backbone.stage_names, 7, 2),
    )
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    losses = detector([torch.rand(3, 64, 64)], [target])
    sum(losses.values()).backward()
    assert net.backbone.get_parameter(net.backbone.first_weight).grad.abs().sum() > 0
    assert set(detector.eval()([torch.rand(3, 64, 64)])[0]) == {"boxes", "labels", "scores"}
