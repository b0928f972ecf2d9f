"""segmentation-models-pytorch takes our nets as encoders, through timm."""

import pytest
import segmentation_models_pytorch as smp
import torch

import resnestkit

resnestkit.register_with_timm()
CASES = [
    (smp.Unet, {}),
    (smp.UnetPlusPlus, {"encoder_depth": 3, "decoder_channels": (32, 16, 8)}),
    (smp.FPN, {}),
    (smp.PSPNet, {}),
    (smp.DeepLabV3, {"encoder_output_stride": 8}),
    (smp.DeepLabV3Plus, {"encoder_output_stride": 8}),
    (smp.DeepLabV3Plus, {"encoder_output_stride": 16}),
]


@pytest.mark.parametrize("encoder", ["resnet18", "resnest14"])
@pytest.mark.parametrize(("architecture", "options"), CASES)
def test_forward_and_backward(architecture: type, options: dict, encoder: str) -> None:
    net = architecture(
        f"tu-resnestkit_{encoder}", encoder_weights=None, classes=2, in_channels=4, **options
    )
    masks = net(torch.randn(2, 4, 64, 64))
    assert masks.shape == (2, 2, 64, 64)
    masks.square().mean().backward()
    first = next(net.encoder.parameters())
    assert first.grad.abs().sum() > 0
    stride = options.get("encoder_output_stride", 2 ** min(net.encoder._depth, 5))
    assert net.encoder.output_stride == stride
    assert net.eval().encoder(torch.zeros(1, 4, 64, 64))[-1].shape[-1] == 64 // stride


def test_preprocessing() -> None:
    params = smp.encoders.get_preprocessing_params("tu-resnestkit_resnest50")
    assert params["mean"] == [0.485, 0.456, 0.406]
