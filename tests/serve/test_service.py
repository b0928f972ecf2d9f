"""The service as its clients meet it: routes, limits, floods, stalls, and its end."""

from __future__ import annotations

import json
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from running_services import PatientModel, Running, picture, serving, to_base64, to_form

from resnestkit.data.decoding import load_content
from resnestkit.errors import UserError
from resnestkit.serve.batching import Batcher, Task
from resnestkit.serve.problems import Problem
from resnestkit.serve.running import TOKEN, open_socket, read_token
from resnestkit.serve.schemas import ImagesInJson
from resnestkit.serve.settings import Limits
from resnestkit.serve.uploads import FORMATS, Upload, check_image, decoding


@pytest.fixture(scope="module")
def model() -> PatientModel:
    return PatientModel()


@pytest.fixture(scope="module")
def service(model: PatientModel) -> Iterator[Running]:
    with serving(model, Limits(max_megabytes=0.5, max_megapixels=0.1, images=8)) as running:
        yield running


def forged_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


# --- routes ---


def test_forms_and_json_give_a_result_for_each_image_in_order(service: Running) -> None:
    images = [picture(level) for level in (0, 51, 255)]
    for answer in (service.send(*images), service.send_json(to_base64(*images))):
        assert answer.status == 200, answer.content
        scores = [one["guesses"][0]["score"] for one in answer.json["results"]]
        assert scores == pytest.approx([0, 0.2, 1])
    assert [one["image"] for one in service.send(*images).json["results"]] == [
        "0.png",
        "1.png",
        "2.png",
    ]


def test_the_state_the_card_and_the_counters(service: Running) -> None:
    assert service.get("/health").json == {"status": "ok", "images": 0}
    assert service.get("/ready").json == {"status": "ok", "images": 0}
    card = service.get("/model").json
    assert (card["net"], card["classes"], card["changed"]) == ("patient", ["bright"], False)
    assert card["limits"]["images"] == 8
    service.send(picture())
    service.get("/somewhere/else")
    counters = service.get("/metrics").content.decode()
    assert 'resnestkit_requests_total{route="/predict",status="200"}' in counters
    assert 'resnestkit_requests_total{route="other",status="404"}' in counters
    assert "resnestkit_held_bytes 0.0" in counters


@pytest.mark.parametrize("path", ["/", "/style.css", "/script.js"], ids=["page", "style", "script"])
def test_the_page_loads_nothing_from_elsewhere(service: Running, path: str) -> None:
    answer = service.get(path)
    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    text = answer.content.decode()
    assert "http://" not in text
    assert "https://" not in text


