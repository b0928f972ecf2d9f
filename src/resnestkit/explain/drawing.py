"""Drawings of attention: strips of weights, heat over pictures, what forcing changes, depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from numpy.typing import NDArray

from resnestkit.explain.folder import SWITCH_SHARE, BlockStatistics, FolderStatistics
from resnestkit.explain.picture import BlockView, Effect, ImageExplanation
from resnestkit.explain.sites import Branch
from resnestkit.explain.subject import Pixels, spread
from resnestkit.report.canvas import (
    BEST,
    FAINT,
    INK,
    LINE,
    MUTED,
    OTHER,
    VAL,
    new_figure,
    plain,
    set_title,
    to_png,
    user_fonts,
)
from resnestkit.report.confusion import SHARES
from resnestkit.report.rows import Titled, draw_rows
from resnestkit.report.segmentation import fit_picture

WEIGHTS = LinearSegmentedColormap.from_list("weights", [OTHER, "#ffffff", VAL])
"""0, uniform, 1."""
_HEAT = colormaps["inferno"]
_STRIP = 512
_SMALL, _LARGE = (300, 300), (620, 620)
"""Pixels of the drawing, two of which are one of a page's."""
_IN_A_ROW = 6
MOST_PICTURES = 48
"""That are drawn of what splits look at; of more, those of the blocks that matter most."""
MOST_CLASSES = 40
_PANELS = 3
"""Of classes, side by side."""
_COLOURS = {0.0: OTHER, 0.5: "#d97706", 1.0: VAL}
_NAMES = {0.0: "0", 0.5: "1/2", 1.0: "1"}


@dataclass(frozen=True, slots=True)
class Strip:
    """Weights of the channels of one split, under a name, and what they are if uniform."""

    name: str
    values: Float[NDArray[np.floating], " channels"]
    middle: float


@dataclass(frozen=True, slots=True)
class _Panel:
    """A number for each class and block, and how it is coloured."""

    title: str
    cells: Float[NDArray[np.floating], "classes blocks"]
    look: dict[str, Any]


def name_split(branch: Branch, split: int) -> str:
    """Such as "split 1", "path 2", or "gate"."""
    return branch if branch == "gate" else f"{branch} {split + 1}"


def make_strips(
    block: str, branch: Branch, grid: Float[NDArray[np.floating], "groups splits channels"]
) -> list[Strip]:
    """A block's weights, a strip for each head and split; of two splits the first tells both.

    Channels are sorted by the weight of the first split, in all strips of a head alike.
    """
    groups, splits, _ = grid.shape
    strips = []
    for group in range(groups):
        order = np.argsort(-grid[group, 0], kind="stable")
        for split in range(1 if splits == 2 else splits):
            words = [block] + [f"head {group + 1}"] * (groups > 1)
            words += [name_split(branch, split)] * (splits > 2)
            middle = 0.5 if splits == 1 else 1 / splits
            strips.append(Strip(", ".join(words), grid[group, split, order], middle))
    return strips


def draw_strips(strips: Sequence[Strip], title: str, most: float = 1.0) -> bytes:
    """Draw each strip from end to end, whatever the number of its channels.

    Args:
        strips: with values from 0 to ``most``, and one middle, which is white.
        title: of the drawing.
        most: the end of the scale.
    """
    places = [np.arange(_STRIP) * len(strip.values) // _STRIP for strip in strips]
    cells = np.stack([strip.values[place] for strip, place in zip(strips, places, strict=True)])
    figure = new_figure(10.0, 1.0 + max(0.13, 0.24 - 0.001 * len(strips)) * len(strips))
    axes = figure.add_subplot()
    norm = TwoSlopeNorm(strips[0].middle, 0.0, most)
    image = axes.imshow(cells, cmap=WEIGHTS, norm=norm, aspect="auto", interpolation="nearest")
    _name_rows(axes, [strip.name for strip in strips])
    axes.set_xticks([])
    axes.set_xlabel("channels, each block's sorted", color=MUTED, fontsize=9)
    for row in range(1, len(strips)):
        axes.axhline(row - 0.5, color="white", lw=1.5)
    bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.02, aspect=max(15, len(strips)))
    bar.set_ticks([0, strips[0].middle, most])
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    bar.outline.set_edgecolor(FAINT)
    set_title(axes, title)
    return to_png(figure)


def draw_activation(explained: ImageExplanation) -> bytes:
    """Draw the picture, and beside it where the net is active for the class."""
    assert explained.activation is not None
    picture = fit_picture(explained.picture, _LARGE)
    glowing = glow(picture, spread(explained.activation, picture.shape[:2], explained.seen))
    name = f"active for {explained.label}"
    return draw_rows([[Titled(picture, "what the net sees"), Titled(glowing, name)]])


