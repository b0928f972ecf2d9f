"""Masks in colour, IoU per class as bars, curves of segmenters, rows of pictures."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnestkit.report.masks import class_colours
from resnestkit.report.rows import Swatch, Titled, draw_rows
from resnestkit.report.segmentation import (
    IGNORED,
    ClassBar,
    draw_class_bars,
    draw_segmentation_curves,
    fit_picture,
    hatch_mask,
    show_mistakes,
)


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((image == np.array(colour, np.uint8)).all(2).sum())


@pytest.mark.parametrize("classes", [1, 11, 150])
def test_bars_have_their_classes_colours(classes: int) -> None:
    colours = class_colours(classes)
    bars = [
        ClassBar(f"class $x_{i}$", i / classes if i else -1.0, 1 / classes, colours[i])
        for i in range(classes)
    ]
    drawn = read(draw_class_bars(bars, 0.5))
    if classes > 1:
        assert count(drawn, colours[-1]) > 500
    assert drawn.shape[1] == 1920
    assert drawn.shape[0] < 3000


def test_longer_bars_are_better_classes() -> None:
    colours = class_colours(2)
    bars = [ClassBar("a", 0.2, 0.5, colours[0]), ClassBar("b", 0.8, 0.5, colours[1])]
    drawn = read(draw_class_bars(bars, 0.5))
    ratio = count(drawn, colours[1]) / count(drawn, colours[0])
    assert ratio == pytest.approx(4, rel=0.1)


def test_what_has_no_class_is_hatched() -> None:
    colours = [(10, 20, 30), (200, 0, 0)]
    mask = np.array([[0, 1], [255, 255]], np.uint8)
    drawn = hatch_mask(mask, colours, (40, 80))
    assert drawn.shape == (80, 40, 3)
    assert count(drawn, colours[0]) == count(drawn, colours[1]) == 800
    assert 400 < count(drawn, IGNORED) < 1200
    assert len({tuple(pixel) for pixel in drawn[40:].reshape(-1, 3)}) == 2


def test_mistakes_are_red_where_there_is_a_label() -> None:
    image = np.full((40, 40, 3), 120, np.uint8)
    true = np.zeros((20, 20), np.uint8)
    found = np.zeros((10, 10), np.uint8)
    found[:5] = 1
    labelled = np.ones_like(true)
    labelled[:, :10] = 0
    drawn = show_mistakes(image, true, found, labelled).astype(int)
    red = drawn[..., 0] - drawn[..., 1] > 50
    assert red[:20, 20:].all()
    assert red.sum() == 400


@settings(max_examples=20)
@given(st.integers(1, 300), st.integers(1, 300))
def test_pictures_fit(height: int, width: int) -> None:
    drawn = fit_picture(np.zeros((height, width, 3), np.uint8), (90, 70))
    assert drawn.shape[0] <= 70
    assert drawn.shape[1] <= 90
    assert drawn.shape[0] == 70 or drawn.shape[1] == 90


def test_rows_stand_below_a_legend() -> None:
    pictures = [np.full((50, 80, 3), value, np.uint8) for value in (10, 60, 110)]
    row = [Titled(picture, "a name") for picture in pictures]
    legend = [Swatch(colour, f"class {i}") for i, colour in enumerate(class_colours(30))]
    drawn = read(draw_rows([row, row], legend))
    for picture in pictures:
        assert count(drawn, tuple(picture[0, 0])) == 2 * 50 * 80
    assert all(count(drawn, swatch.colour) > 200 for swatch in legend)
    assert drawn.shape[0] > read(draw_rows([row, row])).shape[0]
    assert read(draw_rows([])).mean() > 200


def test_a_training_is_drawn() -> None:
    records = [
        {
            "epoch": i, "train_loss": 2 / i, "val_loss": 2.5 / i, "val_miou": 0.1 * i,
            "val_pixel_accuracy": 0.15 * i, "train_pixel_accuracy": 0.16 * i, "lr": 0.1,
            "images_per_second": 20,
        }
        for i in range(1, 6)
    ]  # fmt: skip
    drawn = draw_segmentation_curves(records)
    assert read(drawn).mean() > 200
    assert drawn != draw_segmentation_curves(records[:3])
    assert read(draw_segmentation_curves([])).shape == read(drawn).shape
