"""The drawings: they decode, have a sensible size, and survive what real runs contain."""

import io
import math
import sys

import numpy as np
import pytest
from PIL import Image

from resnestkit.report import canvas, comparison, confusion, figures
from resnestkit.report.comparison import draw_comparison
from resnestkit.report.confusion import draw_confusion
from resnestkit.report.figures import Picture, draw_curves, draw_gallery
from resnestkit.report.lines import best_text, read_points

FULL = {
    "train_loss": 1.0,
    "train_top1": 0.6,
    "val_loss": 0.9,
    "val_top1": 0.7,
    "lr": 0.1,
    "images_per_second": 1800.0,
}


@pytest.fixture(autouse=True)
def fewer_pixels(monkeypatch):
    """Half the resolution takes half the time, and all sizes below follow it."""
    monkeypatch.setattr(canvas, "DPI", 96)


def decode(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has_colour(pixels: np.ndarray, colour: str) -> bool:
    red, green, blue = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return bool(
        ((pixels[..., 0] == red) & (pixels[..., 1] == green) & (pixels[..., 2] == blue)).any()
    )


def make_counts(size: int) -> list[list[int]]:
    counts = np.random.default_rng(size).integers(0, 3, (size, size))
    return (counts + 20 * np.eye(size, dtype=int)).tolist()


@pytest.mark.parametrize("epochs", [1, 30])
def test_curves_show_both_splits_and_mark_the_best(epochs):
    records = [
        {"epoch": epoch, **FULL, "val_top1": 0.5 + 0.01 * epoch} for epoch in range(1, epochs + 1)
    ]
    pixels = decode(draw_curves(records))
    assert pixels.shape == (round(6.2 * canvas.DPI), 10 * canvas.DPI, 3)
    for colour in (canvas.TRAIN, canvas.VAL, canvas.BEST, canvas.OTHER):
        assert has_colour(pixels, colour)


def test_curves_without_validation_mark_nothing():
    pixels = decode(draw_curves([{"epoch": epoch, "train_loss": 1 / epoch} for epoch in (1, 2, 3)]))
    assert has_colour(pixels, canvas.TRAIN)
    assert not has_colour(pixels, canvas.BEST)


def test_curves_leave_out_what_is_missing_or_not_finite():
    records = [
        {"epoch": 1, "train_loss": math.nan, "lr": 0.0},
        {"epoch": 2, "train_loss": math.inf, "val_top1": 0.0},
        {"epoch": 3, "val_top1": 1.0},
    ]
    assert read_points(records, "train_loss") == ([], [])
    assert read_points(records, "val_top1", 100.0) == ([2, 3], [0.0, 100.0])
    assert has_colour(decode(draw_curves(records)), canvas.BEST)


def test_curves_of_no_epochs_at_all():
    assert decode(draw_curves([])).std() > 0


def test_the_first_of_equal_bests_is_named():
    assert best_text(([1, 4, 9], [50.0, 81.25, 81.25])) == "81.25 % (epoch 4)"


def test_equal_input_gives_equal_bytes():
    assert draw_confusion([[3]], ["cat"]) == draw_confusion([[3]], ["cat"])


def test_comparison_has_room_for_every_run_and_odd_names():
    few = {"plain": [{"epoch": 1, **FULL}]}
    many = {f"_run $x_{index}$ 猫": [{"epoch": 1, **FULL}] for index in range(8)}
    small = decode(draw_comparison(few))
    large = decode(draw_comparison(many | {"stopped": []}))
    assert large.shape[0] > small.shape[0]
    assert large.shape[1] == small.shape[1]
    for colour in comparison.RUNS:
        assert has_colour(large, colour)


def test_comparison_of_nothing():
    assert decode(draw_comparison({})).std() > 0


@pytest.mark.parametrize("size", [1, 2, 10, 100, 1000])
def test_confusion_fits_a_page_at_any_number_of_classes(size):
    names = [f"n0{index:07d} a rather long name of a class" for index in range(size)]
    pixels = decode(draw_confusion(make_counts(size), names))
    height, width, _ = pixels.shape
    assert 3 * canvas.DPI <= width <= 13 * canvas.DPI
    assert 3 * canvas.DPI <= height <= 13 * canvas.DPI
    assert pixels.min() < 64


def test_confusion_colours_the_share_of_the_true_class():
    """A row of few images is as dark as one of many, and an empty row stays empty."""
    pixels = decode(draw_confusion([[2, 0, 0], [0, 9000, 0], [0, 0, 0]], ["a", "b", "c"]))
    dark = (pixels == [0x17, 0x25, 0x54]).all(axis=-1).sum(axis=1)
    rows = np.flatnonzero(dark > 100)
    assert len(rows) > canvas.DPI  # two cells high, of at least an inch each


def test_confusion_takes_any_name():
    names = ["猫", "$x", "$x$", r"a\$b$", "_hidden", "", "a\nb", "\udcff", "🐈", "W" * 300]
    assert decode(draw_confusion(make_counts(len(names)), names)).std() > 0


def test_confusion_refuses_names_that_do_not_fit():
    with pytest.raises(ValueError, match="2 class names"):
        draw_confusion([[1]], ["a", "b"])
    with pytest.raises(ValueError, match="0 class names"):
        draw_confusion([], [])


def test_the_worst_confusions_come_first_and_never_include_the_diagonal():
    counts = np.array([[90, 2, 0], [7, 80, 1], [0, 0, 70]])
    assert list(confusion._worst_confusions(counts)) == [(1, 0), (0, 1), (1, 2)]


def test_confusion_of_a_perfect_net_with_many_classes():
    assert decode(draw_confusion(np.eye(21, dtype=int).tolist(), ["a"] * 21)).any()


def test_a_lone_confusion_survives_pooling():
    shares = np.zeros((1001, 1001))
    shares[1000, 7] = 0.5
    cells, block = confusion._pool(shares)
    assert len(cells) <= confusion.DRAWN_CELLS
    assert np.argwhere(cells).tolist() == [[1000 // block, 7 // block]]


def test_long_names_lose_their_middle():
    short = canvas.plain("abcdefghijklmnopqrstuvwxyz", 9)
    assert short == "abcd…wxyz"
    assert canvas.plain("exactly 10", 10) == "exactly 10"


@pytest.mark.parametrize("count", [0, 1, 6, 7, 13])
def test_gallery_grows_with_the_number_of_pictures(count):
    image = np.full((32, 32, 3), 200, np.uint8)
    height, width, _ = decode(draw_gallery([Picture(image, "cat", "said dog")] * count)).shape
    assert width <= 10.5 * canvas.DPI
    rows = max(1, math.ceil(count / figures.PICTURES_IN_A_ROW))
    assert 1.5 * rows <= height / canvas.DPI <= 2.5 * rows


def test_tiny_images_keep_their_pixels_and_big_ones_are_averaged():
    checks = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    tiny = np.stack([checks] * 3, axis=-1)
    enlarged = figures._resize(tiny, 100)
    assert enlarged.shape == (96, 96, 3)
    assert np.array_equal(enlarged[6::12, 6::12], tiny)
    assert set(np.unique(enlarged)) == {0, 255}

    big = np.tile(tiny, (50, 100, 1))
    reduced = figures._resize(big, 100)
    assert reduced.shape == (50, 100, 3)
    assert abs(reduced.astype(int) - 127).max() < 20


def test_gallery_draws_the_pixels_it_was_given():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:8] = (255, 0, 0)
    image[8:] = (0, 0, 255)
    pixels = decode(draw_gallery([Picture(image, "cat")]))
    red = np.argwhere((pixels == [255, 0, 0]).all(axis=-1))
    blue = np.argwhere((pixels == [0, 0, 255]).all(axis=-1))
    assert len(red) == len(blue) == (figures.PICTURE_INCHES * canvas.DPI) ** 2 / 2
    assert red[:, 0].max() + 1 == blue[:, 0].min()


def test_gallery_shortens_captions_to_the_width_of_their_picture():
    image = np.full((16, 300, 3), 255, np.uint8)
    pixels = decode(draw_gallery([Picture(image, "W" * 80, "猫" * 80), Picture(image, "")]))
    gap, side = round(0.12 * canvas.DPI), round(figures.PICTURE_INCHES * canvas.DPI)
    written = (pixels < 200).any(axis=(0, 2))
    assert written[gap : gap + side].any()
    assert not written[gap + side + 3 :].any()


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)]
)
def test_gallery_refuses_what_is_no_picture(image):
    with pytest.raises(ValueError, match="uint8"):
        draw_gallery([Picture(image, "cat")])


def test_nothing_is_left_behind():
    """Drawing must not reach for pyplot, which keeps every figure alive."""
    draw_confusion([[3]], ["cat"])
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
