"""A whole detector's weights into a detector: fitted, compared, and never silently less."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from resnestkit.detection.detector import Detector
from resnestkit.errors import UserError
from resnestkit.weights.detectors import FoundDetector
from resnestkit.weights.identify import Coverage, compare, fill_counters
from resnestkit.weights.loading import freeze_loaded
from resnestkit.weights.tensors import check_types

_BODY = "backbone.body."


def load_found(
    model: Detector,
    path: Path,
    found: FoundDetector,
    frozen_stages: int | None = None,
    *,
    partial: bool = False,
) -> Coverage:
    """Load what was found in a file into a detector; only its classes may differ.

    With other classes the classifier stays as it was drawn, and a warning says so; with ``partial``
    so does all that does not fit. Returns how the file fits.
    Raises UserError if anything else differs, anchors too, or a part would be frozen as drawn.
    """
    check_types(path, found.tensors)
    _check_anchors(model, path, found.anchors)
    tensors, state = dict(found.tensors), model.state_dict()
    other = found.classes != model.spec.classes
    if other:
        tensors |= {name: state[name] for name in class_layers(state)}
        _warn(f"{path} knows {found.classes} classes: a classifier of {model.spec.classes} is new.")
    coverage = compare(state, tensors)
    if not (coverage.is_complete or partial):
        raise UserError(f"{path} does not hold the weights of this {found.kind}: {coverage}.")
    if not coverage.is_complete:
        _warn(f"{path} was loaded in part: {coverage}.")
    fits = {name: tensors[name] for name in coverage.loaded}
    model.load_state_dict(fill_counters({n: state[n] for n in fits}, fits), strict=False)
    model.head_is_new |= found.head_is_new or other
    if frozen_stages is not None:
        body = compare(_body(state), _body(tensors))
        freeze_loaded(model.backbone.body, frozen_stages, body, path)
    return coverage


def class_layers(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    marks = (".cls_score.", ".mask_fcn_logits.", "classification_head.cls_logits.")
    box = "roi_heads.box_predictor.bbox_pred."
    by_class = any(len(state[name]) > 4 for name in state if name.startswith(box))
    wanted = (*marks, box) if by_class else marks
    return [name for name in state if any(mark in name for mark in wanted)]


def _warn(said: str) -> None:
    warnings.warn(said, stacklevel=4)


def _body(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's part of a state, by its own names."""
    return {n.removeprefix(_BODY): tensor for n, tensor in state.items() if n.startswith(_BODY)}


def _check_anchors(model: Detector, path: Path, anchors: Sequence[Tensor]) -> None:
    """Raise UserError if a file holds anchors, and they are not the model's."""
    own = model.anchors.cell_anchors
    alike = len(own) == len(anchors) and all(
        mine.shape == theirs.shape and torch.allclose(mine.to(theirs), theirs, atol=1e-3)
        for mine, theirs in zip(own, anchors, strict=True)
    )
    if anchors and not alike:
        raise UserError(f"{path} was trained with other anchors than a {model.spec.kind} has here.")
