"""A predictor's masks, made one by one: those of the whole model, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_detectors import make, scene
from torch import Tensor

from resnestkit.data.detection.results import Found
from resnestkit.deploy.detection_predictor import DetectionPredictor
from resnestkit.detectors import save_detector


@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_mask_rcnn"])
def test_masks_are_the_models_and_only_of_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    torch.manual_seed(0)
    model = make(kind).eval()
    for name, part in model.roi_heads.named_modules():
        if name.endswith("cls_score"):
            torch.nn.init.normal_(part.weight, std=0.3)
    model.head_is_new = False
    save_detector(model, tmp_path / "net.safetensors", ["one", "two", "three"])
    predictor = DetectionPredictor(tmp_path / "net.safetensors", "cpu")
    predictor.kernels = False
    pasted: list[tuple[int, int]] = []
    real = predictor.model.transform.paste

    def paste(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
        pasted.append(size)
        return real(mask, box, size)

    image = (scene()[0][0] * 255).to(torch.uint8)
    with torch.inference_mode():
        whole = Found.read(predictor.model([image.float() / 255])[0])
    monkeypatch.setattr(predictor.model.transform, "paste", paste)
    predictor.score = float(np.median(whole.scores))
    found = predictor.find(image)
    expected = whole.above(predictor.score)
    assert 0 < len(expected.scores) < len(whole.scores)
    assert pasted == [(60, 80)] * len(expected.scores)
    order = np.argsort(-expected.scores, kind="stable")
    assert found.masks == expected.take(order).masks
    np.testing.assert_array_equal(found.boxes, expected.boxes[order])
