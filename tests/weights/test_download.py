"""Downloads against a server that fails in every way."""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from resnestkit.errors import UserError
from resnestkit.folders import cache_folder
from resnestkit.models.zoo import find_net
from resnestkit.weights.download import Patience, fetch
from resnestkit.weights.manifest import (
    MANIFEST,
    PublishedWeights,
    find_published,
    published,
    recognise,
)

CONTENT = bytes(range(256)) * 400
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]
QUICK = Patience(silence=1.0, window=0.3, slowest=10_000)


class Handler(BaseHTTPRequestHandler):
    """The path says how to behave."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        way = self.path.strip("/").split("/")[0]
        self.asked.append((way, self.headers.get("Range")))
        if way == "resolve":  # the hub: it states the hash, and sends one to its store
            self.send_response(302)
            self.send_header("Location", f"/{self.path.split('/')[2]}/stored")
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if way.isdigit():
            self.send_error(int(way))
            return
        start = 0
        if way in {"good", "cut"} and (header := self.headers.get("Range")):
            start = int(header.removeprefix("bytes=").rstrip("-"))
        body = b"other" * 1000 if way == "wrong" else CONTENT[start:]
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        kind = "text/html; charset=utf-8" if way == "page" else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if way == "cut":
            self.wfile.write(body[: len(body) // 2])
        elif way == "drip":
            self.drip(body)
        elif way != "silent":
            self.wfile.write(body)
        else:
            time.sleep(2)

    def drip(self, body: bytes) -> None:
        for position in range(40):
            try:
                self.wfile.write(body[position : position + 1])
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def host() -> Iterator[str]:
    Handler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def weights(host: str, *ways: str) -> PublishedWeights:
    pages = tuple(f"{host}/{way}" for way in ways)
    return replace(MANIFEST[0], file=f"net-{DIGITS}.pth", pages=pages, hub="")


def test_a_good_address_serves_once_and_the_cache_after(host: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch(weights(host, "good"), folder=tmp_path, advance=lambda *s: seen.append(s))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(weights(host, "good"), folder=tmp_path) == path
    assert len(Handler.asked) == 1
    kept = {path.name, f"{path.name}.sha256", f"{path.name}.lock"}
    assert {p.name for p in tmp_path.iterdir()} == kept


def test_a_download_shows_how_it_goes_on(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `create_model(weights="imagenet1k")`, where nobody says how to show it."""
    monkeypatch.setattr("resnestkit.progress.SECONDS_BETWEEN_LINES", -1.0)
    fetch(weights(host, "good"), folder=tmp_path)
    captured = capsys.readouterr()
    assert f"downloading net-{DIGITS}.pth  100/100  0 MB" in captured.err
    assert captured.out == ""
    fetch(weights(host, "good"), folder=tmp_path)
    assert capsys.readouterr().err == ""


FAILURES = {
    "403": "403",
    "404": "404",
    "500": "500",
    "cut": "broke off",
    "wrong": "another file",
    "page": "a web page",
    "drip": "too slow",
    "silent": "broke off",
}


@pytest.mark.parametrize("way", FAILURES)
def test_the_next_mirror_takes_over(host: str, tmp_path: Path, way: str) -> None:
    path = fetch(weights(host, way, "good"), folder=tmp_path, patience=QUICK)
    assert path.read_bytes() == CONTENT


def test_what_was_tried_is_said(host: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        fetch(weights(host, *FAILURES), folder=tmp_path, patience=QUICK)
    said = str(raised.value)
    for way, words in FAILURES.items():
        assert f"/{way}/" in said
        assert words in said
    assert f"into {tmp_path} by hand" in said
    assert not (tmp_path / f"net-{DIGITS}.pth").exists()


def test_a_broken_download_goes_on_where_it_broke(host: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="broke off"):
        fetch(weights(host, "cut"), folder=tmp_path, patience=QUICK)
    half = len(CONTENT) // 2
    fetch(weights(host, "good"), folder=tmp_path)
    assert Handler.asked[-1] == ("good", f"bytes={half}-")


def test_a_finished_part_is_recognised(host: str, tmp_path: Path) -> None:
    (tmp_path / f"net-{DIGITS}.pth.part").write_bytes(CONTENT)
    assert fetch(weights(host, "good"), folder=tmp_path).read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_fetched_again(host: str, tmp_path: Path) -> None:
    (tmp_path / f"net-{DIGITS}.pth").write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"net-{DIGITS}.pth is there, but its SHA-256 begins with"):
        fetch(weights(host, "404"), folder=tmp_path)
    with pytest.warns(UserWarning, match=r"it was moved to .*\.pth\.other"):
        assert fetch(weights(host, "good"), folder=tmp_path).read_bytes() == CONTENT
    assert (tmp_path / f"net-{DIGITS}.pth.other").read_bytes() == b"damaged"


