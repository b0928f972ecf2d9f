"""Whatever the file holds becomes uint8, or one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnestkit.data.images import UnreadableImage, decode_image, read_image

RAMP = np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_rgb_png_is_read_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(COLOUR))
    read = read_image(path)
    assert read.dtype == torch.uint8
    assert torch.equal(read, torch.from_numpy(COLOUR).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["CMYK", "L", "LA", "P", "RGBA", "1", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode in {"CMYK", "YCbCr"} else "png"
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(COLOUR).convert(mode))
    assert read_image(path).shape == (3, 20, 30)
    assert read_image(path, channels=1).shape == (1, 20, 30)


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK")
    read = read_image(saved(tmp_path / "a.jpg", red, quality=95)).float().mean((1, 2))
    assert read[0] > 200
    assert read[1:].max() < 60


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = RAMP.astype(np.uint16) * 257
    read = read_image(saved(tmp_path / "a.png", Image.fromarray(deep)), channels=1)
    assert torch.equal(read[0], torch.from_numpy(RAMP))


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_grey_is_scaled_by_the_range_it_fills(tmp_path: Path, top: float) -> None:
    values = (RAMP / 255.0 * top).astype(np.float32)
    read = read_image(saved(tmp_path / "a.tif", Image.fromarray(values)), channels=1)
    assert (read[0].int() - torch.from_numpy(RAMP).int()).abs().max() <= 1


def test_thirty_two_bit_grey_of_eight_bit_values(tmp_path: Path) -> None:
    read = read_image(saved(tmp_path / "a.tif", Image.fromarray(RAMP.astype(np.int32))), channels=1)
    assert torch.equal(read[0], torch.from_numpy(RAMP))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    read = read_image(path)
    assert read[0].float().mean() > 200
    assert read[2].float().mean() < 50


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.jpg", Image.fromarray(COLOUR), exif=exif)
    assert read_image(path).shape == (3, 30, 20)


def test_unreadable_files_say_why(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.jpg", Image.fromarray(COLOUR)).read_bytes()
    bad = {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"this is no picture", "not an image"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
    }
    for name, (content, reason) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImage, match=reason) as raised:
            read_image(tmp_path / name)
        assert name in raised.value.name
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(UnreadableImage):
        read_image(tmp_path)


# Pillow warns of a cut TIFF as well as refusing it.
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_every_truncation_is_refused_or_read_never_a_crash(tmp_path: Path) -> None:
    for suffix in ("png", "gif", "webp", "bmp", "tif"):
        whole = saved(tmp_path / f"a.{suffix}", Image.fromarray(COLOUR)).read_bytes()
        outcomes = set()
        for length in range(0, len(whole), max(1, len(whole) // 40)):
            try:
                outcomes.add(decode_image(whole[:length], "a").shape)
            except UnreadableImage as error:
                outcomes.add(error.name)
        assert "a" in outcomes
