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

from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone

CLASSES = 7


class BackboneContract(ABC):
    """What every named net must pass. Subclasses are called ``Test...`` so that pytest sees them.

    Shapes, gradients and independence are asked of the whole net, on small images; what does not
    depend on depth is asked of a net with few blocks; and structure is asked of the whole net on
    the meta device, where nothing is computed.
    """

    names: ClassVar[Sequence[str]]
    kinds: ClassVar[Sequence[str]]
    """Of the names whose nets differ in depth alone, one each: `build_shallow` makes them equal."""
    costly: ClassVar[frozenset[str]] = frozenset()
    """Nets whose gradients are followed through few of their blocks only."""
    side: ClassVar[int] = 64
    """Side of an even image, as small as the nets allow a test to be."""
    odd: ClassVar[tuple[int, int]] = (65, 71)
    """Sides of an odd one."""
    drop_path: ClassVar[float] = 0.5
    """Stochastic depth's probability where a test asks for it; 0 for nets without shortcuts."""

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
        if "kind" in metafunc.fixturenames:
            metafunc.parametrize("kind", self.kinds)

    @pytest.fixture(scope="class")
    @classmethod
    def net(cls, name: str) -> Backbone:
        """The whole net in evaluation mode, built once for all tests that read it."""
        torch.manual_seed(0)
        net = cls.build(name, classes=CLASSES)
        randomize_norms(net, torch.randn(3, 3, cls.side, cls.side))
        return net.eval()

    def test_stages_have_the_published_channels_and_strides(self, name: str, net: Backbone) -> None:
        assert [(stage.channels, stage.stride) for stage in net.stages] == self.expected_stages(
            name
        )
        assert net.output_stride == net.stages[-1].stride
        assert len(set(net.stage_names)) == len(net.stages)

    def test_odd_sizes_in_a_batch_of_one(self, name: str, net: Backbone) -> None:
        images = torch.randn(1, 3, *self.odd)
        with torch.no_grad():
            features, logits = net.forward_features(images), net(images)
        self._check_sides(name, net, features)
        assert logits.shape == (1, CLASSES)
        assert all(torch.isfinite(part).all() for part in (logits, *features.values()))

    def test_images_of_a_batch_do_not_see_each_other(self, net: Backbone) -> None:
        images = torch.randn(3, 3, self.side, self.side)
        with torch.no_grad():
            together, alone = net(images), net(images[1:2])
        assert _difference(together[1:2], alone) < 1e-3
        assert _difference(together[1], together[2]) > 1e-2, "the logits ignore the image"

    def test_backward_reaches_every_parameter(self, name: str, net: Backbone) -> None:
        if name in self.costly:
            net = self.build_shallow(name, classes=CLASSES).eval()
            randomize_norms(net, torch.randn(3, 3, self.side, self.side))
        logits = net(torch.randn(1, 3, self.side, self.side))
        (logits * torch.randn_like(logits)).sum().backward()
        assert _unreached(net) == []

    def test_it_trains(self, kind: str) -> None:
        net = self.build_shallow(kind, classes=CLASSES, zero_gamma=False).train()
        logits = net(torch.randn(2, 3, *self.odd))
        torch.nn.functional.cross_entropy(logits, torch.tensor([1, 5])).backward()
        # What a norm takes away again, the bias before it, gets rounding errors for a gradient.
        assert [key for key in _unreached(net) if not key.endswith(".bias")] == []
        runs = [int(value) for key, value in net.state_dict().items() if "num_batches" in key]
        assert set(runs) == {1}, "every norm sees every batch once"

    @pytest.mark.parametrize("output_stride", [8, 16])
    def test_output_stride(self, kind: str, output_stride: int) -> None:
        """Strides stop where they are told to, and nothing about the weights changes."""
        with torch.device("meta"):
            plain = self.build_shallow(kind)
            dilated = self.build_shallow(kind, output_stride=output_stride).eval()
            features = dilated.forward_features(torch.empty(1, 3, *self.odd))
        expected = [(c, min(s, output_stride)) for c, s in self.expected_stages(kind)]
        assert [(stage.channels, stage.stride) for stage in dilated.stages] == expected
        assert dilated.output_stride == expected[-1][1]
        self._check_sides(kind, dilated, features)
        assert _shapes(dilated) == _shapes(plain)

    @pytest.mark.parametrize("output_stride", [8, 32])
    def test_the_smallest_image(self, kind: str, output_stride: int) -> None:
        with torch.device("meta"):
            net = self.build_shallow(kind, output_stride=output_stride).eval()
            least = net.least_side
            features = net.forward_features(torch.empty(1, 3, least, least + 1))
            assert all(min(part.shape) > 0 for part in features.values())
            if least > 1:
                with pytest.raises((UserError, RuntimeError)):
                    net.forward_features(torch.empty(1, 3, least - 1, least))

    def test_any_number_of_channels_and_no_classes(self, kind: str) -> None:
        with torch.device("meta"):
            net = self.build_shallow(kind, in_channels=5, classes=0).eval()
            features = net(torch.empty(2, 5, self.side, self.side))
        assert net.in_channels == 5
        assert features.shape == (2, net.stages[-1].channels)

    def test_options_neither_add_nor_rename_state(self, kind: str) -> None:
        with torch.device("meta"):
            plain = self.build_shallow(kind)
            optioned = self.build_shallow(
                kind, drop_path=self.drop_path, drop_block=0.1, dropout=0.3, zero_gamma=False
            )
        assert _shapes(optioned) == _shapes(plain)
        assert list(optioned.state_dict()) == list(plain.state_dict())

    def test_the_seed_decides_weights_and_regularisation(self, kind: str) -> None:
        first, again = self._seeded(kind), self._seeded(kind)
        images = torch.randn(2, 3, self.side, self.side)
        with torch.no_grad():
            logits = [_seeded_call(net, images, seed) for net, seed in ((first, 1), (again, 1))]
            other = _seeded_call(again, images, 2)
        assert torch.equal(*logits)
        assert not torch.equal(logits[0], other)

    def test_freeze_holds_gradients_and_statistics(self, kind: str) -> None:
        """Frozen stages act in training as in evaluation, and pass no gradient down."""
        net = self.build_shallow(kind, classes=CLASSES, zero_gamma=False, drop_path=self.drop_path)
        frozen = 2
        net.freeze(frozen)
        images = torch.randn(2, 3, self.side, self.side)
        with torch.no_grad():
            held = net.eval().forward_features(images)
        trained = net.train().forward_features(images)
        for index, stage in enumerate(net.stages):
            assert trained[stage.name].requires_grad == (index >= frozen)
            same = torch.equal(trained[stage.name], held[stage.name])
            assert same == (index < frozen)

    def _seeded(self, name: str) -> Backbone:
        torch.manual_seed(1)
        return self.build_shallow(
            name,
            classes=CLASSES,
            drop_path=self.drop_path,
            drop_block=0.2,
            dropout=0.2,
            zero_gamma=False,
        ).train()

    def _check_sides(self, name: str, net: Backbone, features: dict[str, Tensor]) -> None:
        assert list(features) == net.stage_names
        for stage in net.stages:
            sides = [self.expected_side(name, side, stage.stride) for side in self.odd]
            assert features[stage.name].shape == (1, stage.channels, *sides)


def _unreached(net: torch.nn.Module) -> list[str]:
    """Names of the parameters without a gradient, or with one that is zero or not finite."""
    gradients = ((name, weight.grad) for name, weight in net.named_parameters())
    return [
        name
        for name, gradient in gradients
        if gradient is None or not gradient.any() or not torch.isfinite(gradient).all()
    ]


def _seeded_call(net: Backbone, images: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    logits: Tensor = net(images)
    return logits


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def _shapes(net: torch.nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in net.state_dict().items()}
