"""Clients that stall, leave or wait too long: each is given up, and takes nothing with it."""

from __future__ import annotations

import select
import socket

import pytest
from running_services import PatientModel, picture, serving

from resnestkit.serve.settings import Limits


def test_slow_headers_and_slow_uploads_are_given_up() -> None:
    with (
        serving(PatientModel(), Limits(header_seconds=0.2)) as service,
        socket.create_connection(("127.0.0.1", service.port)) as client,
    ):
        client.sendall(b"POST /pre")
        assert b"408" in client.makefile("rb").readline()
    with serving(PatientModel(), Limits(timeout=0.3)) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 500\r\n\r\n{"
            )
            answer = client.makefile("rb").read()
            assert b"408" in answer[:20]
            assert b"The upload took more than 0.3 seconds." in answer
        assert service.get("/health").json["images"] == 0


@pytest.mark.parametrize(
    ("limits", "start", "words"),
    [
        (
            Limits(header_seconds=0.4),
            b"POST /predict HTTP/1.1\r\nHost: x\r\nX: ",
            "no request within",
        ),
        (
            Limits(timeout=0.4),
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 5000\r\n\r\n",
            "upload took more than 0.4",
        ),
    ],
    ids=["headers", "body"],
)
def test_a_client_that_sends_byte_by_byte_is_given_up(
    limits: Limits, start: bytes, words: str
) -> None:
    """Bytes that go on coming buy no time."""
    with (
        serving(PatientModel(), limits) as service,
        socket.create_connection(("127.0.0.1", service.port)) as client,
    ):
        client.sendall(start)
        sent = 0
        while not select.select([client], [], [], 0.05)[0]:
            client.sendall(b" ")
            sent += 1
        answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 408")
        assert words in answer.decode()
        assert 0 < sent < 4000
        assert service.get("/health").json["images"] == 0


def test_a_client_that_leaves_halfway_is_forgotten() -> None:
    with serving(PatientModel()) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 500\r\n\r\n{"
            )
            while service.get("/health").json["images"] == 0:
                pass
        while service.get("/health").json["images"]:
            pass
        assert service.send(picture()).status == 200


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    model = PatientModel()
    model.gate.clear()
    with serving(model, Limits(timeout=0.3)) as service:
        answers = [service.send(picture()) for _ in range(2)]
        assert [(one.status, "no answer within 0.3" in one.error) for one in answers] == [
            (503, True)
        ] * 2
        model.gate.set()
        assert service.send(picture()).status == 200
    assert sum(model.batches) == 2  # who was given up in the queue was not computed


def test_no_piece_of_an_answer_waits_until_the_client_has_acknowledged_another() -> None:
    with (
        serving(PatientModel()) as service,
        socket.create_connection(("127.0.0.1", service.port)) as client,
    ):
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        (connection,) = service.server.server_state.connections
        taken = connection.transport.get_extra_info("socket")
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
