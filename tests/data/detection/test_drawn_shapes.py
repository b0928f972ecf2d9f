"""The shapes that are made on the fly."""

import numpy as np
import pytest
import torch

from resnestkit.data.detection.shapes import CLASSES, draw_shapes, make_shapes
from resnestkit.data.detection.sources import load_detection_source
from resnestkit.data.detection.transforms import hull
from resnestkit.errors import UserError


def test_the_same_numbers_draw_the_same_pictures() -> None:
    one, two = (make_shapes(counts={"train": 5, "val": 3}, seed=2) for _ in range(2))
    other = make_shapes(counts={"train": 5, "val": 3}, seed=3)
    for split in ("train", "val"):
        for index in range(len(one.splits[split])):
            ours, theirs = one.splits[split].read(index), two.splits[split].read(index)
            assert torch.equal(ours, theirs)
        assert np.array_equal(one.splits[split].table.boxes, two.splits[split].table.boxes)
        assert not np.array_equal(one.splits[split].table.boxes, other.splits[split].table.boxes)
    first = one.splits["train"].read(0)
    assert first.shape != one.splits["val"].read(0).shape or not torch.equal(
        first, one.splits["val"].read(0)
    )


def test_masks_are_the_parts_to_be_seen() -> None:
    overlaps = 0
    for seed in range(40):
        drawing = draw_shapes(np.random.default_rng(seed))
        assert 1 <= len(drawing.labels) <= 6
        assert drawing.masks.sum(0).max() <= 1  # no pixel belongs to two
        assert drawing.masks.any((1, 2)).all()
        boxes = hull(torch.from_numpy(drawing.masks).byte()).numpy()
        for i in range(len(boxes)):
            for j in range(i):
                shared = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(
                    boxes[i, :2], boxes[j, :2]
                )
                overlaps += bool((shared > 0).all())
    assert overlaps > 20


def test_the_source_is_as_any_other() -> None:
    source = load_detection_source("shapes", masks=True)
    assert source.classes == CLASSES
    assert source.findings == ()
    assert source.held_out is None
    images = source.splits["train"]
    assert set(images.table.labels.tolist()) == {1, 2, 3}
    assert len(set(images.orientations)) == 2
    annotations = images.annotations(7)
    target = annotations.target(masks=True)
    assert target.masks is not None
    assert torch.equal(hull(target.masks), target.boxes)
    assert annotations.areas.tolist() == target.masks.flatten(1).sum(1).tolist()
    assert images.read(7).shape == (3, annotations.height, annotations.width)


def test_pictures_may_be_grey() -> None:
    images = make_shapes(channels=1, counts={"val": 2}).splits["val"]
    assert images.read(1).shape[0] == 1
    assert images.read(1).dtype == torch.uint8


def test_as_many_as_the_name_asks_for() -> None:
    made = make_shapes(counts={"train": 4})
    few, more = (load_detection_source(f"shapes:{count}") for count in (4, 5))
    assert (few.origin, len(few.splits["train"]), len(few.splits["val"])) == ("shapes:4", 4, 96)
    assert few.fingerprint != more.fingerprint
    for row in range(4):
        assert torch.equal(few.splits["train"].read(row), made.splits["train"].read(row))
    for wrong in ("shapes:", "shapes:0", "shapes:many", "shapes:100000"):
        with pytest.raises(UserError, match="give 1 to 99999 training pictures"):
            load_detection_source(wrong)
