"""Whatever the file holds becomes uint8, or one sentence."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.io  # noqa: F401  (its decoder is used where somebody has imported it)
from PIL import Image

from resnestkit.data import images as images_module
from resnestkit.data import jpeg as jpeg_module
from resnestkit.data.decoding import Bounds, bounded
from resnestkit.data.images import UnreadableImage, decode_image, read_image
from resnestkit.data.jpeg import decode_plain_jpeg

RAMP = np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


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


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (17, 33), (64, 48)])
def test_a_plain_jpeg_has_pillows_pixels(
    size: tuple[int, int], progressive: bool, subsampling: int
) -> None:
    random = np.random.default_rng(sum(size))
    for quality in (30, 75, 95):
        for shape in (size, (*size, 3)):
            image = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
            content = jpeg(image, quality=quality, subsampling=subsampling, progressive=progressive)
            for channels in (1, 3):
                ours = decode_image(content, "a", channels)
                assert torch.equal(ours, images_module._decode_by_pillow(content, "a", channels))
            assert decode_plain_jpeg(content, 3) is not None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_plain_jpeg_is_turned_as_pillow_turns_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(Image.fromarray(COLOUR), exif=exif)
    plain = decode_plain_jpeg(content, 3)
    assert plain is not None
    assert torch.equal(plain, images_module._decode_by_pillow(content, "a", 3))


def test_jpegs_that_are_not_plain_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = Image.fromarray(COLOUR)
    content = jpeg(colour)
    assert decode_plain_jpeg(jpeg(colour.convert("CMYK")), 3) is None
    assert decode_plain_jpeg(content, 1) is None
    assert decode_plain_jpeg(content[:-200], 3) is None
    frame = content.index(b"\xff\xc0")
    assert decode_plain_jpeg(content[: frame + 4] + b"\x0c" + content[frame + 5 :], 3) is None
    turned = b'<x:xmpmeta tiff:Orientation="6"/>'
    xmp = b"\xff\xe1" + (len(turned) + 2).to_bytes(2) + turned
    assert decode_plain_jpeg(content[:2] + xmp + content[2:], 3) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_plain_jpeg(content, 3) is None
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode_image(content, "a")


def test_within_bounds_nothing_larger_and_no_other_kind_is_decoded() -> None:
    content = jpeg(Image.fromarray(COLOUR))
    pixels = COLOUR.shape[0] * COLOUR.shape[1]
    plain = decode_image(content, "a")
    with bounded(Bounds(("JPEG",), pixels)):
        assert torch.equal(decode_image(content, "a"), plain)
    with bounded(Bounds(None, pixels - 1)), pytest.raises(UnreadableImage, match="too many pixels"):
        decode_image(content, "a")
    with bounded(Bounds(("PNG",))), pytest.raises(UnreadableImage, match="not an image"):
        decode_image(content, "a", 1)
    assert torch.equal(decode_image(content, "a"), plain)


def test_without_torchvisions_decoder_pillow_reads_all(monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg(Image.fromarray(COLOUR))
    plain = decode_image(content, "a")
    monkeypatch.setattr(jpeg_module, "_find_decoder", lambda: None)
    assert torch.equal(decode_image(content, "a"), plain)


def test_a_damaged_jpeg_is_read_as_pillow_reads_it() -> None:
    whole = jpeg(Image.fromarray(COLOUR))
    random = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        content[random.integers(2, len(content))] = random.integers(256)
        plain = decode_plain_jpeg(bytes(content), 3)
        if plain is not None:
            assert torch.equal(plain, images_module._decode_by_pillow(bytes(content), "a", 3))
