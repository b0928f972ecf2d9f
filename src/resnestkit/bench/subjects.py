"""The nets that are measured, and the same nets in the libraries beside ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from resnestkit.bench.contenders import RESNET, Contender, Library
from resnestkit.deploy.exporters.torch import as_runner
from resnestkit.errors import UserError, nearest
from resnestkit.extras import require
from resnestkit.factory import create_model, load_model
from resnestkit.models.cost import count_cost
from resnestkit.models.zoo import TABLE, Net, find_net
from resnestkit.runtime.loading import Run
from resnestkit.weights.checkpoint import ModelCard

_STATISTICS_SIDE, _STATISTICS_BATCH, _LEAST_VARIANCE = 128, 4, 0.1


@dataclass(frozen=True, slots=True)
class Subject:
    """A net with weights."""

    name: str
    """As the user gave it, in short."""
    net: Net
    model: nn.Module
    """In evaluation mode."""
    classes: int
    channels: int
    size: int
    """Side of the images, in pixels."""
    macs: int
    """Multiply-adds of one image."""
    accuracy: float | None = None
    """Of its validation, if it is a checkpoint that knows it."""


def check_subject(word: str) -> None:
    """Raise UserError if a word is no net and no classifier's checkpoint."""
    if not _is_net(word):
        load_model(Path(word))


def _is_net(word: str) -> bool:
    """Whether a net of the table is meant, or else a file. Raises UserError if it is neither."""
    names = [net.name for net in TABLE]
    if word in names or any(word in net.aliases for net in TABLE):
        return True
    if Path(word).suffix == ".safetensors" or Path(word).exists():
        return False
    raise UserError(f"There is no net and no file {word!r}.{nearest(word, names)}")


def make_subject(word: str, size: int | None) -> Subject:
    """A net of the table with random weights, or a checkpoint.

    Raises UserError if it is neither, or no classifier.
    """
    if not _is_net(word):
        return _read_subject(Path(word), size)
    net = find_net(word)
    model = create_model(net.name, net.classes, zero_gamma=False)
    settle(model, 3)
    side = size or net.size
    macs = count_macs(net, net.classes, 3, side)
    return Subject(word, net, model.eval(), net.classes, 3, side, macs)


def _read_subject(path: Path, size: int | None) -> Subject:
    model, card = load_model(path)
    net, images = find_net(card.net), card.preprocessing
    side = size or images.size
    classes, channels = model.classes, images.channels
    macs = count_macs(net, classes, channels, side)
    return Subject(path.stem, net, model, classes, channels, side, macs, _accuracy(card))


def _accuracy(card: ModelCard) -> float | None:
    value = card.metrics.get("top1")
    return float(value) if isinstance(value, (int, float)) else None


def count_macs(net: Net, classes: int, channels: int, size: int) -> int:
    """Multiply-adds of an image of that side."""
    with torch.device("meta"):
        return count_cost(create_model(net.name, classes, channels), channels, size).macs


def settle(model: nn.Module, channels: int) -> None:
    """Let the norms of a random net know its activations, in place: int8 must not round noise away.

    Statistics are those of one batch of noise.
    """
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    side = _STATISTICS_SIDE
    with torch.no_grad():
        model.train()(torch.randn(_STATISTICS_BATCH, channels, side, side, generator=generator))
    for norm in norms:
        norm.momentum = 0.1
        # A gate sees so few values that some hardly differ: scaled up, they would be rounding.
        assert norm.running_var is not None
        norm.running_var.clamp_(min=_LEAST_VARIANCE)
    model.eval()


def name_in(library: Library, net: Net) -> str | None:
    """What a library calls a net; None if it has it not. Raises UserError if it is not there."""
    if library == "resnestkit":
        return net.name
    if library == "torchvision":
        return RESNET
    require("timm", "timm")
    import timm  # noqa: PLC0415  (an extra)

    return next((name for name in (*net.aliases, net.name) if timm.is_model(name)), None)


def build(library: Library, name: str, classes: int, channels: int) -> nn.Module:
    """A library's net in evaluation mode, with random weights."""
    if library == "resnestkit":
        return create_model(name, classes, channels).eval()
    if library == "torchvision":
        net: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
        return net.eval()
    import timm  # noqa: PLC0415  (an extra)

    return timm.create_model(name, num_classes=classes, in_chans=channels).eval()


def open_torch(contender: Contender, threads: int) -> Run:
    """A contender that torch runs, as it comes or by torch.compile."""
    plan = contender.plan
    torch.set_num_threads(threads)
    model = build(plan.library, contender.net, contender.classes, contender.channels)
    model.load_state_dict(load_file(contender.path))
    return as_runner(torch.compile(model) if plan.runtime == "torch.compile" else model)
