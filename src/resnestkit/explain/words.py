"""What was found, in a few lines: for the terminal and for the top of the page."""

from __future__ import annotations

from pathlib import Path

from resnestkit.explain.drawing import name_split
from resnestkit.explain.folder import EVEN_ENTROPY, SWITCH_SHARE, FolderStatistics
from resnestkit.explain.picture import BlockView, Effect, ImageExplanation
from resnestkit.explain.sites import Kind
from resnestkit.explain.subject import NOTHING

KINDS: dict[Kind, str] = {
    "split": "split attention",
    "se": "squeeze-and-excitation",
    "sk": "selective kernels",
}
NO_ACTIVATION = (
    "A detector gets no class activation map: its answer is many boxes, from several levels of a "
    "pyramid, and a map of one class over the last stage would be that of none of them."
)


def no_attention(net: str) -> str:
    """What a plain net lacks."""
    return (
        f"A {net} has no attention: every channel counts alike for every image, and there is no "
        "split to weigh, look through or force. It gets the activation map alone; its ResNeSt, SE "
        "or SK twin shows more."
    )


def describe_image(explained: ImageExplanation) -> list[str]:
    """A few lines on one image, each a word and what it is."""
    lines = [f"class       {_say_class(explained)}"]
    if explained.top != explained.label:
        lines.append(f"highest     {explained.top}, {explained.scores.max():.3f}")
    if not explained.blocks:
        return [*lines, f"attention   {no_attention(explained.net)}"]
    blocks = explained.blocks
    even = sum(view.attention.entropy > EVEN_ENTROPY for view in blocks)
    kind = KINDS[blocks[0].attention.kind]
    lines.append(
        f"attention   {kind} in {count_blocks(len(blocks))}; {even} of them nearly uniform "
        f"(entropy > {EVEN_ENTROPY})"
    )
    if any(view.effects for view in blocks):
        strongest = max(blocks, key=lambda view: view.largest)
        weakest = min(blocks, key=lambda view: view.largest)
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
    part = name_split(view.attention.kind, effect.split)
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
        f"switching   {switching / channels:.0%} of {channels:,} channels: another split than the "
        f"usual one wins on more than {SWITCH_SHARE:.0%} of the images",
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
