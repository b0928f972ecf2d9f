"""A whole segmenter's weights into a segmenter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from resnestkit.segmentation.segmenter import Segmenter
from resnestkit.weights.identify import Coverage
from resnestkit.weights.segmenters import FoundSegmenter
from resnestkit.weights.whole import load_whole, warn

_AUXILIARY = "auxiliary."


def load_found(
    model: Segmenter,
    path: Path,
    found: FoundSegmenter,
    frozen_stages: int | None = None,
    *,
    partial: bool = False,
) -> Coverage:
    """Load what was found in a file into a segmenter, as `load_whole` does.

    The auxiliary head, which training alone has, is left out or stays as it was drawn where only
    one of them has it.
    """
    state = model.state_dict()
    classes = [n for n in state if n.startswith(("classifier.", f"{_AUXILIARY}4."))]
    tensors = {n: t for n, t in found.tensors.items() if not n.startswith(_AUXILIARY)}
    if model.auxiliary is not None:
        held = found.tensors if found.auxiliary else state
        tensors |= {n: t for n, t in held.items() if n.startswith(_AUXILIARY)}
    if model.auxiliary is not None and not found.auxiliary:
        warn(f"{path} has no auxiliary head: it starts anew.")
    fitting = replace(found, tensors=tensors)
    return load_whole(
        model, "body", model.spec.classes, path, fitting, classes, frozen_stages, partial=partial
    )