def test_openapi_names_every_route_and_every_refusal(service: Running) -> None:
    described = service.get("/openapi.json").json
    assert set(described["paths"]) == {
        "/health",
        "/ready",
        "/predict",
        "/explain",
        "/model",
        "/metrics",
    }
    asked = described["paths"]["/predict"]["post"]
    assert set(asked["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert set(asked["responses"]) == {"200", "400", "408", "413", "415", "422", "429", "503"}
    refused = asked["responses"]["429"]["content"]["application/json"]["schema"]
    assert refused == {"$ref": "#/components/schemas/Refusal"}
    schemas = described["components"]["schemas"]
    names = [part["$ref"].rsplit("/", 1)[1] for part in _references(described)]
    assert set(names) <= set(schemas)


def _references(value: object) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def test_a_fault_of_the_models_own_is_told_and_the_service_goes_on(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    answer = service.send(picture(), path="/explain")
    assert answer.status == 500
    assert "the service's log says more" in answer.error
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert service.send(picture()).status == 200


# --- bad input ---


@pytest.mark.parametrize(
    ("image", "status", "words"),
    [
        (b"", 422, "the file is empty"),
        (b"Dear Sir or Madam,\n" * 40, 415, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "not an image"),
        (picture(size=(300, 300))[:60], 422, "damaged or truncated"),
        (forged_png(7100, 7100), 413, "7100 x 7100 pixels are more than 0.1 megapixels"),
        (forged_png(200_000, 200_000), 413, "200000 x 200000 pixels"),
        (np.random.default_rng(0).bytes(600_000), 413, "larger than 0.5 MB"),
    ],
    ids=["empty", "text", "postscript", "truncated", "large", "bomb", "heavy"],
)
def test_what_is_no_image_is_told_why(
    service: Running, image: bytes, status: int, words: str
) -> None:
    answer = service.send(image)
    assert (answer.status, words in answer.error) == (status, True), answer.content
    answer = service.send_json(to_base64(image))
    assert (answer.status, words in answer.error) == (status, True), answer.content


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        ("text/plain", b"hello", 415, "not as text/plain"),
        ("application/json", b"{", 400, "not JSON"),
        ("application/json", b'{"images": 3}', 422, "images: input should be a valid array"),
        ("application/json", b'{"images": []}', 422, "images: list should have at least 1"),
        ("application/json", b'{"images": ["%%%"]}', 422, "not base64"),
        ("application/json", b'{"images": ["aGk="], "x": 1}', 422, "x: extra inputs"),
        ("multipart/form-data", b"hello", 400, "boundary"),
        ("multipart/form-data; boundary=x", b"hello", 400, "Invalid multipart data"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 422, "no image"),
    ],
    ids=["text", "broken", "number", "none", "letters", "more", "no-mark", "no-part", "nothing"],
)
def test_a_body_that_is_no_request_is_told_why(
    service: Running, kind: str, body: bytes, status: int, words: str
) -> None:
    answer = service.ask("POST", "/predict", body, Content_Type=kind)
    assert (answer.status, words in answer.error) == (status, True), answer.content


def test_a_list_of_many_wrong_things_is_not_gone_through(service: Running) -> None:
    answer = service.send_json({"images": [1] * 100_000})
    assert (answer.status, answer.error) == (413, "A request may hold 8 images at most.")
    with pytest.raises(ValidationError) as raised:
        ImagesInJson.model_validate({"images": [1] * 8})
    assert raised.value.error_count() == 1


@pytest.mark.parametrize("charset", ["undefined", "punycode"])
def test_a_charset_that_is_none_is_told(service: Running, charset: str) -> None:
    kind, body = to_form(picture())
    answer = service.ask("POST", "/predict", body, Content_Type=f"{kind}; charset={charset}")
    assert (answer.status, "in the charset" in answer.error) == (400, True), answer.content


def test_a_file_of_two_kinds_is_decoded_as_the_one_that_was_looked_at() -> None:
    """TIFF's first bytes say where its table is, here what Pillow takes for a FLI."""
    table = 0x1AF11
    file = bytearray(struct.pack("<4sI4H", b"II*\0", table, 900, 900, 8, 0).ljust(table, b"\0"))
    struct.pack_into("<IHH8xIH", file, 128, 4000, 0xF1FA, 1, 100, 13)
    values = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64}
    rows = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()]
    content = bytes(file) + struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4)
    assert load_content(content, "as it comes", 1).size == (900, 900)
    upload = Upload("both", content, most_pixels=100)
    check_image(upload, Limits(max_megapixels=0.0001))
    with decoding(upload):
        assert load_content(content, "both", 1).size == (8, 8)
    with pytest.raises(Problem, match="too many pixels"), decoding(replace(upload, most_pixels=63)):
        load_content(content, "both", 1)


def test_values_that_do_not_fit(service: Running) -> None:
    for path in ("/predict?top=0", "/predict?top=many", f"/explain?target={'x' * 201}"):
        answer = service.send(picture(), path=path)
        assert answer.status == 422
        assert "does not fit: query." in answer.error
    assert service.send(*[picture()] * 9).status == 413
    assert service.send_json(to_base64(*[picture()] * 9)).status == 413
    assert service.send(picture(), picture(), path="/explain").status == 422
    assert service.get("/predict").status == 405
    assert service.get("/nothing").error == "There is nothing at /nothing."


def test_mutated_images_never_end_in_a_fault(service: Running) -> None:
    random = np.random.default_rng(0)
    seeds = [picture(90, (20, 17), form) for form in FORMATS]
    assert [service.send(seed).status for seed in seeds] == [200] * len(FORMATS)
    told: Counter[int] = Counter()
    for _ in range(300):
        image = bytearray(seeds[random.integers(len(seeds))])
        for place in random.integers(len(image), size=random.integers(1, 9)):
            image[place] = random.integers(256)
        end = random.choice([len(image), random.integers(8, len(image) + 1)])
        told[service.send(bytes(image[:end])).status] += 1
    assert set(told) <= {200, 413, 415, 422}
    assert len(told) >= 3


def test_bytes_that_are_no_http(service: Running) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(b"\x16\x03\x01 hello?\r\n\r\n")
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400")
    head, body = answer.split(b"\r\n\r\n")
    assert json.loads(body)["error"] == "This is no HTTP request."
    assert b"X-Content-Type-Options: nosniff" in head.split(b"\r\n")


# --- too much at once ---


def test_a_full_queue_is_told_and_empties(model: PatientModel) -> None:
    model = PatientModel()
    model.gate.clear()
    with serving(model, Limits(queue=4, batch_size=2)) as service, ThreadPoolExecutor(4) as pool:
        first = pool.submit(service.send, picture())
        assert model.begun.wait(60)
        others = [pool.submit(service.send, picture()) for _ in range(3)]
        while service.get("/health").json["images"] < 4:
            pass
        answer = service.send(picture())
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert answer.error == "The queue of 4 images is full; try again in a second."
        model.gate.set()
        assert [one.result().status for one in (first, *others)] == [200] * 4
        assert service.send(*[picture()] * 4).status == 200
        assert service.send(*[picture()] * 5).status == 413
        assert service.get("/health").json["images"] == 0
    assert max(model.batches) == 2


