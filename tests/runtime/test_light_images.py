"""Pillow and NumPy prepare images as the training path does, to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from resnestkit.data.images import UnreadableImage, read_image
from resnestkit.data.transforms import EvaluationTransform
from resnestkit.data.transforms import normalise as normalise_tensors
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.images import normalise, read_square

AS_HERE = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
"""Other processors resize in another way, by one level of 255 at most."""
MOST = 0.001 if AS_HERE else 1.001
"""Levels by which values may differ; a thousandth is for the rounding of what is normalised."""


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth shapes with some noise."""
    random = np.random.default_rng(height + width)
    coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + random.normal(0, 12, smooth.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def levels_apart(path: Path, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """By how many levels of 255 the two paths differ, by value."""
    square = EvaluationTransform(preprocessing)(read_image(path, preprocessing.channels))
    expected = normalise_tensors(square.unsqueeze(0), preprocessing).numpy()
    found = normalise([read_square(path, preprocessing)], preprocessing)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    std = np.array(preprocessing.std, np.float32).reshape(1, -1, 1, 1)
    return np.abs(found - expected) * std * 255


def write_formats(folder: Path) -> dict[str, Path]:
    """The same picture in whatever a camera, a scanner or an editor may write."""
    pixels = photograph(90, 121)
    colour, grey = Image.fromarray(pixels), Image.fromarray(pixels[:, :, 0])
    deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "plain.jpg": (colour, {"quality": 90}),
        "progressive.jpg": (colour, {"progressive": True}),
        "grey.jpg": (grey, {}),
        "cmyk.jpg": (colour.convert("CMYK"), {"quality": 95}),
        "turned.jpg": (colour, {"exif": turned}),
        "plain.png": (colour, {}),
        "palette.png": (colour.convert("P"), {}),
        "transparent.png": (colour.convert("RGBA"), {}),
        "deep.png": (deep, {}),
        "plain.tif": (colour, {}),
        "packed.tif": (colour, {"compression": "tiff_lzw"}),
        "deep.tif": (deep, {}),
        "float.tif": (Image.fromarray(pixels[:, :, 0].astype(np.float32) / 255), {}),
        "plain.bmp": (colour, {}),
        "grey.bmp": (grey, {}),
        "moving.gif": (colour.convert("P"), {"save_all": True, "append_images": [grey]}),
        "lab.tif": (colour.convert("LAB"), {}),
        "plain.webp": (colour, {}),
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in made}


def test_every_format_is_prepared_as_for_training(tmp_path: Path) -> None:
    colour = Preprocessing(size=48, crop_ratio=0.875)
    grey = Preprocessing(size=40, mean=(0.5,), std=(0.25,))
    for name, path in write_formats(tmp_path).items():
        for preprocessing in (colour, grey):
            assert levels_apart(path, preprocessing).max() <= MOST, name


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "size", [(300, 1000), (1000, 300), (97, 64), (33, 47), (64, 64), (20, 700)]
)
def test_every_shape_is_cut_alike(
    tmp_path: Path, size: tuple[int, int], interpolation: str
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photograph(*size)).save(path)
    for side, ratio in ((56, 0.875), (31, 0.9), (64, 1.0), (224, 0.875)):
        preprocessing = Preprocessing(side, ratio, interpolation)  # type: ignore[arg-type]
        assert levels_apart(path, preprocessing).max() <= MOST


def test_without_resizing_pixels_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photograph(41, 64)).save(path)
    assert levels_apart(path, Preprocessing(size=41, crop_ratio=1.0)).max() < 0.001


def test_channels_are_turned_for_nets_that_read_blue_first(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
    preprocessing = Preprocessing(8, 1.0, channel_order="BGR", mean=(0.1, 0.2, 0.3))
    assert levels_apart(path, preprocessing).max() < 0.001
    means = normalise([read_square(path, preprocessing)], preprocessing).mean((0, 2, 3))
    assert means[2] > 0 > means[0]


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    for name, reason in {
        "empty.png": "empty",
        "text.png": "not an image",
        "no.png": "No such",
    }.items():
        with pytest.raises(UnreadableImage, match=reason) as raised:
            read_square(tmp_path / name, Preprocessing())
        assert str(tmp_path / name) in str(raised.value)


def test_batches_are_what_torch_makes_of_them() -> None:
    squares = [photograph(20, 20), photograph(20, 21)[:, :20]]
    tensors = torch.stack([torch.from_numpy(s.copy()).permute(2, 0, 1) for s in squares])
    expected = normalise_tensors(tensors, Preprocessing(20)).numpy()
    assert np.abs(normalise(squares, Preprocessing(20)) - expected).max() < 1e-6
