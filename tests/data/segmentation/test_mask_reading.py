"""Whatever writes indices is read as indices; whatever does not is named."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mask_files import draw_mask, paint_image, paint_mask, paint_pairs, small_set
from PIL import Image

from resnestkit.data.images import UnreadableImage, measure_image
from resnestkit.data.segmentation import masks
from resnestkit.data.segmentation.known import CITYSCAPES_TRAIN_IDS, VOC
from resnestkit.data.segmentation.legend import IGNORE, Colour, Legend, count_classes
from resnestkit.data.segmentation.masks import FileMasks, read_colours, read_indices
from resnestkit.data.segmentation.sources import (
    inspect_segmentation_source,
    load_segmentation_source,
)
from resnestkit.errors import UserError

NUMBERS = draw_mask((0, 1, 2, 3))


def write_grey_png(path: Path, values: Any, bits: int) -> None:
    """A grey PNG of few bits a pixel, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    height, width = values.shape
    per_byte = 8 // bits
    shifts = np.arange(per_byte - 1, -1, -1) * bits
    packed = (values.reshape(height, -1, per_byte).astype(int) << shifts).sum(2).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def as_palette(path: Path) -> None:
    image = Image.fromarray(NUMBERS).convert("P")
    image.putdata(NUMBERS.ravel().tolist())
    image.putpalette([255, 0, 0, 9, 9, 9, 0, 0, 0, 40, 50, 60])
    image.save(path, transparency=0)


def with_alpha(path: Path) -> None:
    Image.merge("LA", [Image.fromarray(NUMBERS), Image.new("L", (16, 12), 255)]).save(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("grey.png", lambda path: Image.fromarray(NUMBERS).save(path)),
        ("palette.png", as_palette),
        ("palette.gif", lambda path: as_palette(path.with_suffix(".gif"))),
        ("opaque.png", with_alpha),
        ("deep.png", lambda path: Image.fromarray(NUMBERS.astype(np.uint16)).save(path)),
        ("deep.tif", lambda path: Image.fromarray(NUMBERS.astype(np.uint16)).save(path)),
        ("wide.tif", lambda path: Image.fromarray(NUMBERS.astype(np.int32)).save(path)),
        ("plain.bmp", lambda path: Image.fromarray(NUMBERS).save(path)),
        ("two.png", lambda path: write_grey_png(path, NUMBERS, 2)),
        ("four.png", lambda path: write_grey_png(path, NUMBERS, 4)),
    ],
)
def test_indices_of_every_kind(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    assert np.array_equal(read_indices(tmp_path / name), NUMBERS)
    masks = FileMasks([tmp_path / name], ["image"], count_classes(4))
    assert masks.read(0).dtype == torch.uint8
    assert np.array_equal(masks.read(0).numpy(), NUMBERS)


def test_one_bit_is_yes_or_no(tmp_path: Path) -> None:
    Image.fromarray(NUMBERS > 1).save(tmp_path / "a.png")
    assert read_indices(tmp_path / "a.png").tolist() == (NUMBERS > 1).astype(int).tolist()


def test_jpeg_images_may_be_turned_and_masks_with_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NUMBERS).save(tmp_path / "a.png", exif=exif)
    assert read_indices(tmp_path / "a.png").shape == (16, 12)


def see_through(path: Path) -> None:
    Image.merge("LA", [Image.fromarray(NUMBERS), Image.fromarray(NUMBERS)]).save(path)


