"""The names that other codes give to the same parameters, and the way to ours and back.

Ours are those of torchvision, timm and the authors of ResNeSt, which need no rule. Three dialects
do: the SE-Nets that were ported from Caffe (pretrainedmodels, timm's ``legacy_`` nets), OpenMMLab
(mmdetection, mmsegmentation, mmpretrain) and Detectron2 (its own nets and the authors' fork).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

Dialect = Literal["resnestkit", "caffe", "openmmlab", "detectron2"]
Rules = tuple[tuple[str, str], ...]
ValueT = TypeVar("ValueT")

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and training codes put before every name."""
PREFIXES = (
    *WRAPPERS,
    "encoder.",
    "pretrained.",
    "backbone.",
    "bottom_up.",
    "body.",
)
"""What wrappers and larger models put before a backbone's names; stripped again and again."""


@dataclass(frozen=True, slots=True)
class _Grammar:
    """How one dialect's names turn into ours (regular expressions, tried in order) and back."""

    mark: str
    """A name that only this dialect has."""
    forward: Rules
    backward: Rules


_GRAMMARS: dict[Dialect, _Grammar] = {
    "caffe": _Grammar(
        mark=r"^layer0\.|^last_linear\.",
        forward=(
            (r"^layer0\.conv1\.(?=.*#deep)", "conv1.0."),
            (r"^layer0\.bn1\.(?=.*#deep)", "conv1.1."),
            (r"^layer0\.conv2\.", "conv1.3."),
            (r"^layer0\.bn2\.", "conv1.4."),
            (r"^layer0\.conv3\.", "conv1.6."),
            (r"^layer0\.bn3\.", "bn1."),
            (r"^layer0\.", ""),
            (r"\.se_module\.", ".se."),
            (r"^last_linear\.", "fc."),
        ),
        backward=(
            (r"^conv1\.0\.", "layer0.conv1."),
            (r"^conv1\.1\.", "layer0.bn1."),
            (r"^conv1\.3\.", "layer0.conv2."),
            (r"^conv1\.4\.", "layer0.bn2."),
            (r"^conv1\.6\.", "layer0.conv3."),
            (r"^bn1\.(?=.*#deep)", "layer0.bn3."),
            (r"^(conv1|bn1)\.", r"layer0.\1."),
            (r"\.se\.", ".se_module."),
            (r"^fc\.", "last_linear."),
        ),
    ),
    "openmmlab": _Grammar(
        mark=r"^stem\.\d\.|^head\.fc\.|\.se_layer\.",
        forward=(
            (r"^stem\.7\.", "bn1."),
            (r"^stem\.", "conv1."),
            (r"\.se_layer\.conv([12])\.conv\.", r".se.fc\1."),
            (r"^head\.fc\.", "fc."),
        ),
        backward=(
            (r"^bn1\.(?=.*#deep)", "stem.7."),
            (r"^conv1\.(?=.*#deep)", "stem."),
            (r"\.se\.fc([12])\.", r".se_layer.conv\1.conv."),
            (r"^fc\.", "head.fc."),
        ),
    ),
    "detectron2": _Grammar(
        mark=r"^res[2-5]\.|^stem\.conv1",
        forward=(
            (r"^stem\.conv1_1\.norm\.", "conv1.1."),
            (r"^stem\.conv1_1\.", "conv1.0."),
            (r"^stem\.conv1_2\.norm\.", "conv1.4."),
            (r"^stem\.conv1_2\.", "conv1.3."),
            (r"^stem\.conv1_3\.norm\.", "bn1."),
            (r"^stem\.conv1_3\.", "conv1.6."),
            (r"^stem\.conv1\.norm\.", "bn1."),
            (r"^stem\.", ""),
            (r"^res2\.", "layer1."),
            (r"^res3\.", "layer2."),
            (r"^res4\.", "layer3."),
            (r"^res5\.", "layer4."),
            (r"^(layer\d\.\d+)\.conv([123])\.norm\.", r"\1.bn\2."),
            (r"\.shortcut\.norm\.(?=.*#deep)", ".downsample.2."),
            (r"\.shortcut\.(?=weight.*#deep)", ".downsample.1."),
            (r"\.shortcut\.norm\.", ".downsample.1."),
            (r"\.shortcut\.", ".downsample.0."),
            (r"^linear\.", "fc."),
        ),
        backward=(
            (r"^conv1\.0\.", "stem.conv1_1."),
            (r"^conv1\.1\.", "stem.conv1_1.norm."),
            (r"^conv1\.3\.", "stem.conv1_2."),
            (r"^conv1\.4\.", "stem.conv1_2.norm."),
            (r"^conv1\.6\.", "stem.conv1_3."),
            (r"^bn1\.(?=.*#deep)", "stem.conv1_3.norm."),
            (r"^bn1\.", "stem.conv1.norm."),
            (r"^conv1\.", "stem.conv1."),
            (r"^(layer\d\.\d+)\.bn([123])\.", r"\1.conv\2.norm."),
            (r"\.downsample\.2\.", ".shortcut.norm."),
            (r"\.downsample\.1\.(?=.*#deep)", ".shortcut."),
            (r"\.downsample\.1\.", ".shortcut.norm."),
            (r"\.downsample\.0\.", ".shortcut."),
            (r"^layer1\.", "res2."),
            (r"^layer2\.", "res3."),
            (r"^layer3\.", "res4."),
            (r"^layer4\.", "res5."),
            (r"^fc\.", "linear."),
        ),
    ),
}

