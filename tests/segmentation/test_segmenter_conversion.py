"""A file of a whole segmenter is told, and becomes a checkpoint, head and all."""

import zipfile
from pathlib import Path
from typing import Any

import encoding_files as files
import pytest
import torch
from small_segmenters import difference

from resnestkit import UserError, create_segmenter, load_segmenter, save_segmenter
from resnestkit.conversion import convert, inspect
from resnestkit.data.division import name_by_data
from resnestkit.data.segmentation.known import PASCAL_CONTEXT

CLASSES = 5
PUBLISHED = "deeplab_resnest50_pcontext-08dccbc4"


def write(path: Path, classes: int = CLASSES, layers: Any = (1, 1, 1, 1)) -> Path:
    """The authors' DeepLabV3, as they save it."""
    torch.manual_seed(0)
    net = files.build_backbone(layers)
    torch.save(files.segmenter(net.state_dict(), "deeplab", classes), path)
    return path


def test_a_whole_segmenter_is_told_and_converted(tmp_path: Path) -> None:
    path = write(tmp_path / "theirs.pth")
    found = inspect(path)
    assert (found.kind, found.classes) == ("segmenter, deeplabv3", CLASSES)
    assert [net.name for net in found.nets] == ["resnest14"]
    assert found.coverage.is_complete
    ours = tmp_path / "ours.safetensors"
    assert convert(path, ours) == "deeplabv3 on resnest14, 5 classes"
    model, card = load_segmenter(ours)
    assert card.classes == tuple(f"class {i}" for i in range(CLASSES))
    assert not model.head_is_new
    direct = create_segmenter("deeplabv3", "resnest14", weights=path).eval()
    images = torch.randn(1, 3, 33, 40)
    with torch.no_grad():
        assert difference(model(images), direct(images)) < 1e-5
    again = inspect(ours)
    assert (again.kind, again.classes) == (found.kind, CLASSES)
    with pytest.raises(UserError, match="exists already"):
        convert(path, ours)
    with pytest.raises(UserError, match="holds a deeplabv3, and nets alone are written for caffe"):
        convert(path, tmp_path / "caffe.safetensors", to="caffe")


def test_a_published_name_says_the_net_and_the_classes(tmp_path: Path) -> None:
    path = write(tmp_path / f"{PUBLISHED}.pth", 59, (3, 4, 6, 3))
    ours = tmp_path / "ours.safetensors"
    assert convert(path, ours) == "deeplabv3 on resnest50, 59 classes"
    assert load_segmenter(ours)[1].classes == PASCAL_CONTEXT.classes


def test_norms_without_statistics_are_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    model = create_segmenter("fcn", "resnest23_small", 3, norm="group")
    model.head_is_new = False
    save_segmenter(model, path)
    found = inspect(path)
    assert (found.kind, found.classes) == ("segmenter, fcn", 3)
    assert found.coverage.is_complete


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "theirs.zip", "w") as archive:
        archive.writestr("theirs.pth", b"weights")
    with pytest.raises(UserError, match=r"is an archive; unpack it, and give theirs\.pth of it"):
        inspect(tmp_path / "theirs.zip")


@pytest.mark.parametrize("first", [0, 1])
def test_classes_that_are_numbers_take_the_names_of_the_data(first: int) -> None:
    counted = [f"class {first + i}" for i in range(2)]
    assert name_by_data(counted, ("road", "sky")) == ("road", "sky")
    assert name_by_data(counted, ("road", "sky", "sea")) == tuple(counted)
    assert name_by_data(("sky", "road"), ("road", "sky")) == ("sky", "road")
