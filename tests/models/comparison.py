"""Whether two nets compute the same: features, logits, gradients, and what training changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass

import torch
from builders import randomize_norms
from torch import Tensor, nn

from resnestkit.models.backbone import Backbone
from resnestkit.weights.names import find_dialect, from_ours, to_ours

TOLERANCE = 1e-9
"""That of float64: nets of a hundred layers differ by 1e-13 to 1e-10, by the order of sums."""


@dataclass(frozen=True)
class Difference:
    """The largest differences seen, each relative to the largest value of its kind."""

    features: float
    """Over every stage, in evaluation."""
    logits: float
    """In evaluation."""
    training: float
    """Logits in training."""
    statistics: float
    """Running means and variances after one step of training."""
    gradients: float
    """Of every parameter, relative to the net's largest; of the images, relative to theirs."""

    @property
    def worst(self) -> float:
        """The largest of them."""
        return max(astuple(self))


def give_weights(ours: Backbone, theirs: nn.Module) -> None:
    """Fill both with the same random weights, norms alive; names must agree to the last one."""
    dtype = next(ours.parameters()).dtype
    side = 160 if ours.first_weight.startswith("conv2d_1a") else 64
    randomize_norms(ours, torch.randn(3, ours.in_channels, side, side, dtype=dtype))
    dialect = find_dialect(theirs.state_dict())
    theirs.load_state_dict(from_ours(ours.state_dict(), dialect), strict=True)
    # What is published is in their names: it must load here as it is.
    published = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    nn.init.normal_(next(ours.parameters()))
    ours.load_state_dict(to_ours(published)[0], strict=True)


def compare_nets(ours: Backbone, theirs: nn.Module, images: Tensor) -> Difference:
    """Run both on the same images and measure how they differ. Both hold the same weights.

    Images are a batch of four or more that leaves no stage of 1x1: a norm over few values, and a
    bias before a norm, would turn rounding into noise.
    """
    features, logits = _compare_evaluation(ours, theirs, images)
    probe = torch.randn(logits[0].shape, dtype=images.dtype)
    mine, my_gradients = _train(ours, images, probe)
    others, their_gradients = _train(theirs, images, probe)
    return Difference(
        features=features,
        logits=difference(*logits),
        training=difference(mine, others),
        statistics=_compare_statistics(ours, theirs),
        gradients=_compare_gradients(my_gradients, their_gradients),
    )


def compare_function(ours: Backbone, theirs: nn.Module, images: Tensor) -> float:
    """The largest difference of features and logits, in evaluation."""
    features, logits = _compare_evaluation(ours, theirs, images)
    return max(features, difference(*logits))


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.abs().max())


@torch.no_grad()
def _compare_evaluation(
    ours: Backbone, theirs: nn.Module, images: Tensor
) -> tuple[float, tuple[Tensor, Tensor]]:
    """The largest difference of a stage's features, and both logits."""
    expected: dict[str, Tensor] = {}
    hooks = [
        theirs.get_submodule(stage.parts[-1]).register_forward_hook(
            lambda _module, _inputs, output, name=stage.name: expected.update({name: output})
        )
        for stage in ours.stages
    ]
    theirs_logits = theirs.eval()(images)
    for hook in hooks:
        hook.remove()
    features = ours.eval().forward_features(images)
    assert list(features) == list(expected)
    worst = max(difference(features[name], expected[name]) for name in expected)
    return worst, (ours(images), theirs_logits)


def _train(net: nn.Module, images: Tensor, probe: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of one step in training mode, and the gradients by our names."""
    weights = dict(net.named_parameters())
    x = images.clone().requires_grad_()
    logits = net.train()(x)
    found = torch.autograd.grad((logits * probe).sum(), [x, *weights.values()])
    gradients = to_ours(dict(zip(weights, found[1:], strict=True)))[0]
    return logits.detach(), {"images": found[0], **gradients}


def _compare_gradients(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    assert set(mine) == set(theirs)
    weights = theirs.keys() - {"images"}
    largest = max(float(theirs[name].abs().max()) for name in weights)
    worst = max(float((mine[name] - theirs[name]).abs().max()) for name in weights)
    return max(worst / largest, difference(mine["images"], theirs["images"]))


def _compare_statistics(ours: nn.Module, theirs: nn.Module) -> float:
    mine, others = ours.state_dict(), to_ours(theirs.state_dict())[0]
    assert mine.keys() == others.keys()
    names = [name for name in mine if name.endswith(("running_mean", "running_var"))]
    return max(difference(mine[name], others[name]) for name in names)
