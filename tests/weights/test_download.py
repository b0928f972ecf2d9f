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
from resnestkit.models.zoo import find_net
from resnestkit.weights.download import Patience, cache_folder, fetch
from resnestkit.weights.manifest import MANIFEST, PublishedWeights, find_published

CONTENT = bytes(range(256)) * 400
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]
QUICK = Patience(silence=1.0, window=0.3, slowest=10_000)


class Handler(BaseHTTPRequestHandler):
    """The path says how to behave."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        way = self.path.strip("/").split("/")[0]
        self.asked.append((way, self.headers.get("Range")))
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
    file = f"net-{DIGITS}.pth"
    addresses = tuple(f"{host}/{way}/{file}" for way in ways)
    return replace(MANIFEST[0], file=file, addresses=addresses)


def test_a_good_address_serves_once_and_the_cache_after(host: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch(weights(host, "good"), folder=tmp_path, advance=lambda *s: seen.append(s))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(weights(host, "good"), folder=tmp_path) == path
    assert len(Handler.asked) == 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


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
    assert fetch(weights(host, "good"), folder=tmp_path).read_bytes() == CONTENT


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


def test_the_manifest_names_nets_once_and_with_their_hash() -> None:
    assert len({(w.net, w.source) for w in MANIFEST}) == len(MANIFEST)
    for entry in MANIFEST:
        assert find_net(entry.net).name == entry.net
        assert len(entry.hash_prefix) == 8
        assert int(entry.hash_prefix, 16) >= 0
        assert all(address.endswith(entry.file) for address in entry.addresses)
        assert 60 < entry.top1 < 90
        assert entry.preprocessing.size == find_net(entry.net).size


def test_find_published() -> None:
    assert find_published("resnest50").source == "authors"
    assert find_published("resnet50", "torchvision_v1").hash_prefix == "0676ba61"
    with pytest.raises(UserError, match="Known: imagenet1k, torchvision_v2, torchvision_v1"):
        find_published("resnet50", "mine")
    with pytest.raises(UserError, match="no weights of that name are published for sknet101"):
        find_published("sknet101")
