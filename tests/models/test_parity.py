"""Ours against the libraries that published the nets: names of every one, outputs of one of each.

Norms are randomised (`randomize_norms`) and outputs compared in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import FEW_BLOCKS, build, build_shallow, randomize_norms
from published import build_official, build_published, build_torchvision, pairs
from torch import Tensor, nn

from resnestkit.models.resnet import ResNet
from resnestkit.models.zoo import find_net, list_models

CLASSES = 7
STAGES = ("layer1", "layer2", "layer3", "layer4")
TOLERANCE = 1e-9


@pytest.mark.parametrize(("library", "theirs", "ours"), list(pairs()))
def test_state_dict_names_and_shapes_are_the_published_ones(
    library: str, theirs: str, ours: str
) -> None:
    with torch.device("meta"):
        our_state = build(ours).state_dict()
        their_state = build_published(library, theirs).state_dict()
    assert _shapes(our_state) == _shapes(their_state)


def test_every_net_but_the_small_ones_has_published_names() -> None:
    assert {ours for _, _, ours in pairs()} == set(list_models()) - set(list_models("*_small"))


def test_an_alias_is_the_name_of_the_net_that_it_is_compared_with() -> None:
    renamed = {(theirs, ours) for _, theirs, ours in pairs() if theirs not in list_models()}
    assert renamed
    assert all(find_net(theirs).name == ours for theirs, ours in renamed)


@pytest.mark.parametrize(
    ("output_stride", "options"), [(32, {}), (16, {"dilation": 2}), (8, {"dilated": True})]
)
@pytest.mark.parametrize("name", ["resnest50", "resnest50_fast_4s2x40d"])
def test_resnest_equals_the_authors_code_at_every_output_stride(
    name: str, output_stride: int, options: dict[str, Any]
) -> None:
    ours = build(name, classes=CLASSES, output_stride=output_stride).double()
    theirs = build_published("resnest", name, num_classes=CLASSES, **options).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    _assert_same_function(ours, theirs, images)


SHALLOW_PAIRS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: build_torchvision(FEW_BLOCKS, num_classes=CLASSES),
    **{
        name: lambda theirs=theirs, layers=layers: build_published(
            "timm", theirs, layers=list(layers), num_classes=CLASSES
        )
        for name, theirs, layers in [
            ("resnet18", "resnet18", FEW_BLOCKS),
            ("resnet50d", "resnet50d", FEW_BLOCKS),
            ("seresnext50_32x4d", "seresnext50_32x4d", FEW_BLOCKS),
            ("skresnet18", "skresnet18", FEW_BLOCKS),
            ("skresnet50d", "skresnet50d", FEW_BLOCKS),
            ("sknet50", "skresnext50_32x4d", FEW_BLOCKS),
            ("resnest14", "resnest14d", (1, 1, 1, 1)),
            ("resnest50_fast_1s4x24d", "resnest50d_1s4x24d", FEW_BLOCKS),
        ]
    },
    "resnest50": lambda: build_official(FEW_BLOCKS, num_classes=CLASSES),
    "resnest50_fast_4s2x40d": lambda: build_official(
        FEW_BLOCKS,
        num_classes=CLASSES,
        radix=4,
        groups=2,
        bottleneck_width=40,
        avd_first=True,
    ),
    "resnest50_fast_1s1x64d": lambda: build_official(
        FEW_BLOCKS, num_classes=CLASSES, radix=1, avd_first=True
    ),
}


@pytest.mark.parametrize("name", SHALLOW_PAIRS)
def test_outputs_and_gradients_equal_the_published_code(name: str) -> None:
    ours = build_shallow(name, classes=CLASSES, dropout=0.0).double()
    theirs = SHALLOW_PAIRS[name]().double()
    images = torch.randn(2, 3, 65, 71, dtype=torch.float64)
    _assert_same_function(ours, theirs, images)
    _assert_same_gradients(ours.eval(), theirs.eval(), images)
    _assert_same_gradients(ours.train(), theirs.train(), images)


def test_dilated_resnet_equals_torchvision() -> None:
    ours = build_shallow("resnet50", classes=CLASSES, output_stride=8).double()
    theirs = build_torchvision(
        FEW_BLOCKS, num_classes=CLASSES, replace_stride_with_dilation=[False, True, True]
    ).double()
    _assert_same_function(ours, theirs, torch.randn(2, 3, 65, 71, dtype=torch.float64))


def test_strided_and_dilated_3x3_shortcuts_equal_timm() -> None:
    ours = build_shallow("senet154", classes=CLASSES, output_stride=8).double()
    theirs = build_published(
        "timm",
        "senet154",
        layers=list(FEW_BLOCKS),
        num_classes=CLASSES,
        output_stride=8,
    ).double()
    _assert_same_function(ours, theirs, torch.randn(2, 3, 64, 64, dtype=torch.float64))


def _assert_same_function(ours: ResNet, theirs: nn.Module, images: Tensor) -> None:
    """Equal features at every stage, and equal logits."""
    randomize_norms(ours, torch.randn(3, 3, 64, 64, dtype=torch.float64))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    expected: dict[str, Tensor] = {}
    for stage in STAGES:
        theirs.get_submodule(stage).register_forward_hook(
            lambda _module, _inputs, output, stage=stage: expected.update({stage: output})
        )
    with torch.no_grad():
        logits = theirs.eval()(images)
        features = ours.eval().forward_features(images)
        assert _difference(ours(images), logits) < TOLERANCE
    for stage in STAGES:
        assert _difference(features[stage], expected[stage]) < TOLERANCE, stage


def _assert_same_gradients(ours: ResNet, theirs: nn.Module, images: Tensor) -> None:
    """Equal gradients of every parameter and of the images, relative to the largest of each."""
    probe = torch.randn(len(images), CLASSES, dtype=torch.float64)
    gradients = []
    for net in (ours, theirs):
        weights = dict(net.named_parameters())
        x = images.clone().requires_grad_()
        found = torch.autograd.grad((net(x) * probe).sum(), [x, *weights.values()])
        gradients.append(dict(zip(["images", *weights], found, strict=True)))
    largest = max(float(gradient.abs().max()) for gradient in gradients[1].values())
    for name, expected in gradients[1].items():
        error = (gradients[0][name] - expected).abs().max()
        # Some gradients cancel: a bias before a norm has none but the rounding of large ones.
        scale = max(float(expected.abs().max()), 1e-2 * largest)
        assert error < TOLERANCE * scale, name


def _difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.abs().max())


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}
