"""Files of weights, of nets or of whole detectors and segmenters: what they are, and into ours.

`resnestkit.weights.convert` knows nets; a head on a net is taken here, so that it is never lost.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from resnestkit.data.segmentation.known import PASCAL_CONTEXT, VOC
from resnestkit.data.segmentation.legend import Legend
from resnestkit.detection.detector import build_detector
from resnestkit.detectors import create_detector, save_detector, spec_as_found
from resnestkit.errors import UserError
from resnestkit.models.zoo import TABLE, Net
from resnestkit.preprocessing import Preprocessing
from resnestkit.segmentation.segmenter import build_segmenter
from resnestkit.segmenters import create_segmenter, save_segmenter
from resnestkit.segmenters import spec_as_found as segmenter_as_found
from resnestkit.weights import convert as nets
from resnestkit.weights.checkpoint import read_card
from resnestkit.weights.detectors import FoundDetector, find_detector
from resnestkit.weights.foreign import read_weights
from resnestkit.weights.identify import Identity, compare
from resnestkit.weights.names import Dialect
from resnestkit.weights.segmenters import PUBLISHED_SEGMENTERS, FoundSegmenter, find_segmenter

_LEGENDS: dict[str, Legend] = {"Pascal-Context": PASCAL_CONTEXT, "COCO with VOC's labels": VOC}
"""Of the data on which published segmenters were trained, where a list of names is at hand."""


def inspect(path: Path) -> Identity:
    """What a file's weights are, and whether they are whole, head and all.

    Raises UserError if they are none of a net that is known here.
    """
    identity = nets.inspect(path)
    found = _find_whole(path)
    if found is None:
        return identity
    chosen = next((net for net in identity.nets if net.spec == found.net), identity.nets[0])
    images = found.preprocessing or Preprocessing()
    with torch.device("meta"):
        if isinstance(found, FoundDetector):
            state = build_detector(spec_as_found(found, chosen, {}, None), images).state_dict()
        else:
            state = build_segmenter(segmenter_as_found(found, chosen, {}), images).state_dict()
    kind = "detector" if isinstance(found, FoundDetector) else "segmenter"
    return replace(
        identity,
        kind=f"{kind}, {found.kind}",
        nets=identity.nets if found.net is None else (chosen,),
        classes=found.classes,
        coverage=compare(state, found.tensors),
    )


def convert(source: Path, target: Path, net: str | None = None, to: Dialect = "resnestkit") -> str:
    """Write a file's weights as a typed checkpoint, or a net's under another code's names.

    Args:
        source: a file of weights of a net, a detector or a segmenter, in any names that are known.
        target: the safetensors file to write.
        net: which net it is, where several have the same tensors.
        to: "resnestkit" for a typed checkpoint, or the code whose names to use.

    Returns:
        What the new file holds, in words.

    Raises:
        UserError: as `resnestkit.weights.convert.convert`, or a whole detector or segmenter is
            asked for in another code's names.
    """
    found = None if read_card(source) else _find_whole(source)
    if found is None:
        return nets.convert(source, target, net, to).name
    if to != "resnestkit":
        raise UserError(f"{source} holds a {found.kind}, and nets alone are written for {to}.")
    nets.check_new(target)
    name = _name_net(found, source, net)
    if isinstance(found, FoundDetector):
        save_detector(create_detector(found.kind, name, weights=source), target)
    else:
        legend = _legend(source, found)
        names, palette = (legend.classes, legend.palette) if legend else (None, ())
        segmenter = create_segmenter(found.kind, name, weights=source)
        save_segmenter(segmenter, target, names, palette=palette)
    return f"{found.kind} on {name}, {found.classes} classes"


def _find_whole(path: Path) -> FoundDetector | FoundSegmenter | None:
    weights, card = read_weights(path), read_card(path)
    return find_segmenter(path, weights, card) or find_detector(path, weights, card)


def _name_net(found: FoundDetector | FoundSegmenter, source: Path, net: str | None) -> str:
    """The backbone: as the caller or the file's name says, else as its tensors tell."""
    known: Net | None = next((one for one in TABLE if one.spec == found.net), None)
    if net is None and known is not None:
        return known.name
    return nets.choose_net(nets.inspect(source), net, source).name


def _legend(source: Path, found: FoundSegmenter) -> Legend | None:
    """Names and colours of a published segmenter's classes."""
    data = next((one.data for one in PUBLISHED_SEGMENTERS if one.file == source.stem), "")
    legend = _LEGENDS.get(data)
    return legend if legend and len(legend.classes) == found.classes else None