def cut_short(path: Path) -> None:
    paint_mask(path)
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: Image.new("RGB", (9, 9)).save(path), "saved in colours (RGB), not as class"),
        (lambda path: Image.new("RGBA", (9, 9)).save(path), "saved in colours (RGB), not as class"),
        (lambda path: Image.new("L", (9, 9)).save(path, "JPEG"), "saved as JPEG, which changes"),
        (see_through, "saved with transparency"),
        (lambda path: Image.new("F", (9, 9)).save(path, "TIFF"), "saved as fractions"),
        (cut_short, "damaged or truncated"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("words"), "not an image"),
        (lambda path: None, "No such file"),
    ],
)
def test_what_holds_no_indices_is_named(
    tmp_path: Path, write: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "mask.png"
    write(path)
    with pytest.raises(UnreadableImage) as caught:
        read_indices(path)
    assert caught.value.name == str(path)
    assert said in caught.value.reason


def test_masks_are_read_beyond_what_pillow_warns_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = paint_mask(tmp_path / "mask.png", (0, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    assert np.unique(read_indices(path)).tolist() == [0, 3]
    assert measure_image(path) == read_indices(path).shape
    monkeypatch.setattr(masks, "MOST_MEGAPIXELS", 1e-6)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        read_indices(path)


def test_colours_are_read_from_colours_alone(tmp_path: Path) -> None:
    paint_mask(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="not saved as exact colours"):
        read_colours(tmp_path / "a.png")


def test_numbers_become_classes_and_strange_ones_are_named(tmp_path: Path) -> None:
    legend = Legend(("a", "b"), (7, 3), ignored=(5,))
    paint_mask(tmp_path / "a.png", (3, 7, 5, 255))
    masks = FileMasks([tmp_path / "a.png", None], ["one.jpg", "two.jpg"], legend)
    assert masks.read(0)[0, [0, 4, 8, 12]].tolist() == [1, 0, IGNORE, IGNORE]
    with pytest.raises(UnreadableImage, match=r"two\.jpg: it has no mask"):
        masks.read(1)
    paint_mask(tmp_path / "a.png", (3, 7, 4, 4))
    with pytest.raises(UnreadableImage, match=r"number 4 \(96 pixels\) is of no class; the 2"):
        masks.read(0)
    deep = np.full((3, 4), 300, np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match=r"number 300 \(12 pixels\)"):
        masks.read(0)


def repaint(root: Path, mode: str, palette: tuple[Colour, ...] | None = None) -> None:
    """Save all masks in another mode."""
    for path in sorted((root / "labels").rglob("*.png")):
        with Image.open(path) as mask:
            values = np.asarray(mask)
        if palette is not None:
            Image.fromarray(np.array(palette, np.uint8)[values]).save(path)
        elif mode == "JPEG":
            Image.fromarray(values).save(path, "JPEG")
        else:
            Image.fromarray(values).convert(mode).save(path)


@pytest.mark.parametrize(
    ("palette", "said"),
    [
        (CITYSCAPES_TRAIN_IDS.palette[:3], "Its colours are those of Cityscapes."),
        (VOC.palette[:3], "Its colours are those of Pascal VOC."),
        (((0, 0, 0), *VOC.palette[1:4:2]), "Its colours are those of CamVid or Pascal VOC."),
        (((1, 2, 3), (4, 5, 6), (7, 8, 9)), "not as class indices. Save"),
        (((0, 0, 0), (1, 1, 1), (2, 2, 2)), "Its three channels are the same"),
    ],
)
def test_colours_are_refused_and_whose_they_are_is_said(
    tmp_path: Path, palette: tuple[Colour, ...], said: str
) -> None:
    small_set(tmp_path)
    repaint(tmp_path, "RGB", palette)
    with pytest.raises(UserError) as caught:
        load_segmentation_source(str(tmp_path))
    told = str(caught.value)
    assert "6 of 6 masks looked at" in told
    assert "saved in colours (RGB), not as class indices" in told
    assert said in told
    assert "in one channel, as PNG" in told
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    found = inspect_segmentation_source(str(tmp_path)).findings  # the doctor goes on
    assert found[0].refused
    assert said in str(found[0])


def test_jpeg_is_refused(tmp_path: Path) -> None:
    small_set(tmp_path)
    repaint(tmp_path, "JPEG")
    with pytest.raises(
        UserError, match=r"saved as JPEG, which changes class indices\. Save it from"
    ):
        load_segmentation_source(str(tmp_path))


def test_a_single_bad_mask_is_the_files_fault_and_not_the_sets(tmp_path: Path) -> None:
    small_set(tmp_path)
    Image.new("RGB", (16, 12)).save(tmp_path / "labels/train/train2.png")
    found = load_segmentation_source(str(tmp_path)).findings
    said = [finding for finding in found if "1 of 6 masks looked at" in finding.text]
    assert [finding.refused for finding in said] == [False]


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    small_set(tmp_path)
    for path in sorted((tmp_path / "labels").rglob("*.png")):
        paint_mask(path, size=(6, 8))
    with pytest.raises(UserError, match=r"not of their images' size, .*\(16x12, its mask 8x6\)"):
        load_segmentation_source(str(tmp_path))


def test_numbers_beyond_the_named_classes_are_refused(tmp_path: Path) -> None:
    small_set(tmp_path, numbers=(0, 1, 5, 9))
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError) as caught:
        load_segmentation_source(str(tmp_path))
    assert "6 of 6 masks looked at" in str(caught.value)
    assert "numbers of no class (5, 9)" in str(caught.value)
    assert "the 3 classes are 0 to 2" in str(caught.value)


def test_numbers_that_were_spread_to_be_seen_are_refused(tmp_path: Path) -> None:
    small_set(tmp_path, numbers=(0, 85, 170, 255))
    with pytest.raises(UserError, match=r"hold 0, 85, 170 and 1 more alone, as if .* spread"):
        load_segmentation_source(str(tmp_path))


def test_numbers_beyond_a_byte_are_refused(tmp_path: Path) -> None:
    paint_pairs(tmp_path / "images", tmp_path / "masks", 2)
    deep = np.full((12, 16), 1000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "masks/0.png")
    with pytest.raises(UserError, match="has the number 1000; a class has one from 0 to 254"):
        load_segmentation_source(str(tmp_path))


def test_missing_pictures_of_a_list_are_said(tmp_path: Path) -> None:
    paint_pairs(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", 3)
    (tmp_path / "JPEGImages/1.jpg").unlink()
    found = inspect_segmentation_source(str(tmp_path)).findings
    assert any("1 of 3 images cannot be found" in finding.text for finding in found)
    paint_image(tmp_path / "JPEGImages/1.jpg")
    assert not inspect_segmentation_source(str(tmp_path)).findings
