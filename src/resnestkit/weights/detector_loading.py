"""A whole detector's weights into a detector: fitted, compared, and never silently less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from resnestkit.detection.detector import Detector
from resnestkit.errors import UserError
from resnestkit.weights.detectors import FoundDetector
from resnestkit.weights.identify import Coverage
from resnestkit.weights.whole import load_whole

_BODY = "backbone.body"


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
    _check_anchors(model, path, found.anchors)
    layers, classes = class_layers(model.state_dict()), model.spec.classes
    return load_whole(model, _BODY, classes, path, found, layers, frozen_stages, partial=partial)


def class_layers(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    marks = (".cls_score.", ".mask_fcn_logits.", "classification_head.cls_logits.")
    box = "roi_heads.box_predictor.bbox_pred."
    by_class = any(len(state[name]) > 4 for name in state if name.startswith(box))
    wanted = (*marks, box) if by_class else marks
    return [name for name in state if any(mark in name for mark in wanted)]


def _check_anchors(model: Detector, path: Path, anchors: Sequence[Tensor]) -> None:
    """Raise UserError if a file holds anchors, and they are not the model's."""
    own = model.anchors.cell_anchors
    alike = len(own) == len(anchors) and all(
        mine.shape == theirs.shape and torch.allclose(mine.to(theirs), theirs, atol=1e-3)
        for mine, theirs in zip(own, anchors, strict=True)
    )
    if anchors and not alike:
        raise UserError(f"{path} was trained with other anchors than a {model.spec.kind} has here.")
