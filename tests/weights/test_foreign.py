"""Files of other codes: what is honest is read, what is not is refused unread."""

import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resnestkit.errors import UserError
from resnestkit.weights.foreign import read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "n": torch.tensor(7)}


def same(loaded: dict[str, torch.Tensor]) -> bool:
    return loaded.keys() == WEIGHTS.keys() and all(
        torch.equal(loaded[name], WEIGHTS[name]) for name in WEIGHTS
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_torch_files(tmp_path: Path, zipped: bool, wrapper: str | None) -> None:
    path = tmp_path / "a.pth"
    content = WEIGHTS if wrapper is None else {wrapper: WEIGHTS, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(read_weights(path))


def test_safetensors_by_content_whatever_the_name(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.bin"):
        save_file(WEIGHTS, tmp_path / name)
        assert same(read_weights(tmp_path / name))


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, zipped: bool) -> None:
    path, target = tmp_path / "a.pth", tmp_path / "ran"
    content = {"a": torch.zeros(1), "b": Malicious(target)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="could run code; it was not read"):
        read_weights(path)
    assert not target.exists()


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    with pytest.raises(UserError, match="unpacks to more than it holds"):
        read_weights(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_claim_of_a_terabyte_is_not_believed(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(70_001)}, path, _use_new_zipfile_serialization=zipped)
    # The count is a 32-bit number (J); a larger count is an eight-bit length and a long (0x8a).
    honest, boast = b"J" + struct.pack("<i", 70_001), b"\x8a\x06" + struct.pack("<q", 2**40)[:6]
    if zipped:
        with zipfile.ZipFile(path) as archive:
            entries = {e.filename: archive.read(e) for e in archive.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content.replace(honest, boast))
    else:
        path.write_bytes(path.read_bytes().replace(honest, boast))
    assert boast in path.read_bytes()
    with pytest.raises(UserError, match=r"claims 1,099,511,627,776 values .* not read"):
        read_weights(path)


def test_a_safetensors_header_that_claims_a_terabyte(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b'{"a":1}')
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_weights(path)


def test_damaged_files(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "whole.pth")
    save_file(WEIGHTS, tmp_path / "whole.safetensors")
    for name in ("whole.pth", "whole.safetensors"):
        whole = (tmp_path / name).read_bytes()
        cut = tmp_path / f"cut.{name.split('.')[1]}"
        for length in (0, 1, 8, 20, len(whole) // 2, len(whole) - 1):
            cut.write_bytes(whole[:length])
            with pytest.raises(UserError):
                read_weights(cut)
    (tmp_path / "page.pth").write_text("<html>404</html>")
    with pytest.raises(UserError, match="damaged or foreign"):
        read_weights(tmp_path / "page.pth")
    with pytest.raises(UserError, match="no file"):
        read_weights(tmp_path / "missing.pth")


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    save_file({"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}, tmp_path / "a.bin")
    with pytest.raises(UserError, match="no numbers, in bad"):
        read_weights(tmp_path / "a.bin")


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="no tensors"):
        read_weights(tmp_path / "a.pth")
