"""The backbone contract as tests.

A new net of a known family adds its name to the table; a new family adds one small subclass that
says how its nets are built and what they promise. Nobody adds a test.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from builders import randomize_norms
from torch import Tensor

from resnestkit.models.backbone import Backbone

CLASSES = 7
ODD = (65, 71)


class BackboneContract(ABC):
    """What every named net must pass. Subclasses are called ``Test...`` so that pytest sees them.

    Shapes, gradients and independence are asked of the whole net, on small images; what does not
    depend on depth is asked of a net with few blocks; and structure is asked of the whole net on
    the meta device, where nothing is computed.
    """

    names: ClassVar[Sequence[str]]

    @classmethod
    @abstractmethod
    def build(cls, name: str, **options: Any) -> Backbone:
        """The net of that name."""

    @classmethod
    @abstractmethod
    def build_shallow(cls, name: str, **options: Any) -> Backbone:
        """A net with every kind of block of the one of that name, but few of each."""

    @classmethod
    @abstractmethod
    def expected_stages(cls, name: str) -> list[tuple[int, int]]:
        """Channels and stride of each stage, as published."""

    @classmethod
    def expected_side(cls, name: str, side: int, stride: int) -> int:
        """Side of a stage's features for an image of that side."""
        return math.ceil(side / stride)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.names, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def net(cls, name: str) -> Backbone:
        """The whole net in evaluation mode, built once for all tests that read it."""
        torch.manual_seed(0)
        net = cls.build(name, classes=CLASSES)
        randomize_norms(net, torch.randn(3, 3, 64, 64))
        return net.eval()

    def test_stages_have_the_published_channels_and_strides(self, name: str, net: Backbone) -> None:
        assert [(stage.channels, stage.stride) for stage in net.stages] == self.expected_stages(
            name
        )
        assert net.output_stride == net.stages[-1].stride
        assert len(set(net.stage_names)) == len(net.stages)

    def test_odd_sizes_in_a_batch_of_one(self, name: str, net: Backbone) -> None:
        images = torch.randn(1, 3, *ODD)
        with torch.no_grad():
            features, logits = net.forward_features(images), net(images)
        self._check_sides(name, net, features)
        assert logits.shape == (1, CLASSES)
        assert all(torch.isfinite(part).all() for part in (logits, *features.values()))

    def test_images_of_a_batch_do_not_see_each_other(self, net: Backbone) -> None:
        images = torch.randn(3, 3, 64, 64)
        with torch.no_grad():
            together, alone = net(images), net(images[1:2])
        assert _difference(together[1:2], alone) < 1e-3
        assert _difference(together[1], together[2]) > 1e-2, "the logits ignore the image"

    def test_backward_reaches_every_parameter(self, net: Backbone) -> None:
        net.zero_grad(set_to_none=True)
        logits = net(torch.randn(2, 3, 64, 64))
        (logits * torch.randn_like(logits)).sum().backward()
        gradients = {name: weight.grad for name, weight in net.named_parameters()}
        missed = [name for name, grad in gradients.items() if grad is None or not _lives(grad)]
        assert missed == []

    def test_it_trains(self, name: str) -> None:
        net = self.build_shallow(name, classes=CLASSES, zero_gamma=False).train()
        before = {key: value.clone() for key, value in net.state_dict().items()}
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        loss = torch.nn.functional.cross_entropy(net(torch.randn(2, 3, *ODD)), torch.tensor([1, 5]))
        loss.backward()
        optimizer.step()
        after = net.state_dict()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(value).all() for value in after.values())
        unmoved = [key for key in before if torch.equal(before[key], after[key])]
        # A bias before a batch norm is the one thing that a training step need not move.
        assert [key for key in unmoved if not key.endswith("fc1.bias")] == []

    @pytest.mark.parametrize("output_stride", [8, 16, 32])
    def test_output_stride(self, name: str, output_stride: int, net: Backbone) -> None:
        """Strides stop where they are told to, and nothing about the weights changes."""
        with torch.device("meta"):
            dilated = self.build(name, classes=CLASSES, output_stride=output_stride).eval()
            features = dilated.forward_features(torch.empty(1, 3, *ODD))
        expected = [(c, min(s, output_stride)) for c, s in self.expected_stages(name)]
        assert [(stage.channels, stage.stride) for stage in dilated.stages] == expected
        assert dilated.output_stride == expected[-1][1]
        self._check_sides(name, dilated, features)
        assert _shapes(dilated) == _shapes(net)

    def test_any_number_of_channels_and_classes(self, name: str) -> None:
        with torch.device("meta"):
            for channels, classes in ((1, 2), (5, 0)):
                net = self.build_shallow(name, in_channels=channels, classes=classes).eval()
                width = classes or net.stages[-1].channels
                assert net.in_channels == channels
                assert net(torch.empty(2, channels, 64, 64)).shape == (2, width)

    def test_options_neither_add_nor_rename_state(self, name: str) -> None:
        with torch.device("meta"):
            plain = self.build_shallow(name)
            optioned = self.build_shallow(
                name, drop_path=0.1, drop_block=0.1, dropout=0.3, zero_gamma=False
            )
        assert _shapes(optioned) == _shapes(plain)
        assert list(optioned.state_dict()) == list(plain.state_dict())

    def test_the_seed_decides_weights_and_regularisation(self, name: str) -> None:
        first, again, other = (self._seeded_logits(name, seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_freeze_holds_gradients_and_statistics(self, name: str) -> None:
        """Frozen stages act in training as in evaluation, and pass no gradient down."""
        net = self.build_shallow(name, classes=CLASSES, zero_gamma=False, drop_path=0.5)
        frozen = 2
        net.freeze(frozen)
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            held = net.eval().forward_features(images)
        trained = net.train().forward_features(images)
        for index, stage in enumerate(net.stages):
            assert trained[stage.name].requires_grad == (index >= frozen)
            same = torch.equal(trained[stage.name], held[stage.name])
            assert same == (index < frozen)

    def _seeded_logits(self, name: str, seed: int) -> Tensor:
        torch.manual_seed(seed)
        net = self.build_shallow(
            name, classes=CLASSES, drop_path=0.5, drop_block=0.2, dropout=0.2, zero_gamma=False
        )
        images = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
        logits: Tensor = net.train()(images)
        return logits.detach()

    def _check_sides(self, name: str, net: Backbone, features: dict[str, Tensor]) -> None:
        assert list(features) == net.stage_names
        for stage in net.stages:
            sides = [self.expected_side(name, side, stage.stride) for side in ODD]
            assert features[stage.name].shape == (1, stage.channels, *sides)


def _lives(gradient: Tensor) -> bool:
    return bool(torch.isfinite(gradient).all() and gradient.any())


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def _shapes(net: torch.nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in net.state_dict().items()}
