"""The cache is shared, damaged, full and forged; what it gives is right or nothing."""

import errno
import hashlib
import multiprocessing
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from test_download import CONTENT, DIGITS, QUICK, Handler, host, weights

from resnestkit.errors import UserError
from resnestkit.weights.download import fetch
from resnestkit.weights.lock import locked
from resnestkit.weights.manifest import MANIFEST

__all__ = ["host"]  # a fixture

NAME = f"net-{DIGITS}.pth"
OTHER = hashlib.sha256(b"other").hexdigest()


def _fetch(address: str, folder: Path) -> None:
    assert fetch(weights(address, "good"), folder=folder).read_bytes() == CONTENT


def test_processes_that_want_one_file_wait_for_one_download(host: str, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_fetch, args=(host, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(Handler.asked) == 1


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside: list[str] = []

    def enter() -> None:
        with locked(tmp_path / "a.lock"):
            inside.append("second")

    with locked(tmp_path / "a.lock"):
        other = threading.Thread(target=enter)
        other.start()
        other.join(0.3)
        inside.append("first")
    other.join()
    assert inside == ["first", "second"]
    with pytest.raises(UserError, match="Cannot write to"), locked(tmp_path / "no" / "a.lock"):
        pass


@pytest.mark.parametrize("left", [b"wrong", CONTENT + b"more", b"x" * len(CONTENT)])
def test_a_part_of_something_else_does_not_fail_the_download(
    host: str, tmp_path: Path, left: bytes
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(left)
    assert fetch(weights(host, "good"), folder=tmp_path).read_bytes() == CONTENT
    assert [asked[1] for asked in Handler.asked] == [f"bytes={len(left)}-", None]


def test_a_wrong_file_is_asked_for_once_if_nothing_was_left(host: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another file"):
        fetch(weights(host, "wrong"), folder=tmp_path)
    assert len(Handler.asked) == 1


@pytest.mark.parametrize("note", ["", "no digest", OTHER[:20], OTHER, OTHER.upper()])
def test_a_note_that_cannot_be_right_is_ignored(host: str, tmp_path: Path, note: str) -> None:
    (tmp_path / f"{NAME}.sha256").write_text(note)
    assert fetch(weights(host, "good"), folder=tmp_path).read_bytes() == CONTENT
    assert (tmp_path / f"{NAME}.sha256").read_text().strip() == hashlib.sha256(CONTENT).hexdigest()


def test_a_note_is_written_whole(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        "resnestkit.weights.cache.write_whole", lambda path, _: written.append(path.name)
    )
    fetch(weights(host, "good"), folder=tmp_path)
    assert written == [f"{NAME}.sha256"]


def test_a_file_by_hand_of_which_nobody_knows_the_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNESTKIT_OFFLINE", "1")
    entry = replace(MANIFEST[0], file="", pages=(), hub="timm/net.in1k")
    path = tmp_path / "timm-net.in1k.safetensors"
    path.write_bytes(CONTENT)
    with pytest.raises(UserError, match=r"nobody says what it should be.*give it by its path"):
        fetch(entry, folder=tmp_path)
    path.with_name(f"{path.name}.sha256").write_text(hashlib.sha256(CONTENT).hexdigest())
    assert fetch(entry, folder=tmp_path) == path


@pytest.mark.parametrize("endpoint", ["", "hub.example", "file:///tmp", "https://[", "http://"])
def test_an_endpoint_that_is_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    entry = replace(MANIFEST[0], file="", pages=(), hub="timm/net.in1k")
    if not endpoint:
        assert entry.copies[0].address.startswith("https://huggingface.co/")
        return
    with pytest.raises(UserError, match="No address gave"):
        fetch(entry, folder=tmp_path, patience=QUICK)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_what_fails_here_is_no_mirrors_fault(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "cannot")

    monkeypatch.setattr("resnestkit.weights.download.accept", fail)
    with pytest.raises(UserError, match=f"Cannot write to {tmp_path}: cannot"):
        fetch(weights(host, "good", "good"), folder=tmp_path)
    assert len(Handler.asked) == 1


def test_a_part_that_cannot_be_written(host: str, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").mkdir()
    with pytest.raises(UserError, match=f"Cannot write to {tmp_path}"):
        fetch(weights(host, "good", "good"), folder=tmp_path)
    assert len(Handler.asked) == 1


def test_a_cache_that_cannot_be_read(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder" / NAME).mkdir(parents=True)
    with pytest.raises(UserError, match="is a folder"):
        fetch(weights(host, "good"), folder=tmp_path / "folder")
    (tmp_path / NAME).write_bytes(CONTENT)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("hashlib.file_digest", refuse)
    with pytest.raises(UserError, match=f"Cannot read .*{NAME}: Permission denied"):
        fetch(weights(host, "good"), folder=tmp_path)
    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(UserError, match=f"Cannot look at .*{NAME}: Permission denied"):
        fetch(weights(host, "good"), folder=tmp_path)