def draw_looks(explained: ImageExplanation, *, heads: bool = False) -> bytes:
    """Draw what each split looks at, block by block, on one scale within a block.

    Args:
        explained: the image.
        heads: whether every head has pictures of its own, instead of one for all heads together.
    """
    picture = fit_picture(explained.picture, _LARGE if heads else _SMALL)
    cells: list[Titled] = []
    for view in most_telling(explained.blocks):
        cells += _look_cells(picture, view, explained.seen, heads=heads)
    splits = explained.blocks[0].energy.shape[1]
    columns = splits if heads else max(splits, _IN_A_ROW // splits * splits)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return draw_rows(rows)


def most_telling(blocks: Sequence[BlockView]) -> list[BlockView]:
    """Not too many blocks to draw, in the order of their depth."""
    most = MOST_PICTURES // blocks[0].energy.shape[1]
    order = sorted(range(len(blocks)), key=lambda index: -blocks[index].largest)
    return [blocks[index] for index in sorted(order[:most])]


def _look_cells(
    picture: Pixels, view: BlockView, seen: tuple[float, float], *, heads: bool
) -> list[Titled]:
    energy = view.energy if heads else view.energy.mean(0, keepdims=True)
    shares = view.energy_shares if heads else view.split_shares[None]
    maps = spread(energy / max(float(energy.max()), 1e-30), picture.shape[:2], seen)
    cells = []
    for group, split in np.ndindex(*maps.shape[:2]):
        words = [view.attention.block, f"head {group + 1}"][: 2 if len(maps) > 1 else 1]
        if maps.shape[1] > 1:
            words.append(f"{name_split(view.attention.branch, split)}: {shares[group, split]:.0%}")
        cells.append(Titled(glow(picture, maps[group, split]), ", ".join(words)))
    return cells


def glow(picture: Pixels, values: Float[NDArray[np.floating], "h w"]) -> Pixels:
    """The picture, grey and dim, with heat on it where values are high, up to 1."""
    grey = picture.astype(np.float32).mean(2, keepdims=True) * 0.6
    heat = _HEAT(np.clip(values, 0, 1))[..., :3] * 255
    share = 0.8 * np.clip(values, 0, 1)[..., None]
    drawn: Pixels = (grey * (1 - share) + heat * share).astype(np.uint8)
    return drawn


def draw_forced(explained: ImageExplanation) -> bytes:
    """Draw by how much the score changes when the attention of a block is forced."""
    rows: list[tuple[str, list[Effect]]] = []
    for view in explained.blocks:
        rows += _by_split(view.attention.block, view.attention.branch, view.effects)
    branch = explained.blocks[0].attention.branch
    rows += _by_split("all blocks", branch, explained.everywhere)
    figure = new_figure(10.0, 1.3 + max(0.13, 0.27 - 0.001 * len(rows)) * len(rows))
    axes = figure.add_subplot()
    for place, (_, effects) in enumerate(rows):
        changes = [100 * effect.change for effect in effects]
        axes.plot([min(0.0, *changes), max(0.0, *changes)], [place] * 2, color=LINE, lw=3, zorder=1)
        for effect, change in zip(effects, changes, strict=True):
            axes.plot([change], [place], "o", ms=6, color=_COLOURS[effect.value], zorder=2)
    for value, colour in _COLOURS.items():
        axes.plot([], [], "o", color=colour, label=f"{branch} at {_NAMES[value]}")
    axes.axvline(0, color=FAINT, lw=1, zorder=0)
    _name_rows(axes, [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"change of the {explained.answer}, in points", color=MUTED, fontsize=9)
    _quiet(axes)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8.5, frameon=False,
        labelcolor=MUTED, handletextpad=0.2,
    )  # fmt: skip
    set_title(axes, plain(f"{explained.label}: {100 * explained.score:.1f} without forcing", 50))
    return to_png(figure)


def _by_split(
    block: str, branch: Branch, effects: Sequence[Effect]
) -> list[tuple[str, list[Effect]]]:
    """A row for each split that was forced, with its effects."""
    splits = sorted({effect.split for effect in effects})
    rows = [(split, [one for one in effects if one.split == split]) for split in splits]
    several = len(splits) > 1
    return [(f"{block}, {name_split(branch, k)}" if several else block, found) for k, found in rows]


def draw_depth(statistics: FolderStatistics) -> bytes:
    """Draw entropy, spread between images and share of switching channels against depth."""
    blocks = statistics.blocks
    names = [block.block for block in blocks]
    figure = new_figure(10.0, 1.4 + max(0.13, 0.26 - 0.001 * len(blocks)) * len(blocks))
    mixed, moved, switched = figure.subplots(1, 3, sharey=True)
    places = np.arange(len(blocks))
    entropies = [block.entropy for block in blocks]
    deviations = [block.entropy_std for block in blocks]
    mixed.barh(places, entropies, xerr=deviations, color=VAL, ecolor=INK, height=0.65)
    mixed.set_xlim(0, 1.05)
    set_title(mixed, "Entropy (1 is uniform)")
    moved.barh(places, [block.spread for block in blocks], color=OTHER, height=0.65)
    set_title(moved, "Spread between images")
    shares = [100 * float(block.switching.mean()) for block in blocks]
    switched.barh(places, shares, color=BEST, height=0.65)
    switched.set_xlim(0, 103)
    set_title(switched, "Channels that switch, %")
    _name_rows(mixed, names)
    mixed.set_ylim(len(blocks) - 0.4, -0.6)
    for axes in (mixed, moved, switched):
        _quiet(axes)
    return to_png(figure)


def draw_classes(statistics: FolderStatistics) -> bytes:
    """Draw by class and depth the mean weights, their spread, and how far a class is apart."""
    shown = common_classes(statistics)
    names = [plain(statistics.classes[label], 24) for label in shown]
    panels = [*_mean_panels(statistics, shown), *_spread_panels(statistics, shown)]
    rows = -(-len(panels) // _PANELS)
    figure = new_figure(10.0, rows * (1.7 + 0.24 * len(shown)))
    places = figure.subplots(rows, _PANELS, sharey=True, squeeze=False)
    for axes, panel in zip(places.flat, panels, strict=False):
        _draw_panel(axes, panel, [block.block for block in statistics.blocks])
    for axes in places.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in places[:, 0]:
        axes.set_yticks(range(len(names)), names, fontfamily=user_fonts()[0], fontsize=8.5)
    return to_png(figure)


def _mean_panels(statistics: FolderStatistics, shown: Sequence[int]) -> list[_Panel]:
    """The mean weight of each split, over heads and channels; of two the first tells both."""
    blocks = statistics.blocks
    widest = max(blocks, key=lambda one: one.mean.shape[1])
    splits = widest.mean.shape[1]
    bare = np.full((1, splits), np.nan)  # of a block of another kind, which is left white
    means = np.array(
        [
            [(one.class_mean[k] if one.branch == widest.branch else bare).mean(0) for one in blocks]
            for k in shown
        ]
    )
    middle = 1 / max(2, splits)
    reach = max(0.01, float(np.nanmax(np.abs(means - middle))))
    look = {"cmap": WEIGHTS, "norm": TwoSlopeNorm(middle, middle - reach, middle + reach)}
    return [
        _Panel(f"Mean weight, {name_split(widest.branch, split)}", means[:, :, split], look)
        for split in range(1 if splits == 2 else splits)
    ]


def _spread_panels(statistics: FolderStatistics, shown: Sequence[int]) -> list[_Panel]:
    blocks = statistics.blocks
    spreads = np.array([[one.class_std[k].mean() for one in blocks] for k in shown])
    apart = np.array([[one.class_distance[k] for one in blocks] for k in shown])
    return [
        _Panel(title, cells, {"cmap": SHARES, "vmin": 0, "vmax": max(0.01, float(cells.max()))})
        for title, cells in (("Spread in the class", spreads), ("Distance from all", apart))
    ]


def _draw_panel(axes: Axes, panel: _Panel, blocks: Sequence[str]) -> None:
    image = axes.imshow(panel.cells, aspect="auto", interpolation="nearest", **panel.look)
    set_title(axes, panel.title)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02, aspect=25)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    bar.outline.set_edgecolor(FAINT)
    step = -(-len(blocks) // 20)
    axes.set_xticks(range(0, len(blocks), step), blocks[::step], rotation=90, fontsize=8)
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_visible(False)


def common_classes(statistics: FolderStatistics) -> list[int]:
    """Those with the most images, in the order of the classes."""
    order = sorted(statistics.counts, key=lambda label: (-statistics.counts[label], label))
    return sorted(order[:MOST_CLASSES])


def mean_strips(blocks: Sequence[BlockStatistics]) -> list[Strip]:
    """The mean weights over all images."""
    return [strip for one in blocks for strip in make_strips(one.block, one.branch, one.mean)]


def switch_strips(blocks: Sequence[BlockStatistics]) -> list[Strip]:
    """How often another than the usual split wins on a channel, those that switch most first."""
    strips = []
    for one in blocks:
        heads = np.sort(one.changing, 1)[:, ::-1]
        for group, values in enumerate(heads):
            name = f"{one.block}, head {group + 1}" if len(heads) > 1 else one.block
            strips.append(Strip(name, values, SWITCH_SHARE))
    return strips


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    font = 8.5 if len(names) <= 60 else 6.0
    axes.set_yticks(range(len(names)), list(names), fontsize=font)
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_visible(False)


def _quiet(axes: Axes) -> None:
    axes.tick_params(axis="x", colors=MUTED, labelsize=8, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color=LINE, lw=0.8)
    axes.set_axisbelow(True)