DIALECTS: tuple[Dialect, ...] = ("resnestkit", *_GRAMMARS)

_DEEP_MARKS = ("layer0.conv3.weight", "stem.6.weight", "stem.conv1_3.weight", "conv1.6.weight")


def find_dialect(names: Iterable[str]) -> Dialect:
    """Whose names these are, prefixes stripped already; ours if nothing else is recognised."""
    known = list(names)
    for dialect, grammar in _GRAMMARS.items():
        if any(re.search(grammar.mark, name) for name in known):
            return dialect
    return "resnestkit"


def unwrap_names(tensors: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """The tensors without what DistributedDataParallel and its kin put before every name."""
    current = dict(tensors)
    while current:
        prefix = next((p for p in WRAPPERS if all(n.startswith(p) for n in current)), None)
        if prefix is None:
            break
        current = {name.removeprefix(prefix): tensor for name, tensor in current.items()}
    return current


def strip_prefixes(weights: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """Drop prefixes; of a larger model (a detector, a segmenter) only the backbone is kept."""
    current = dict(weights)
    for _ in range(len(PREFIXES)):
        prefix = next((p for p in PREFIXES if any(n.startswith(p) for n in current)), None)
        if prefix is None:
            break
        kept = {n.removeprefix(prefix): v for n, v in current.items() if n.startswith(prefix)}
        # OpenMMLab keeps a classifier's head beside its backbone.
        head = {n: v for n, v in current.items() if n.startswith("head.fc.")}
        current = kept | head
    return current


def to_ours(weights: Mapping[str, ValueT]) -> tuple[dict[str, ValueT], Dialect]:
    """Weights under our names, and the dialect that they came in."""
    stripped = strip_prefixes(weights)
    dialect = find_dialect(stripped)
    return _rename(stripped, dialect, forward=True), dialect


def from_ours(weights: Mapping[str, ValueT], dialect: Dialect) -> dict[str, ValueT]:
    """The inverse of `to_ours`, without prefixes."""
    return _rename(weights, dialect, forward=False)


def _rename(weights: Mapping[str, ValueT], dialect: Dialect, *, forward: bool) -> dict[str, ValueT]:
    if dialect == "resnestkit":
        return dict(weights)
    grammar = _GRAMMARS[dialect]
    rules = grammar.forward if forward else grammar.backward
    # A deep stem shifts names elsewhere: the rules see it as a mark behind the name.
    mark = "#deep" if any(name in weights for name in _DEEP_MARKS) else "#"
    renamed = {}
    for name, value in weights.items():
        marked = f"{name}{mark}"
        for pattern, replacement in rules:
            marked = re.sub(pattern, replacement, marked)
        renamed[marked.split("#")[0]] = value
    return renamed
