"""The names that other codes give to a segmenter's parameters, and ours.

Ours are ``body``, ``decoder``, ``classifier`` and ``auxiliary``; within a decoder they are those of
the library that has it. Backbones are named as everywhere. The authors' are those of
PyTorch-Encoding at ac74841 (encoding/models/sseg/base.py, deeplab.py, fcn.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeVar

from resnestkit.weights.names import Rules, to_ours, unwrap_names

SegmenterDialect = Literal["resnestkit", "encoding", "torchvision", "smp"]
ValueT = TypeVar("ValueT")

_MARKS: dict[SegmenterDialect, tuple[str, str]] = {
    "resnestkit": ("body.", "decoder."),
    "encoding": ("pretrained.", "head."),
    "torchvision": ("backbone.", "classifier."),
    "smp": ("encoder.", "segmentation_head."),
}
"""How names begin in a segmenter of a code: its backbone's, and some of its head's."""

_RULES: dict[SegmenterDialect, Rules] = {
    "resnestkit": (),
    "encoding": (
        (r"^head\.aspp\.b4\.gap\.", "decoder.0.convs.4."),
        (r"^head\.aspp\.b(\d)\.", r"decoder.0.convs.\1."),
        (r"^head\.aspp\.project\.", "decoder.0.project."),
        (r"^head\.block\.0\.", "decoder.1."),
        (r"^head\.block\.1\.", "decoder.2."),
        (r"^head\.block\.4\.", "classifier."),
        (r"^head\.conv5\.([01])\.", r"decoder.\1."),
        (r"^head\.conv5\.4\.", "classifier."),
        (r"^auxlayer\.conv5\.", "auxiliary."),
    ),
    "torchvision": (
        (r"^aux_classifier\.", "auxiliary."),
        (r"^classifier\.4\.", "classifier."),
        (r"^classifier\.([012])\.", r"decoder.\1."),
    ),
    "smp": (
        (r"^segmentation_head\.0\.", "classifier."),
        (r"^decoder\.aspp\.(?=convs|project)", "decoder.0."),
        (r"^decoder\.conv\.(?=weight)", "decoder.1."),
        (r"^decoder\.bn\.", "decoder.2."),
    ),
}


def find_segmenter_dialect(names: Mapping[str, ValueT]) -> SegmenterDialect | None:
    """Whose segmenter these are the weights of; None if they are no segmenter's."""
    known = unwrap_names(names)
    for dialect, marks in _MARKS.items():
        if all(any(name.startswith(mark) for name in known) for mark in marks):
            return dialect
    return None


def segmenter_to_ours(
    weights: Mapping[str, ValueT], dialect: SegmenterDialect
) -> dict[str, ValueT]:
    """A segmenter's weights under our names."""
    plain, (start, _) = unwrap_names(weights), _MARKS[dialect]
    body = {name: value for name, value in plain.items() if name.startswith(start)}
    renamed = {f"body.{name}": value for name, value in to_ours(body)[0].items()}
    for name, value in plain.items():
        if name in body:
            continue
        new = name
        for pattern, replacement in _RULES[dialect]:
            new, found = re.subn(pattern, replacement, new)
            if found:  # what is ours by now may look like another of theirs
                break
        renamed[new] = value
    return renamed
