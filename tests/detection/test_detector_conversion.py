"""A file of a whole detector is told, and becomes a checkpoint, heads and all."""

from pathlib import Path

import detectron2_files as files
import torch

from resnestkit import load_detector
from resnestkit.conversion import convert, inspect

CLASSES = 5


def test_a_whole_detector_is_told_and_converted(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    torch.save({"model": files.regions(CLASSES, cascade=False)}, path)
    found = inspect(path)
    assert (found.kind, found.classes) == ("detector, faster_rcnn", CLASSES)
    assert [net.name for net in found.nets] == ["resnest14"]
    assert found.coverage.is_complete
    ours = tmp_path / "ours.safetensors"
    assert convert(path, ours) == "faster_rcnn on resnest14, 5 classes"
    model, card = load_detector(ours)
    assert card.classes == tuple(f"class {i}" for i in range(1, CLASSES + 1))
    assert not model.head_is_new
    again = inspect(ours)
    assert (again.kind, again.classes) == (found.kind, CLASSES)
    assert again.coverage.is_complete
