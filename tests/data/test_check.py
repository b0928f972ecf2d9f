"""Every image is read once: the bad are named, the good are kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnestkit.data.check import check_images, refuse_unreadable
from resnestkit.data.images import FileImages, MemoryImages
from resnestkit.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> FileImages:
    paths = []
    for number in range(12):
        side = 8 + number
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((side, 20, 3), number, dtype=np.uint8)).save(paths[-1])
    return FileImages(paths, list(range(12)))


def test_all_are_read_and_kept(images: FileImages) -> None:
    done: list[int] = []
    checked = check_images(images, cache_bytes=10**6, advance=done.append)
    assert sum(done) == 12
    assert checked.in_memory
    assert isinstance(checked.images, MemoryImages)
    assert checked.images.labels == list(range(12))
    assert [int(checked.images.read(i)[0, 0, 0]) for i in range(12)] == list(range(12))
    assert checked.stats.smallest == (8, 20)
    assert checked.stats.largest == (19, 20)


def test_what_does_not_fit_stays_in_files(images: FileImages) -> None:
    checked = check_images(images, cache_bytes=1000)
    assert not checked.in_memory
    assert checked.images is images


@pytest.mark.parametrize("cache", [0, 10**6])
def test_unreadable_are_named_and_skipped_only_if_allowed(images: FileImages, cache: int) -> None:
    images.paths[3].write_bytes(b"")
    images.paths[5].write_text("words")
    checked = check_images(images, cache_bytes=cache)
    with pytest.raises(UserError, match=r"2 of 12 .*3\.png: the file is empty.*5\.png: not an im"):
        refuse_unreadable([checked])
    assert [Path(bad.name).name for bad in checked.unreadable] == ["3.png", "5.png"]
    assert checked.images.labels == [0, 1, 2, 4, 6, 7, 8, 9, 10, 11]
    assert int(checked.images.read(3)[0, 0, 0]) == 4


def test_ten_names_are_enough(images: FileImages) -> None:
    for path in images.paths:
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"12 of 12 .*and 2 more\. Mend or remove them\.$"):
        check_images(images, cache_bytes=0)
