"""Blocks as boxes and arrows, from the modules that a spec builds: nothing is drawn by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from resnestkit.models.attention import SelectiveKernel, SplitAttention, SqueezeExcite
from resnestkit.models.blocks import Bottleneck, SelectiveBottleneck
from resnestkit.models.build import build_net
from resnestkit.models.layers import ConvNormAct
from resnestkit.models.spec import NetSpec
from resnestkit.report.canvas import INK, MUTED, new_figure, to_png

STAGE, SIDE = 1, 56
"""The first block of the second stage, which strides; its input has this side for 224 pixels."""

COLOURS = {
    "splits": ["#2563eb", "#0f9d6b", "#d97706", "#b4479e"],
    "lines": ["#64748b", "#0f766e", "#2563eb", "#dc2626"],
}
_FILLS = {"conv": "#dbe7fe", "pool": "#fde9c8", "gate": "#fbd5d5", "plain": "#f1f3f6"}
_HEIGHT, _STEP, _WIDTH, _INCH = 0.74, 1.12, 2.6, 0.55
_GATE, _SIDE_WIDTH, _GAP = 2.65, 2.1, 0.35
"""Where gates stand beside the trunk, how wide the side columns are, and what lies between."""

Block = Bottleneck | SelectiveBottleneck


def make_block(spec: NetSpec, stage: int = STAGE) -> Block:
    """The first block of a stage, on the meta device."""
    with torch.device("meta"):
        block = build_net(spec).get_submodule(f"layer{stage + 1}.0")
    assert isinstance(block, Bottleneck | SelectiveBottleneck)
    return block


def draw_blocks(specs: Mapping[str, NetSpec]) -> bytes:
    """One block of each spec, side by side."""
    panels = [Panel(net, make_block(spec)) for net, spec in specs.items()]
    lowest = min(panel.last.y for panel in panels)
    widths = [panel.width for panel in panels]
    figure = new_figure(_INCH * sum(widths), _INCH * (_STEP - lowest) + 0.5)
    ratios = {"width_ratios": widths}
    drawn = figure.subplots(1, len(panels), squeeze=False, gridspec_kw=ratios)[0]
    for axes, panel in zip(drawn, panels, strict=True):
        panel.draw(axes, lowest)
    return to_png(figure)


@dataclass(frozen=True, slots=True)
class Box:
    """A box with its centre, width and height."""

    x: float
    y: float
    text: str
    fill: str
    width: float = _WIDTH
    height: float = _HEIGHT


class Panel:
    """One block, laid out from top to bottom: trunk, gate beside it, shortcut at the right."""

    def __init__(self, title: str, block: Block) -> None:
        self.title, self.block = title, block
        self.boxes: list[Box] = []
        self.arrows: list[tuple[Box, Box]] = []
        self.costs = _count(block)
        channels = _convs(block)[0].in_channels
        first = self.last = self._add(f"{channels} channels, {SIDE}x{SIDE}", "plain")
        for part in _trunk(block):
            self._follow(part)
        end = self._below("add, ReLU")
        self._add_shortcut(first, end)

    @property
    def width(self) -> float:
        """From the trunk's left edge to the shortcut's right one, with a margin."""
        return max(box.x for box in self.boxes) + (_WIDTH + _SIDE_WIDTH) / 2 + 2 * _GAP

    def _add(
        self, text: str, fill: str, x: float = 0.0, y: float = 0.0, width: float = _WIDTH
    ) -> Box:
        lines = text.count("\n") + 1
        box = Box(x, y, text, fill, width, _HEIGHT * max(1.0, 0.5 * lines))
        self.boxes.append(box)
        return box

    def _below(self, text: str, fill: str = "plain") -> Box:
        """A box under the last one, with an arrow between them."""
        box = self._add(text, fill, y=self.last.y - _STEP)
        self.arrows.append((self.last, box))
        self.last = box
        return box

    def _follow(self, part: nn.Module) -> None:
        """The next part of the trunk."""
        if isinstance(part, SplitAttention):
            self._below(self._words(part.conv), "conv")
            self._fan(_split_words(part), _gate_words(part))
        elif isinstance(part, SelectiveKernel):
            paths = [path for path in part.paths if isinstance(path, ConvNormAct)]
            texts = [self._words(path.conv, short=True) for path in paths]
            self._fan(texts, _gate_words(part))
        elif isinstance(part, SqueezeExcite):
            self._weigh([self.last], _gate_words(part))
        elif isinstance(part, nn.AvgPool2d):
            self._below(_pool_words(part), "pool")
        else:
            self._below(self._words(_convs(part)[0]), "conv")

    def _fan(self, texts: list[str], gate: str) -> None:
        """Branches side by side, and the gate that weighs them; of one alone, the gate."""
        above, width = self.last, _WIDTH / max(1, len(texts))
        most = max((text.count("\n") for text in texts), default=0)
        branches = [above] if not texts else []
        for index, text in enumerate(texts):
            x = (index - (len(texts) - 1) / 2) * width
            fill = COLOURS["splits"][index] + "40"
            y = above.y - _STEP - 0.18 * max(0, most - 1)
            branches.append(self._add(text, fill, x, y, width - 0.08))
            self.arrows.append((above, branches[-1]))
        self._weigh(branches, gate)

    def _weigh(self, branches: list[Box], words: str) -> None:
        """A gate beside the trunk, below what it reads, and the box in which it acts."""
        lowest = min(branch.y - branch.height / 2 for branch in branches)
        gate = self._add(words, "gate", _GATE, lowest - 0.75, _SIDE_WIDTH)
        joined = "weighted sum" if len(branches) > 1 else "times the gate"
        box = self._add(joined, "plain", y=gate.y - gate.height / 2 - 0.6)
        self.arrows += [(branch, box) for branch in branches]
        self.arrows += [(branches[-1], gate), (gate, box)]
        self.last = box

    def _add_shortcut(self, first: Box, end: Box) -> None:
        """What changes the input's shape, at the right of all else."""
        x = max(box.x for box in self.boxes) + (_WIDTH + _SIDE_WIDTH) / 2 + _GAP
        parts = [one for one in self.block.downsample or () if not _is_silent(one)]
        above = first
        for index, part in enumerate(parts):
            y = first.y + (end.y - first.y) * (index + 1) / (len(parts) + 1)
            conv = isinstance(part, nn.Conv2d)
            text = self._words(part) if conv else _pool_words(part)
            box = self._add(text, "conv" if conv else "pool", x, y, _SIDE_WIDTH)
            self.arrows.append((above, box))
            above = box
        self.arrows.append((above, end))

    def _words(self, conv: nn.Module, *, short: bool = False) -> str:
        """Kernel, channels, groups, stride and cost of a convolution."""
        assert isinstance(conv, nn.Conv2d)
        kernel = f"{conv.kernel_size[0]}x{conv.kernel_size[1]}"
        more = [f"{conv.groups} groups"] if conv.groups > 1 else []
        more += [f"stride {conv.stride[0]}"] if conv.stride[0] > 1 else []
        more += [f"dilation {conv.dilation[0]}"] if conv.dilation[0] > 1 else []
        first = f"{kernel}, {conv.in_channels} → {conv.out_channels}"
        if short:
            return "\n".join([*first.split(", "), *more, self._cost(conv)])
        return f"{first}\n{', '.join([*more, self._cost(conv)])}"

    def _cost(self, conv: nn.Conv2d) -> str:
        return f"{self.costs[conv] / 1e6:.0f} M"

    def draw(self, axes: Axes, lowest: float) -> None:
        """Boxes over arrows."""
        axes.set_title(self.title, color=INK, fontsize=10, fontweight="bold")
        for start, end in self.arrows:
            _draw_arrow(axes, start, end)
        for box in self.boxes:
            corner = (box.x - box.width / 2 + 0.05, box.y - box.height / 2 + 0.05)
            axes.add_patch(
                FancyBboxPatch(
                    corner, box.width - 0.1, box.height - 0.1, boxstyle="round,pad=0.05",
                    fc=_FILLS.get(box.fill, box.fill), ec=MUTED, lw=0.6, zorder=3,
                )
            )  # fmt: skip
            axes.text(
                box.x, box.y, box.text, ha="center", va="center", fontsize=7.2, color=INK, zorder=4
            )
        axes.set_xlim(-_WIDTH / 2 - _GAP, self.width - _WIDTH / 2 - _GAP)
        axes.set_ylim(lowest - 0.5, 0.5)
        axes.set_axis_off()


