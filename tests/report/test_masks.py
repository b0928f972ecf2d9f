"""Masks in colour, and the legend beside them."""

from __future__ import annotations

import numpy as np

from resnestkit.report.masks import class_colours, colour_mask, draw_legend, draw_mask

COLOURS = ((250, 0, 0), (0, 250, 0))


def test_a_mask_is_in_its_colours_and_white_where_there_is_no_class() -> None:
    drawn = colour_mask(np.array([[0, 1, 255]], np.uint8), COLOURS)
    assert drawn.tolist() == [[[250, 0, 0], [0, 250, 0], [255, 255, 255]]]


def test_a_drawing_is_tinted_by_class_lined_between_them_and_bare_elsewhere() -> None:
    image = np.full((6, 9, 3), (0, 0, 200), np.uint8)
    mask = np.zeros((6, 9), np.uint8)
    mask[:, 3:6], mask[:, 6:] = 1, 9
    drawn = draw_mask(image, mask, COLOURS)
    assert drawn[0, 0, 0] > drawn[0, 0, 1] == drawn[0, 0, 2], "no blue of the picture is left"
    assert drawn[0, 4, 1] > drawn[0, 4, 0] == drawn[0, 4, 2]
    assert (drawn[:, 2] == 255).all()
    assert (drawn[:, 6:] == image[:, 6:]).all()


def test_a_legend_has_every_colour_and_grows_in_columns() -> None:
    few = draw_legend(("sky", "日本", "$x$"), class_colours(3), (0.5, 0.25, 0.25))
    many = draw_legend([f"class {i}" for i in range(60)], class_colours(60))
    for colour in class_colours(3):
        assert (few == colour).all(2).any()
    for colour in class_colours(60):
        assert (many == colour).all(2).any()
    assert many.shape[1] > 2 * few.shape[1]
    assert draw_legend((), ()).size
