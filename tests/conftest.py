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


Run = Callable[..., tuple[int, str, str]]


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


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command; get its exit code, what it printed, and what it complained of."""
    from resnestkit import cli  # noqa: PLC0415  (before it, the shape checker installs its hook)

    def typed(*words: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return typed


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny detector on shapes, made once; its folder of images lies beside it."""
    from boxed_pictures import TINY, draw_boxed_shapes  # noqa: PLC0415  (as above)

    from resnestkit import train  # noqa: PLC0415  (as above)
    from resnestkit.progress import Reporter  # noqa: PLC0415  (as above)

    root = tmp_path_factory.mktemp("found")
    draw_boxed_shapes(root / "shapes", {"train": 8, "val": 4})
    train(root / "shapes", TINY, root / "run", reporter=Reporter(quiet=True))
    return root


@pytest.fixture(scope="session")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny segmenter on scenes, made once; its folder of images lies beside it."""
    from masked_pictures import TINY, draw_masked_scenes  # noqa: PLC0415  (as above)

    from resnestkit import train  # noqa: PLC0415  (as above)
    from resnestkit.progress import Reporter  # noqa: PLC0415  (as above)

    root = tmp_path_factory.mktemp("segmented")
    draw_masked_scenes(root / "scenes", {"train": 8, "val": 4})
    train(root / "scenes", TINY, root / "run", reporter=Reporter(quiet=True))
    return root
