"""Large images: how they are read by parts, and where Pillow's guard stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnestkit.data.images import UnreadableImage, open_header, read_image
from resnestkit.data.pictures import Picture, fit, open_picture

COLOUR = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_parts_are_those_of_the_image(tmp_path: Path, mode: str, channels: int) -> None:
    image = Image.fromarray(COLOUR).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 200)
    path = saved(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), image)
    picture = open_picture(path, channels)
    assert (picture.height, picture.width) == (40, 56)
    whole = read_image(path, channels)
    assert torch.equal(picture.read(0, 0, 40, 56), whole)
    assert torch.equal(picture.read(3, 5, 30, 6), whole[:, 3:30, 5:6])


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    whole = saved(tmp_path / "whole.png", Image.fromarray(COLOUR)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, reason in (
        ("empty.png", "the file is empty"),
        ("text.png", "not an image"),
        ("cut.png", "damaged or truncated"),
        ("missing.png", "No such file"),
    ):
        with pytest.raises(UnreadableImage, match=reason) as raised:
            open_picture(tmp_path / name)
        assert raised.value.name == str(tmp_path / name)


def test_the_limit_is_ours_and_pillows_stays_for_others(tmp_path: Path) -> None:
    """Of 90 megapixels Pillow warns, which fails here."""
    usual = Image.MAX_IMAGE_PIXELS
    path = saved(tmp_path / "large.png", Image.new("L", (10_000, 9_000), 7))
    picture = open_picture(path, channels=1)
    assert picture.read(8_999, 9_998, 9_000, 10_000).tolist() == [[[7, 7]]]
    with open_header(path) as image:
        assert image.size == (10_000, 9_000)
    with pytest.raises(UnreadableImage, match=r"above --max-megapixels 89\.5"):
        open_picture(path, channels=1, most_megapixels=89.5)
    assert usual == Image.MAX_IMAGE_PIXELS
    with pytest.warns(Image.DecompressionBombWarning), Image.open(path):
        pass


def test_a_part_may_be_as_large_as_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert Picture(Image.fromarray(COLOUR)).read(0, 0, 40, 56).shape == (3, 40, 56)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pgm"
    path.write_bytes(b"P5 60000 60000 255\n")
    with pytest.raises(UnreadableImage, match="too many pixels"):
        open_picture(path)


@pytest.mark.parametrize(("size", "longest"), [((56, 40), 20), ((56, 40), 100), ((2000, 1), 30)])
def test_a_shrunken_picture_keeps_its_shape(size: tuple[int, int], longest: int) -> None:
    small = Picture(Image.new("L", size, 9)).shrink(longest)
    width, height = fit(*size, longest)
    assert max(width, height) == min(longest, max(size))
    assert small.shape == (height, width, 3)
    assert (small == 9).all()
