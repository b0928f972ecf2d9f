"""The page of an explanation: sections and pictures of images and of folders."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resnestkit.explain.drawing import (
    MOST_CLASSES,
    common_classes,
    draw_activation,
    draw_classes,
    draw_depth,
    draw_forced,
    draw_looks,
    draw_strips,
    make_strips,
    mean_strips,
    most_telling,
    name_split,
    switch_strips,
)
from resnestkit.explain.folder import EVEN_ENTROPY, SWITCH_SHARE, WORDS, FolderStatistics
from resnestkit.explain.picture import BlockView, ImageExplanation
from resnestkit.explain.sites import Branch
from resnestkit.explain.words import (
    SWITCHES,
    count_blocks,
    largest_effect,
    no_activation,
    no_attention,
)
from resnestkit.report.page import Figure, Headline, Section, Table, Text

_WEIGHT_WORDS: dict[Branch, str] = {
    "split": "Each strip is one block (and head, and split, if there are several); from left to "
    "right its channels, from those that listen most to split 1. Blue: more than a uniform weight; "
    "green: less; white is no choice.",
    "path": "Each strip is one block; from left to right its channels, from those that listen to "
    "the 3x3 path (blue) to those that listen to the wider one (green). White is no choice.",
    "gate": "Each strip is one block (and head, if there are several); from left to right its "
    "channels, from those that the gate lets through (blue) to those that it stops (green).",
}
_LOOK_TITLES: dict[Branch, str] = {
    "split": "What each split looks at",
    "path": "What each path looks at",
    "gate": "What the gate lets through",
}
_LOOK_WORDS: dict[Branch, str] = {
    "split": "Bright where a split's features, times their weights, are large. Splits of a block "
    "share one scale; the number is a split's share of what the block puts out.",
    "path": "Bright where a path's features, times their weights, are large. Paths of a block "
    "share one scale; the number is a path's share of what the block puts out.",
    "gate": "Bright where what the gate lets through is large.",
}
_FORCE_WORDS: dict[Branch, str] = {
    "split": "A dot is a run with one block's split forced to a weight; the other splits share the "
    "rest as they did, so that all sum to 1. Far from the line: the block's choice matters here.",
    "path": "A dot is a run with one block's path forced to a weight; the other path gets the "
    "rest. Far from the line: the block's choice matters here.",
    "gate": "A dot is a run with all gates of one block forced to a value: 0 stops the block's "
    "branch, 1 lets all of it through. Far from the line: the gate matters here.",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page, and its pictures by the ends of their files' names."""

    headlines: list[Headline]
    sections: list[Section] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def show(self, ending: str, figure: Figure) -> None:
        """Add a figure, which is also a file."""
        self.sections.append(figure)
        self.pictures[ending] = figure.png


def image_part(explained: ImageExplanation, title: str = "", *, heads: bool = False) -> Part:
    """All that there is to show of one image; the title stands before each section's own."""
    before = f"{title}: " if title else ""
    part = Part(_image_headlines(explained))
    if explained.activation is not None:
        method = "HiResCAM" if explained.kind == "detector" else "Grad-CAM"
        words = f"Where the last stage speaks for the class ({method}, by captum)."
        png = draw_activation(explained)
        part.show("activation.png", Figure(f"{before}{explained.label}", png, words))
    if lacking := no_activation(explained):
        part.sections.append(Text(f"{before}No activation map", lacking))
    if not explained.blocks:
        part.sections.append(Text(f"{before}No attention", no_attention(explained.net)))
        return part
    branch = explained.blocks[0].attention.branch
    strips = [
        strip
        for one in (view.attention for view in explained.blocks)
        for strip in make_strips(one.block, one.branch, one.grid[0])
    ]
    png = draw_strips(strips, f"Weight of {_drawn(branch, explained.blocks[0].attention.grid)}")
    name = f"{before}What the attention chooses"
    part.show("attention.png", Figure(name, png, _WEIGHT_WORDS[branch], invertible=True))
    words = _LOOK_WORDS[branch]
    drawn = len(most_telling(explained.blocks))
    if drawn < len(explained.blocks):
        words += f" The {drawn} blocks that matter most when they are forced."
    png = draw_looks(explained, heads=heads)
    part.show("looks.png", Figure(f"{before}{_LOOK_TITLES[branch]}", png, words))
    if explained.forced:
        name, png = f"{before}What if it chose otherwise", draw_forced(explained)
        part.show("forced.png", Figure(name, png, _FORCE_WORDS[branch], invertible=True))
    part.sections.extend([_block_table(explained, before), *_effect_table(explained, before)])
    return part


def _image_headlines(explained: ImageExplanation) -> list[Headline]:
    lines = [Headline(explained.label, f"{explained.score:.1%}", explained.answer)]
    if explained.top != explained.label:
        best = f"{float(explained.scores.max()):.1%}"
        lines.append(Headline("Highest", best, explained.top))
    blocks = explained.blocks
    if explained.forced:
        strongest = max(explained.forced, key=lambda view: view.largest)
        change = 100 * largest_effect(strongest).change
        lines.append(Headline("Matters most", strongest.attention.block, f"{change:+.2f} points"))
    if blocks:
        even = sum(view.attention.entropy > EVEN_ENTROPY for view in blocks)
        lines.append(Headline("Nearly uniform", f"{even}", f"of {count_blocks(len(blocks))}"))
    return lines


def _block_table(explained: ImageExplanation, before: str) -> Table:
    # A net may have several kinds, as where SE was inserted into a ResNeSt.
    attentions = [view.attention for view in explained.blocks]
    widest = max(attentions, key=lambda one: one.grid.shape[2])
    names = [name_split(widest.branch, split) for split in range(widest.grid.shape[2])]
    header = ["block", *(f"weight, {name}" for name in names), "entropy"]
    header += [f"share, {name}" for name in names] if len(names) > 1 else []
    header += ["change, points"]
    rows = [_block_row(view, len(names)) for view in explained.blocks]
    return Table(f"{before}Blocks", header, rows)