def test_a_thousand_at_once_are_answered_or_told_to_come_back() -> None:
    kind, body = to_form(picture())
    request = (
        f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    with serving(PatientModel(), Limits(queue=100)) as service:
        clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(1000)]
        for client in clients:
            client.sendall(request)
        told: Counter[bytes] = Counter()
        for client in clients:
            with client, client.makefile("rb") as answer:
                told[answer.read()[9:12]] += 1
        assert set(told) <= {b"200", b"429"}
        assert told.total() == 1000
        assert told[b"200"] >= 100
        assert service.send(picture()).status == 200


def test_uploads_are_held_within_a_bound() -> None:
    limits = Limits(max_megabytes=1, held_megabytes=1)
    kind, body = to_form(b"x" * 900_000)
    with serving(PatientModel(), limits) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-50])
            while "resnestkit_held_bytes 1.8" not in service.get("/metrics").content.decode():
                pass
            answer = service.send(b"x" * 900_000)
            assert (answer.status, "Too many uploads" in answer.error) == (429, True)
        while "resnestkit_held_bytes 0" not in service.get("/metrics").content.decode():
            pass
        assert service.send(picture()).status == 200


def test_connections_are_held_within_a_bound() -> None:
    with serving(PatientModel(), Limits(connections=2)) as service:
        kept = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(2)]
        for client in kept:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in client.recv(1000)
        answer = service.get("/health")
        assert (answer.status, "too many connections" in answer.error) == (503, True)
        for client in kept:
            client.close()


# --- its end, its token, its file ---


def test_the_end_loses_nothing_that_was_taken() -> None:
    model = PatientModel()
    model.gate.clear()
    with ThreadPoolExecutor(5) as pool:
        with serving(model, Limits(batch_size=1)) as service:
            asked = [pool.submit(service.send, picture(n)) for n in range(5)]
            while service.get("/health").json["images"] < 5:
                pass
            service.server.should_exit = True
            threading.Timer(0.3, model.gate.set).start()
        answers = [one.result() for one in asked]
    assert [one.status for one in answers] == [200] * 5
    assert model.batches == [1] * 5


def test_a_batcher_finishes_what_it_has_and_takes_no_more() -> None:
    gate = threading.Event()
    batcher = Batcher()
    task = Task(lambda items: [2 * item for item in items if gate.wait(60)], 3)
    futures = [batcher.submit(task, n) for n in range(8)]
    assert futures[7].cancel()
    gate.set()
    batcher.close()
    assert [one.result() for one in futures[:7]] == [2 * n for n in range(7)]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(task, 1)


def test_the_token_is_asked_for_where_there_is_something_to_see() -> None:
    with serving(PatientModel(), token="open-sesame") as service:
        assert service.get("/health").status == service.get("/").status == 200
        for path in ("/model", "/metrics"):
            answer = service.get(path)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert service.get(path, Authorization="Bearer open-sesame").status == 200
        assert service.send(picture()).error.startswith("The token is needed")
        wrong = service.send(picture(), Authorization="Bearer open sesam\u00e9")
        assert (wrong.status, wrong.error) == (401, "The token is wrong.")
        assert service.send(picture(), Authorization="Bearer open-sesame").status == 200
        responses = service.get("/openapi.json").json["paths"]["/predict"]["post"]["responses"]
        assert "401" in responses


def test_where_the_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN, "of-the-environment")
    assert read_token(None) == "of-the-environment"
    monkeypatch.setenv(TOKEN, "")
    with pytest.raises(UserError, match="is set, but empty"):
        read_token(None)
    (tmp_path / "token").write_text("of-the-file\n")
    assert read_token(tmp_path / "token") == "of-the-file"
    (tmp_path / "token").write_text(" \n")
    with pytest.raises(UserError, match="holds no token"):
        read_token(tmp_path / "token")
    with pytest.raises(UserError, match="Cannot read the token"):
        read_token(tmp_path / "nothing")


def test_a_replaced_file_is_said_and_what_was_read_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"one")
    with serving(PatientModel(path)) as service:
        assert service.get("/model").json["changed"] is False
        path.write_bytes(b"another")
        assert service.get("/model").json["changed"] is True
        path.unlink()
        assert service.get("/model").json["changed"] is True
        assert service.send(picture()).status == 200


def test_an_address_that_cannot_be_had() -> None:
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Cannot listen at 127.0.0.1, port {port}: .*in use"):
            open_socket("127.0.0.1", port)
    with pytest.raises(UserError, match="--port is 70000"):
        open_socket("127.0.0.1", 70000)


def test_limits_that_have_no_sense() -> None:
    for name in ("queue", "batch_size", "timeout"):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is 0"):
            Limits(**{name: 0})
    with pytest.raises(UserError, match="178 is the most"):
        Limits(max_megapixels=500)
