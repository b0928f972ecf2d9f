"""Boxes, masks and names on pictures of every size; curves of detectors."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnestkit.report.boxes import (
    SMALL,
    _spots,
    class_colour,
    crop_around,
    draw_detections,
)
from resnestkit.report.canvas import find_font
from resnestkit.report.detection import (
    PicturePair,
    PrecisionRecall,
    draw_detection_curves,
    draw_pairs,
    draw_precision_recall,
)

GREY = (128, 128, 128)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((image == np.array(colour, np.uint8)).all(2).sum())


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_classes_have_colours_of_their_own() -> None:
    colours = np.array([class_colour(i) for i in range(12)], float)
    apart = np.abs(colours[:, None] - colours[None]).sum(2)
    assert apart[~np.eye(12, dtype=bool)].min() > 40
    assert class_colour(0) == class_colour(0)


def test_a_box_lies_where_it_belongs() -> None:
    drawn = draw_detections(grey(900, 1000), [(200, 300, 500, 700)], [2], [0.5], classes=["a", "b"])
    assert drawn.shape == (900, 1000, 3)
    colour = class_colour(1)
    assert tuple(drawn[500, 200]) == tuple(drawn[500, 500]) == colour
    assert tuple(drawn[300, 400]) == tuple(drawn[700, 400]) == colour
    assert tuple(drawn[500, 350]) == tuple(drawn[800, 800]) == GREY
    assert tuple(drawn[500, 199]) == (255, 255, 255)  # the line around it
    tag = drawn[260:299, 200:260]
    assert count(tag, colour) > 500
    assert not np.array_equal(tag, np.full_like(tag, tag[20, 2]))  # it says something


@pytest.mark.parametrize(
    ("size", "scale"), [((400, 200), 2), ((100, 50), 8), ((16, 20), 40), ((1, 1), 800)]
)
def test_small_pictures_are_enlarged(size: tuple[int, int], scale: int) -> None:
    height, width = size
    drawn = draw_detections(grey(height, width), [(0, 0, width, height)], [1])
    assert max(drawn.shape) == SMALL
    assert drawn.shape[:2] == (height * scale, width * scale)


@settings(max_examples=30)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.lists(st.tuples(*4 * [st.floats(-50, 400)]), max_size=12),
    st.booleans(),
)
def test_anything_can_be_drawn(
    height: int, width: int, boxes: list[tuple[float, float, float, float]], masked: bool
) -> None:
    masks = [np.ones((height, width), bool)] * len(boxes) if masked else None
    labels = [1 + i % 3 for i in range(len(boxes))]
    drawn = draw_detections(
        grey(height, width),
        boxes,
        labels,
        [0.5] * len(boxes),
        masks,
        ["one", "two", "three"],
        dashed=[i % 2 == 0 for i in range(len(boxes))],
        within=(200, 160),
    )
    assert drawn.dtype == np.uint8
    assert drawn.shape[1] <= 200
    assert drawn.shape[0] <= 160
    if boxes:
        assert crop_around(grey(height, width), boxes[0], 1).shape[2] == 3


def test_a_long_strip_stays_one() -> None:
    drawn = draw_detections(grey(50, 20_000), [(10, 5, 300, 45)], [1], [0.5], classes=["strip"])
    assert drawn.shape == (50, 20_000, 3)
    assert count(drawn, class_colour(0)) > 500


def test_names_hide_no_names() -> None:
    boxes = [(100 + 4 * i, 200 + 3 * i, 400 + 4 * i, 500 + 3 * i) for i in range(12)]
    drawn = draw_detections(
        grey(800, 800), boxes, [1] * 12, [0.1] * 12, classes=["a rather long name"]
    )
    alone = draw_detections(grey(800, 800), boxes[:1], [1], [0.1], classes=["a rather long name"])
    bare = draw_detections(grey(800, 800), boxes, [1] * 12, classes=[" "])
    tags = count(drawn, class_colour(0)) - count(bare, class_colour(0))
    one = count(alone, class_colour(0))
    assert one < tags < 12 * one  # several were written, and not all found a place


def test_a_name_at_the_edge_stays_in_the_picture() -> None:
    spots = _spots((0, 0, 100, 100), (60, 20))
    assert (0, 0) in spots  # inside, where there is no room above
    drawn = draw_detections(grey(800, 800), [(0, 0, 800, 800)], [1], classes=["whole"])
    assert count(drawn[4:24, 6:50], class_colour(0)) > 200


def test_masks_are_tinted_and_edged() -> None:
    mask = np.zeros((800, 800), bool)
    mask[200:400, 300:500] = True
    drawn = draw_detections(grey(800, 800), [(300, 200, 500, 400)], [1], masks=[mask])
    inside = drawn[300, 400].astype(int)
    assert not np.array_equal(inside, GREY)
    colour = np.array(class_colour(0))
    assert np.abs(inside - (128 + 0.42 * (colour - 128))).max() <= 1
    assert tuple(drawn[600, 600]) == GREY
    half = draw_detections(
        grey(800, 800), [(0, 0, 400, 800), (400, 0, 800, 800)], [1, 1], masks=[mask, ~mask]
    )
    assert tuple(half[300, 400]) != tuple(half[600, 100])  # neighbours of a class differ


def test_dashes_are_of_two_colours() -> None:
    drawn = draw_detections(grey(800, 800), [(100, 100, 700, 700)], [1], dashed=[True])
    side = drawn[150:650, 101]
    of_class = (side == np.array(class_colour(0))).all(1).mean()
    white = (side == 255).all(1).mean()
    assert 0.3 < of_class < 0.7
    assert of_class + white == pytest.approx(1)


def test_letters_that_no_font_has_are_boxes() -> None:
    drawn = draw_detections(grey(800, 800), [(100, 100, 700, 700)], [1], classes=["a\U000f0000$x$"])
    assert count(drawn, class_colour(0)) > 1000
    assert find_font("abc", 20).size == 20


def test_crops_are_square_around_their_box() -> None:
    image = grey(400, 600)
    image[100:120, 200:230] = (1, 2, 3)
    made = crop_around(image, (200, 100, 230, 120), 1)
    assert made.shape == (288, 288, 3)
    assert count(made, (1, 2, 3)) > 1000
    edge = crop_around(image, (0, 0, 30, 20), 1)
    assert edge.shape == (288, 288, 3)


def test_pairs_stand_side_by_side() -> None:
    left, right = np.full((100, 150, 3), 10, np.uint8), np.full((80, 400, 3), 200, np.uint8)
    page = read(draw_pairs([PicturePair(left, right, "left", "right")] * 2))
    assert count(page, (10, 10, 10)) == 2 * left[..., 0].size
    assert count(page, (200, 200, 200)) == 2 * right[..., 0].size
    assert read(draw_pairs([])).mean() > 200


@pytest.mark.parametrize("classes", [0, 1, 3, 80])
def test_precision_and_recall_are_drawn(classes: int) -> None:
    curves = [
        PrecisionRecall(f"class {i}", np.linspace(1, i / 100, 101).tolist(), [0.0] * 101)
        for i in range(classes)
    ]
    page = read(draw_precision_recall([*curves, PrecisionRecall("bare", [], [])]))
    shown = count(page, class_colour(0))
    assert (shown > 150) == (classes > 0)


@pytest.mark.parametrize("masks", [False, True])
def test_a_training_is_drawn(masks: bool) -> None:
    records = [
        {
            "epoch": i, "train_loss": 2 / i, "train_loss_box_reg": 1 / i, "val_ap": 0.1 * i,
            "val_ap50": 0.15 * i, "lr": 0.1, "images_per_second": 20,
            **({"val_mask_ap": 0.08 * i, "val_mask_ap50": 0.1 * i} if masks else {}),
        }
        for i in range(1, 6)
    ]  # fmt: skip
    drawn = draw_detection_curves(records)
    assert read(drawn).mean() > 200
    assert drawn != draw_detection_curves(records[:3])
    assert read(draw_detection_curves([])).shape == read(drawn).shape
