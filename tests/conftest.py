"""What every test shares: a seed, one thread, images to train on, examples without a deadline.

The nets' inputs are so small that a second thread mostly waits, and on a busy machine for long.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

torch.set_num_threads(1)
settings.register_profile("resnestkit", deadline=None, derandomize=True)
settings.load_profile("resnestkit")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


def _draw_colours(folder: Path, per_class: int) -> Path:
    """Class folders of noisy pictures in one colour each: learnt in an epoch or two."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            noise = random.normal(0, 40, (16, 16, 3)) + np.array(colour)
            pixels = np.clip(noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture
def draw_colours() -> Callable[[Path, int], Path]:
    """Make a folder of images by class: blue, green and red."""
    return _draw_colours


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Sixteen images of each of three classes, in a single folder."""
    return _draw_colours(tmp_path / "colours", 16)
