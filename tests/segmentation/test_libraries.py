"""The libraries' own segmenters load, and compute the same here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from small_segmenters import difference, liven, train_without_chance
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50, fcn_resnet50

import resnestkit
from resnestkit import UserError, create_segmenter
from resnestkit.segmentation.spec import Kind

resnestkit.register_with_timm()
CLASSES = 4
TOLERANCE = 1e-9

THEIRS: dict[Kind, Callable[..., nn.Module]] = {
    "deeplabv3": partial(smp.DeepLabV3, decoder_channels=64),
    "deeplabv3plus": partial(smp.DeepLabV3Plus, decoder_channels=64),
    "pspnet": partial(smp.PSPNet, encoder_depth=5, upsampling=32, psp_out_channels=32),
    "upernet": partial(smp.UPerNet, decoder_channels=64),
    "fpn": partial(smp.FPN, decoder_pyramid_channels=96, decoder_segmentation_channels=64),
    "unet": partial(smp.Unet, decoder_channels=(64, 48, 32, 24, 16)),
}
"""smp's PSPNet reads the stage of stride 8 unless it is told to read the last one."""


@pytest.mark.parametrize("kind", THEIRS)
def test_segmentation_models_pytorch(kind: Kind, tmp_path: Path) -> None:
    theirs = THEIRS[kind]("tu-resnestkit_resnet18", encoder_weights=None, classes=CLASSES)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    liven(theirs, images.float())
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    stride = 32 if kind == "pspnet" else None
    model = create_segmenter(
        kind, "resnet18", weights=tmp_path / "theirs.pth", output_stride=stride
    )
    assert model.spec.classes == CLASSES
    assert not model.spec.auxiliary
    assert not model.head_is_new
    with torch.no_grad():
        found, expected = model.double().eval()(images), theirs.double().eval()(images)
    assert difference(found, expected) < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "build"), [("deeplabv3", deeplabv3_resnet50), ("fcn", fcn_resnet50)]
)
def test_torchvision(kind: Kind, build: Any, tmp_path: Path) -> None:
    options = {"weights": None, "weights_backbone": None, "aux_loss": True}
    theirs = build(num_classes=CLASSES, **options)
    images = torch.randn(1, 3, 34, 45, dtype=torch.float64)
    liven(theirs, images.float())
    path = tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), path)
    model = create_segmenter(kind, "resnet50", weights=path).double()
    assert not model.spec.settings.align_corners
    with torch.no_grad():
        expected = theirs.double().eval()(images)
        found = train_without_chance(model)(images)
    assert difference(found["logits"], expected["out"]) < TOLERANCE
    assert difference(found["auxiliary"], expected["aux"]) < TOLERANCE
    # Without the second head, and as weights of another model's backbone.
    assert create_segmenter(kind, "resnet50", weights=path, auxiliary=False).auxiliary is None
    if kind == "fcn":
        other = resnestkit.create_model("resnet50", 0, weights=path)
        assert torch.equal(other.conv1.weight, theirs.backbone.conv1.weight.float())


def test_group_norms_of_others_are_of_unknown_groups(tmp_path: Path) -> None:
    theirs = smp.Unet("tu-resnestkit_resnet18", encoder_weights=None, classes=CLASSES)
    state = {
        name: tensor
        for name, tensor in theirs.state_dict().items()
        if not ("running" in name or "tracked" in name)
    }
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="nothing says of how many groups"):
        create_segmenter("unet", "resnet18", weights=tmp_path / "theirs.pth")


def test_a_head_of_a_form_that_is_not_known(tmp_path: Path) -> None:
    theirs = smp.Linknet("tu-resnestkit_resnet18", encoder_weights=None, classes=CLASSES)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="a form that is not known here"):
        create_segmenter("unet", "resnet18", weights=tmp_path / "theirs.pth")
