"""What every test shares: a seed, one thread, images to train on, examples without a deadline.

The nets' inputs are so small that a second thread mostly waits, and on a busy machine for long.
"""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from pictures import draw_class_folders

torch.set_num_threads(1)
# Whoever starts the tests in the background ignores Ctrl-C for them, and a training respects that.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("resnestkit", deadline=None, derandomize=True)
settings.load_profile("resnestkit")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def draw_colours() -> Callable[[Path, int], Path]:
    """Make a folder of images by class: blue, green and red."""
    return draw_class_folders


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Sixteen images of each of three classes, in a single folder."""
    return draw_class_folders(tmp_path / "colours", 16)
