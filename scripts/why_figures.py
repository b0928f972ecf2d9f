"""The figures of docs/why.md but the blocks: who reads what, published accuracy, attention."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray
from torch import nn
from why_blocks import COLOURS, draw_blocks, make_block

from resnestkit.explain import FolderStatistics
from resnestkit.models.attention import SplitAttention
from resnestkit.models.spec import NetSpec
from resnestkit.models.zoo import find_net
from resnestkit.report.canvas import INK, LINE, MUTED, new_figure, set_title, to_png
from resnestkit.report.lines import finish_axes, start_at_zero

__all__ = ["draw_attention", "draw_blocks", "draw_groups", "draw_published"]

STAGE = 0
"""The first stage has the fewest channels, so that its groups can be seen."""

PUBLISHED: dict[str, dict[str, float]] = {
    "ResNeXt's authors (README of facebookresearch/ResNeXt)": {
        "resnet50": 100 - 23.9,
        "resnext50_32x4d": 100 - 22.2,
    },
    "GluonCV's model zoo": {"resnet50": 77.67, "resnet50c": 78.03, "resnet50d": 78.48},
    "SK-Net's authors (README of implus/SKNet)": {
        "resnext50_32x4d": 100 - 22.23,
        "seresnext50_32x4d": 100 - 21.12,
        "sknet50": 100 - 20.79,
    },
    "ResNeSt's authors (arXiv v1, and ablation.md)": {
        "resnet50d": 79.41,
        "resnest50_fast_1s1x64d": 80.35,
        "resnest50_fast_2s1x64d": 80.65,
        "resnest50_fast_4s1x64d": 80.90,
        "resnest50_fast_1s2x40d": 80.72,
        "resnest50_fast_2s2x40d": 80.84,
        "resnest50_fast_4s2x40d": 81.17,
        "resnest50_fast_1s4x24d": 80.97,
        "resnest50": 81.04,
    },
}
"""ImageNet top-1, %, one crop of 224, by who trained all of them. ResNeSt's are of MXNet."""


def draw_groups(specs: Mapping[str, NetSpec]) -> bytes:
    """Which input channels every output channel of a block's middle convolutions reads.

    The convolutions are asked: with weights of one, each input channel alone is sent through.
    """
    figure = new_figure(2.7 * len(specs), 3.9)
    panels = figure.subplots(1, len(specs), squeeze=False)[0]
    for axes, (net, spec) in zip(panels, specs.items(), strict=True):
        block = make_block(spec, STAGE)
        read = [_reads(conv) for conv in _middle(block)]
        if isinstance(block.conv2, SplitAttention):  # one convolution, whose output is the splits
            read = list(np.split(read[0], block.conv2.radix))
        _draw_matrix(axes, net, spec, read)
    panels[0].set_ylabel("output channels", color=MUTED, fontsize=9)
    return to_png(figure)


def _middle(block: nn.Module) -> list[nn.Conv2d]:
    """The 3x3 convolutions of a block."""
    found = [part for part in block.modules() if isinstance(part, nn.Conv2d)]
    return [conv for conv in found if conv.kernel_size == (3, 3)]


def _reads(conv: nn.Conv2d) -> NDArray[np.bool_]:
    """(output channel, input channel): whether the one reads the other."""
    conv.to_empty(device="cpu")
    nn.init.ones_(conv.weight)
    with torch.inference_mode():
        told = conv(torch.eye(conv.in_channels)[:, :, None, None])
    heard: NDArray[np.bool_] = (told.mean((2, 3)) > 0).T.numpy()
    return heard


def _draw_matrix(axes: Axes, net: str, spec: NetSpec, read: list[NDArray[np.bool_]]) -> None:
    """The splits or paths, one under the other, each in its colour."""
    numbered = np.concatenate([one * (index + 1) for index, one in enumerate(read)])
    colours = ["#eef0f3", *COLOURS["splits"][: len(read)]]
    axes.imshow(
        numbered, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(read) + 0.5,
        interpolation="nearest", aspect="auto",
    )  # fmt: skip
    rows = len(read[0])
    for index in range(1, len(read)):
        axes.axhline(index * rows - 0.5, color="white", lw=2)
    title = net.removeprefix("resnest50_fast_")
    axes.set_title(title, color=INK, fontsize=9, fontweight="bold")
    part = "path" if spec.sk else "split"
    if len(read) > 1:
        places = [index * rows + rows / 2 for index in range(len(read))]
        axes.set_yticks(places, [f"{part} {index + 1}" for index in range(len(read))], rotation=90)
    axes.set_xlabel(f"{read[0].shape[1]} input channels", color=MUTED, fontsize=9)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    if len(read) == 1:
        axes.set_yticks([])
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def draw_published() -> bytes:
    """Published accuracy with its cost, a panel for each group that trained the nets of it."""
    figure = new_figure(8.6, 7.2)
    ratios = {"height_ratios": [len(scores) + 0.8 for scores in PUBLISHED.values()]}
    panels = figure.subplots(len(PUBLISHED), 1, sharex=True, gridspec_kw=ratios)
    for axes, (who, scores), colour in zip(
        panels, PUBLISHED.items(), COLOURS["lines"], strict=True
    ):
        set_title(axes, who)
        for row, (net, score) in enumerate(scores.items()):
            cost = find_net(net)
            axes.plot(score, row, "o", color=colour, ms=7)
            words = f"{score:.2f} %   {cost.gmacs:.2f} G   {cost.params / 1e6:.1f} M"
            axes.annotate(
                words, (score, row), xytext=(9, 0), textcoords="offset points", va="center",
                fontsize=8, color=MUTED,
            )  # fmt: skip
        finish_axes(axes, empty=False)
        axes.set_yticks(range(len(scores)), list(scores))
        axes.set_ylim(len(scores) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x", color=LINE, lw=0.8)
    panels[-1].set_xlim(75.5, 83.2)
    panels[-1].set_xlabel(
        "ImageNet top-1, %, one crop of 224; beside it multiply-adds and parameters",
        color=MUTED, fontsize=9,
    )  # fmt: skip
    return to_png(figure)


def draw_attention(statistic: FolderStatistics) -> bytes:
    """Entropy, spread and switching channels of a trained net, block by block."""
    figure = new_figure(10.0, 3.4)
    names = [block.block for block in statistic.blocks]
    drawn = {
        "Entropy (1: even, 0: a choice)": [block.entropy for block in statistic.blocks],
        "Spread of a weight between images": [block.spread for block in statistic.blocks],
        "Channels that switch, %": [100 * block.switching.mean() for block in statistic.blocks],
    }
    for axes, (title, values), colour in zip(
        figure.subplots(1, 3), drawn.items(), COLOURS["lines"], strict=False
    ):
        set_title(axes, title)
        axes.plot(range(len(values)), values, "o-", color=colour, lw=1.8, ms=5)
        finish_axes(axes, empty=not values)
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        start_at_zero(axes)
    figure.supxlabel(
        f"blocks of {statistic.net}, from the first to the last; {statistic.images:,} images",
        color=MUTED, fontsize=9,
    )  # fmt: skip
    return to_png(figure)