def _block_row(view: BlockView, splits: int) -> list[str | float]:
    grid, shares = view.attention.grid[0], view.split_shares
    lacking = ["-"] * (splits - len(shares))
    means = [f"{mean:.3f}" for mean in grid.mean((0, 2))] + lacking
    seen = [f"{share:.1%}" for share in shares] + lacking if splits > 1 else []
    change = f"{100 * largest_effect(view).change:+.2f}" if view.effects else "-"
    return [view.attention.block, *means, f"{view.attention.entropy:.3f}", *seen, change]


def _effect_table(explained: ImageExplanation, before: str) -> list[Table]:
    rows = [
        [
            block,
            f"{name_split(branch, one.split)} at {one.value:g}",
            f"{100 * one.score:.2f}",
            f"{100 * one.change:+.2f}",
            f"{one.top} {one.top_score:.1%}",
        ]
        for block, branch, effects in [
            *((v.attention.block, v.attention.branch, v.effects) for v in explained.blocks),
            ("all blocks", explained.blocks[0].attention.branch, explained.everywhere),
        ]
        for one in effects
    ]
    header = ["block", "forced", f"{explained.label}, points", "change", "highest then"]
    title = f"{before}Every run with forced attention"
    return [Table(title, header, rows, folded=True)] if rows else []


def folder_part(statistics: FolderStatistics) -> Part:
    """All that there is to show of many images."""
    blocks = statistics.blocks
    branch = blocks[0].branch
    part = Part(_folder_headlines(statistics))
    words = (
        "Where attention decides and where it idles. Entropy: 1 is no choice; the line is its "
        f"deviation between images. A channel switches if {SWITCHES[branch]} on more than "
        f"{SWITCH_SHARE:.0%} of the images."
    )
    png = draw_depth(statistics)
    part.show("depth.png", Figure("By depth", png, words, invertible=True))
    png = draw_strips(mean_strips(blocks), f"Mean weight of {_drawn(branch, blocks[0].mean)}")
    caption = f"Over all images. {_WEIGHT_WORDS[branch]}"
    part.show("attention.png", Figure("What it chooses", png, caption, invertible=True))
    most = 1 - 1 / max(2, *(block.mean.shape[1] for block in blocks))
    png = draw_strips(switch_strips(blocks), "Share of images with another choice", most)
    caption = (
        "How often a channel chooses otherwise than it usually does; from left to right the "
        f"channels, those that do it most first. Blue switches: on more than {SWITCH_SHARE:.0%} of "
        "the images; green keeps to its choice."
    )
    part.show("switching.png", Figure("Who switches", png, caption, invertible=True))
    caption = (
        "By class and depth: the mean weight; its spread, as the standard deviation over the "
        "class's images and channels; and how far the class's mean weights lie from those of all "
        "images, as the mean over the channels."
    )
    if len(statistics.counts) > MOST_CLASSES:
        caption += f" The {MOST_CLASSES} classes with the most images."
    if statistics.counts:  # else nothing was found on any image
        png = draw_classes(statistics)
        part.show("classes.png", Figure("Classes", png, caption, invertible=True))
    part.sections.append(_depth_table(statistics))
    if statistics.counts:
        part.sections.append(_class_table(statistics))
    return part


def _folder_headlines(statistics: FolderStatistics) -> list[Headline]:
    blocks = statistics.blocks
    by = "by folder" if statistics.by == "truth" else "by prediction"
    classes = f"{len(statistics.counts)} class{'es'[: 2 * (len(statistics.counts) != 1)]}"
    deciding = sum(block.verdict == "decides" for block in blocks)
    channels = sum(block.switching.size for block in blocks)
    switching = sum(int(block.switching.sum()) for block in blocks)
    most = max(blocks, key=lambda block: block.spread)
    return [
        Headline("Images", f"{statistics.images:,}", f"{classes}, {by}"),
        Headline("Decides", f"{deciding} of {len(blocks)}", "blocks; the rest idles"),
        Headline("Moves most", most.block, f"by {most.spread:.3f} between images"),
        Headline("Switching", f"{switching / channels:.0%}", f"of {channels:,} channels"),
    ]


def _depth_table(statistics: FolderStatistics) -> Table:
    rows = [
        [
            block.block,
            WORDS[block.verdict],
            f"{block.entropy:.3f}",
            f"{block.entropy_std:.3f}",
            f"{block.spread:.3f}",
            f"{float(block.switching.mean()):.1%}",
        ]
        for block in statistics.blocks
    ]
    header = ["block", "what it does", "entropy", "deviation", "weights move by", "switching"]
    return Table("Blocks", header, rows)


def _class_table(statistics: FolderStatistics) -> Table:
    rows: list[list[str | int]] = []
    for label in common_classes(statistics):
        own = max(statistics.blocks, key=lambda block: block.class_distance[label])
        distances = [block.class_distance[label] for block in statistics.blocks]
        rows.append(
            [
                statistics.classes[label],
                statistics.counts[label],
                f"{sum(distances) / len(distances):.3f}",
                f"{own.block} ({own.class_distance[label]:.3f})",
            ]
        )
    header = ["class", "images", "distance from all", "most of its own in"]
    return Table("Classes in numbers", header, rows)


def _drawn(branch: Branch, grid: NDArray[np.floating]) -> str:
    """Whose weights are drawn: of two splits the first tells both."""
    if branch == "gate":
        return "the gate"
    return f"each {branch}" if grid.shape[-2] > 2 else name_split(branch, 0)