def _trunk(block: Block) -> list[nn.Module]:
    """The residual branch, in the order in which it runs, without norms and ReLUs."""
    names = ["conv1", "pool_before", "conv2", "pool_after", "conv3", "se"]
    parts = [getattr(block, name) for name in names if hasattr(block, name)]
    return [part for part in parts if not isinstance(part, nn.Identity)]


def _convs(part: nn.Module) -> list[nn.Conv2d]:
    return [one for one in part.modules() if isinstance(one, nn.Conv2d)]


def _is_silent(part: nn.Module) -> bool:
    """Whether it is not drawn: a norm, or a pool of one pixel."""
    pools = isinstance(part, nn.AvgPool2d) and part.kernel_size != 1
    return not (pools or isinstance(part, nn.Conv2d))


def _split_words(part: SplitAttention) -> list[str]:
    """The splits by their channels; nothing where there is but one."""
    if part.radix == 1:
        return []
    groups = f"\nin {part.cardinality} groups" if part.cardinality > 1 else ""
    return [f"split {one + 1}\n{part.fc1.in_channels}{groups}" for one in range(part.radix)]


def _pool_words(part: nn.Module) -> str:
    assert isinstance(part, nn.AvgPool2d)
    return f"average pool {part.kernel_size}x{part.kernel_size}\nstride {part.stride}"