def test_offline_uses_the_cache_alone(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNESTKIT_OFFLINE", "1")
    monkeypatch.setenv("RESNESTKIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    with pytest.raises(UserError, match="the network is off"):
        fetch(weights(host, "good"))
    (tmp_path / f"net-{DIGITS}.pth").write_bytes(CONTENT)
    assert fetch(weights(host, "good")).read_bytes() == CONTENT
    assert Handler.asked == []


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="broke off"):
        fetch(weights("http://127.0.0.1:9", "good"), folder=tmp_path, patience=QUICK)


def test_a_file_that_changed_after_it_was_seen_is_not_used(host: str, tmp_path: Path) -> None:
    path = fetch(weights(host, "good"), folder=tmp_path)
    noted = path.with_name(f"{path.name}.sha256")
    assert noted.read_text().strip() == hashlib.sha256(CONTENT).hexdigest()
    noted.write_text(DIGITS + hashlib.sha256(b"what was seen first").hexdigest()[8:])
    with pytest.raises(UserError, match=rf"gave another file .* the note {noted}, made when"):
        fetch(weights(host, "good"), folder=tmp_path)


class TestHub:
    """The hub states the hash of what it serves."""

    @staticmethod
    def kept(host: str, monkeypatch: pytest.MonkeyPatch, *pages: str) -> PublishedWeights:
        monkeypatch.setenv("HF_ENDPOINT", host)
        return replace(weights(host, *pages), hub="timm/net.in1k")

    def test_it_is_tried_after_the_release_pages(
        self, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry = self.kept(host, monkeypatch, "404")
        assert [copy.address for copy in entry.copies] == [
            f"{host}/404/net-{DIGITS}.pth",
            f"{host}/timm/net.in1k/resolve/main/model.safetensors",
        ]
        with pytest.raises(UserError, match="does not state the SHA-256"):
            fetch(replace(entry, hub="good/net.in1k"), folder=tmp_path)
        path = fetch(replace(entry, hub="resolve/good"), folder=tmp_path)
        assert path.name == "resolve-good.safetensors"
        assert path.read_bytes() == CONTENT
        asked = len(Handler.asked)
        assert fetch(replace(entry, hub="resolve/good"), folder=tmp_path) == path
        assert len(Handler.asked) == asked

    @pytest.mark.parametrize(("way", "words"), [("wrong", "another file"), ("cut", "broke off")])
    def test_its_store_may_fail_too(
        self, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, words: str
    ) -> None:
        entry = replace(self.kept(host, monkeypatch), hub=f"resolve/{way}")
        with pytest.raises(UserError, match=words):
            fetch(entry, folder=tmp_path, patience=QUICK)
        assert not list(tmp_path.glob("*.safetensors"))


def test_the_manifest_names_nets_once_and_with_their_hash() -> None:
    assert len({(w.net, w.source) for w in MANIFEST}) == len(MANIFEST)
    for entry in MANIFEST:
        assert find_net(entry.net).name == entry.net
        assert entry.copies
        for copy in entry.copies:
            assert len(copy.digits) == (0 if "huggingface.co" in copy.address else 8)
            assert int(copy.digits or "0", 16) >= 0
            assert recognise(copy.file) == entry
        assert 60 < entry.top1 < (entry.top5 or 100)


def test_the_first_of_a_net_is_the_authors_or_the_most_accurate() -> None:
    for net in {entry.net for entry in MANIFEST}:
        first, *others = published(net)
        assert first.source == "authors" or first.top1 >= max(w.top1 for w in [first, *others])


def test_every_family_has_published_weights() -> None:
    nets = {entry.net for entry in MANIFEST}
    assert {"resnest50", "resnest269", "resnet50", "resnet50c", "resnet50d", "resnet101d"} <= nets
    assert {"resnext50_32x4d", "seresnet50", "senet154", "legacy_senet154", "sknet50"} <= nets


def test_find_published() -> None:
    assert find_published("resnest50").source == "authors"
    assert find_published("resnet50", "torchvision_v1").copies[0].digits == "0676ba61"
    with pytest.raises(UserError, match="Known: imagenet1k, torchvision_v2, a1, "):
        find_published("resnet50", "mine")
    with pytest.raises(UserError, match="no weights of that name are published for sknet101"):
        find_published("sknet101")
