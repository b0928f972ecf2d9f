"""Files that are made: in their place whole, or not at all, and nothing of others' is lost."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from exported_files import save_tiny_net
from pictures import draw_class_folders

from resnestkit import Predictor, UserError
from resnestkit.deploy.export import export
from resnestkit.deploy.exporters import find_exporter
from resnestkit.deploy.placing import check_target, made_aside
from resnestkit.deploy.quantise import quantise
from resnestkit.preprocessing import Preprocessing
from resnestkit.progress import Reporter
from resnestkit.runtime.card import Format

Run = Callable[..., tuple[int, str, str]]

PREPROCESSING = Preprocessing(size=24)
QUIET = Reporter(quiet=True)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_tiny_net(tmp_path / "net.safetensors", PREPROCESSING)
    return tmp_path / "net.safetensors"


def test_another_files_weights_are_not_replaced(checkpoint: Path, run: Run) -> None:
    weights = checkpoint.with_suffix(".bin")
    weights.write_text("another library's checkpoint")
    code, _, err = run("export", checkpoint)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "net.bin would be replaced, and is not of an earlier net.xml" in err
    assert weights.read_text() == "another library's checkpoint"
    assert not checkpoint.with_suffix(".xml").exists()


def test_an_earlier_file_is_replaced_with_its_weights(checkpoint: Path) -> None:
    first = export(checkpoint, "openvino", size=24).path
    first.with_suffix(".bin").write_bytes(b"")
    assert export(checkpoint, "openvino", size=28).path == first
    assert Predictor(first).card.preprocessing.size == 28


@pytest.mark.parametrize("name", ["out.onnx", "out.xml", "out.bin"])
def test_a_folder_is_not_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    target = tmp_path / name.replace(".bin", ".xml")
    with pytest.raises(UserError, match=rf"{name} is a folder"):
        check_target(target)


@pytest.mark.parametrize("to", ["openvino", "onnx", "torch"])
def test_a_full_disk_ends_in_one_sentence(checkpoint: Path, to: Format) -> None:
    """A bound of the size of files stands for the full disk; the earlier file stays."""
    suffix = find_exporter(to).SUFFIX
    for ending in (suffix, ".bin"):
        checkpoint.with_suffix(ending).write_text("an earlier one")
    before = {path: path.read_bytes() for path in checkpoint.parent.iterdir()}
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "from resnestkit.cli import main; main(sys.argv[1:])"
    )
    words = [sys.executable, "-c", program, "export", str(checkpoint), "--to", to]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert f"Cannot write net{suffix}" in done.stderr
    assert {path: path.read_bytes() for path in checkpoint.parent.iterdir()} == before


def test_a_place_that_cannot_be_written_is_said() -> None:
    with (
        pytest.raises(UserError, match=r"Cannot write net\.xml"),
        made_aside(Path("/proc/self/net.xml")),
    ):
        pass


def test_names_with_brackets_are_names(checkpoint: Path) -> None:
    data = draw_class_folders(checkpoint.parent / "data", 4)
    odd = checkpoint.rename(checkpoint.with_name("net[1].safetensors"))
    made = quantise(odd, data, max_drop=0.9, reporter=QUIET)
    assert made.path.name == "net[1].int8.xml"
    assert made.path.is_file()
    assert made.path.with_suffix(".bin").is_file()


def test_no_name_is_that_of_the_file_it_is_made_of(checkpoint: Path) -> None:
    """Else the file in int8 would be measured beside itself."""
    data = draw_class_folders(checkpoint.parent / "data", 4)
    target = checkpoint.with_name("float32.xml")
    made = quantise(checkpoint, data, output=target, max_drop=0.9, reporter=QUIET)
    assert made.card.precision == "int8"
    again = checkpoint.parent / "data" / ".." / "float32.xml"
    with pytest.raises(UserError, match="itself, which is read"):
        quantise(target, data, output=again, reporter=QUIET)