def _gate_words(part: SplitAttention | SelectiveKernel | SqueezeExcite) -> str:
    """What a gate does, line by line; its cost is under a million multiply-adds everywhere."""
    branches = 1
    if isinstance(part, SplitAttention):
        layers, branches = [part.fc1, part.fc2], part.radix
    elif isinstance(part, SelectiveKernel):
        layers, branches = [part.attn.fc_reduce, part.attn.fc_select], part.attn.paths
    else:
        layers = [part.fc1, part.fc2]
    lines = ["mean over the map" if branches == 1 else "mean of the sum"]
    for layer in layers:
        groups = f", {layer.groups} groups" if layer.groups > 1 else ""
        lines.append(f"{layer.in_channels} → {layer.out_channels}{groups}")
    return "\n".join([*lines, "sigmoid" if branches == 1 else f"softmax over {branches}"])


def _count(block: Block) -> dict[nn.Conv2d, int]:
    """Multiply-adds of every convolution, of what runs."""
    costs: dict[nn.Conv2d, int] = {}

    def add(conv: nn.Module, _inputs: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        costs[conv] = out.numel() * conv.weight[0].numel()

    hooks = [conv.register_forward_hook(add) for conv in _convs(block)]
    with torch.no_grad():
        block.eval()(torch.empty(1, _convs(block)[0].in_channels, SIDE, SIDE, device="meta"))
    for hook in hooks:
        hook.remove()
    return costs


def _draw_arrow(axes: Axes, start: Box, end: Box) -> None:
    """Straight down; between columns, along the side and then down, or down and then along."""
    side = abs(start.x - end.x) > _WIDTH / 2
    below, above = start.y - start.height / 2, end.y + end.height / 2
    if not side:
        points = [(start.x, below), (end.x, above)]
    elif start.x < end.x:
        points = [(start.x + start.width / 2, start.y), (end.x, start.y), (end.x, above)]
    else:
        points = [(start.x, below), (start.x, end.y), (end.x + end.width / 2, end.y)]
    for one, other in pairwise(points[:-1]):
        axes.plot(*zip(one, other, strict=True), color=MUTED, lw=1.1, solid_capstyle="butt")
    axes.annotate(
        "", points[-1], points[-2],
        arrowprops={"arrowstyle": "-|>", "color": MUTED, "lw": 1.1, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
