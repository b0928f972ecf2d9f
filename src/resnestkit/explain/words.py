"""What was found, in a few lines: for the terminal and for the top of the page."""

from __future__ import annotations

from pathlib import Path

from resnestkit.explain.drawing import name_split
from resnestkit.explain.folder import EVEN_ENTROPY, SWITCH_SHARE, FolderStatistics
from resnestkit.explain.picture import BlockView, Effect, ImageExplanation
from resnestkit.explain.sites import Attention, Branch, Kind
from resnestkit.explain.subject import NOTHING

KINDS: dict[Kind, str] = {
    "split": "split attention",
    "se": "squeeze-and-excitation",
    "sk": "selective kernels",
}
SWITCHES: dict[Branch, str] = {
    "split": "another split than the usual one wins",
    "path": "another path than the usual one wins",
    "gate": "the gate is open (above 1/2) where it is usually shut, or shut where it is open,",
}


def name_attention(attention: Attention) -> str:
    """Such as "split attention"; of radix 1 it is a gate."""
    name = KINDS[attention.kind]
    gated = attention.kind == "split" and attention.branch == "gate"
    return f"{name} of radix 1 (one gate for each channel)" if gated else name


def no_attention(net: str) -> str:
    """What a plain net lacks."""
    return (
        f"A {net} has no attention: every channel counts alike for every image, and there is no "
        "split to weigh, look through or force. It gets the activation map alone; its ResNeSt, SE "
        "or SK twin shows more."
    )


def no_activation(explained: ImageExplanation) -> str:
    """Why there is no activation map of what a detector did not find; empty if that is not why."""
    if explained.activation is not None or explained.kind != "detector" or explained.score:
        return ""
    found = "nothing" if explained.target is None else f"no {explained.label}"
    return f"There is no activation map: the detector finds {found} here."


def describe_image(explained: ImageExplanation) -> list[str]:
    """A few lines on one image, each a word and what it is."""
    lines = [f"class       {_say_class(explained)}"]
    if explained.top != explained.label:
        lines.append(f"highest     {explained.top}, {explained.scores.max():.3f}")
    if not explained.blocks:
        return [*lines, f"attention   {no_attention(explained.net)}"]
    blocks = explained.blocks
    even = sum(view.attention.entropy > EVEN_ENTROPY for view in blocks)
    names = dict.fromkeys(name_attention(view.attention) for view in blocks)
    lines.append(
        f"attention   {' and '.join(names)} in {count_blocks(len(blocks))}; "
        f"{even} of them nearly uniform (entropy > {EVEN_ENTROPY})"
    )
    if explained.forced:
        strongest = max(explained.forced, key=lambda view: view.largest)
        weakest = min(explained.forced, key=lambda view: view.largest)
        lines.append(f"strongest   {describe_effect(strongest, largest_effect(strongest))}")
        if weakest is not strongest:
            lines.append(f"weakest     {describe_effect(weakest, largest_effect(weakest))}")
    return lines


def _say_class(explained: ImageExplanation) -> str:
    if explained.target is None:
        return NOTHING
    return f"{explained.label}, {explained.answer} {explained.score:.3f}"


def count_blocks(count: int) -> str:
    """So many blocks."""
    return f"{count} block{'s'[: count != 1]}"


def largest_effect(view: BlockView) -> Effect:
    """The one that changes the score most."""
    return max(view.effects, key=lambda effect: abs(effect.change))


def describe_effect(view: BlockView, effect: Effect) -> str:
    """What forcing a split does, in a sentence without its end."""
    part = name_split(view.attention.branch, effect.split)
    return (
        f"{view.attention.block}: {part} at {effect.value:g} changes the score by "
        f"{100 * effect.change:+.2f} points; the highest is then {effect.top}"
    )


def describe_folder(statistics: FolderStatistics) -> list[str]:
    """A few lines on many images, each a word and what it is."""
    blocks = statistics.blocks
    most = max(blocks, key=lambda block: block.spread)
    deciding = sum(block.verdict == "decides" for block in blocks)
    idle = [f"{block.block} ({block.verdict})" for block in blocks if block.verdict != "decides"]
    shown = [*idle[:6], "..."] if len(idle) > 6 else idle
    channels = sum(block.switching.size for block in blocks)
    switching = sum(int(block.switching.sum()) for block in blocks)
    return [
        f"images      {count_images(statistics)}",
        f"decides     in {deciding} of {len(blocks)} blocks; most in {most.block}, where a weight "
        f"moves by {most.spread:.3f} between images",
        f"idles       {'in ' + ', '.join(shown) if idle else 'nowhere'}",
        f"switching   {switching / channels:.0%} of {channels:,} channels: "
        f"{SWITCHES[blocks[0].branch]} on more than {SWITCH_SHARE:.0%} of the images",
    ]


def count_images(statistics: FolderStatistics) -> str:
    """How many there are, and how their classes are known."""
    bare = f"; {NOTHING} in {statistics.nothing} of them" if statistics.nothing else ""
    if statistics.right is None:
        return f"{statistics.images}, by the class that the net says{bare}"
    share = statistics.right / statistics.images
    said = f"{statistics.images}, by the class of their folder; {share:.1%} of them recognised"
    return said + bare


def short(name: str) -> str:
    """A path's last part."""
    return Path(name).name
