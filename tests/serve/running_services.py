"""A service on a port of its own, in a thread; a model that waits to be let; a plain client."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from resnestkit.data.decoding import load_content
from resnestkit.serve.app import create_app
from resnestkit.serve.models import ServedModel, Work
from resnestkit.serve.running import make_server, open_socket
from resnestkit.serve.schemas import Classified, Explained, Guess
from resnestkit.serve.settings import Limits
from resnestkit.serve.uploads import Upload


class PatientModel(ServedModel):
    """Says an image's mean brightness; computes nothing while its ``gate`` is shut."""

    kind = "classifier"
    answer = Classified

    def __init__(self, path: Path = Path("patient.net")) -> None:
        super().__init__(path, SimpleNamespace(net="patient", classes=("bright",)))
        self.gate, self.begun = threading.Event(), threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def prepare(self, upload: Upload) -> float:
        return float(np.asarray(load_content(upload.content, upload.name, 1)).mean()) / 255

    def compute(self, works: Sequence[Work]) -> list[Classified]:
        self.begun.set()
        assert self.gate.wait(60)
        self.batches.append(len(works))
        return [
            Classified(image=w.name, guesses=[Guess(label="bright", score=w.image)]) for w in works
        ]

    def explain(self, works: Sequence[Work]) -> list[Explained]:
        raise RuntimeError("a fault of the model's own")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass
class Running:
    """A service that runs."""

    port: int
    server: Any
    app: Any

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            said = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, said)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def send(self, *images: bytes, path: str = "/predict", **headers: str) -> Answer:
        """Images as a form."""
        kind, body = to_form(*images)
        return self.ask("POST", path, body, Content_Type=kind, **headers)

    def send_json(self, value: Any, path: str = "/predict") -> Answer:
        body = json.dumps(value).encode()
        return self.ask("POST", path, body, Content_Type="application/json")


@contextmanager
def serving(model: ServedModel, limits: Limits | None = None, token: str = "") -> Iterator[Running]:
    limits = limits or Limits()
    app = create_app(model, limits, token or None)
    with open_socket("127.0.0.1", 0) as listener:
        server = make_server(app, limits)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Running(listener.getsockname()[1], server, app)
        finally:
            server.should_exit = True
            thread.join()


def to_form(*images: bytes) -> tuple[str, bytes]:
    """The content type and body of a form."""
    mark = "a-line-that-no-image-holds"
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="images"; filename="{n}.png"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + image
        + b"\r\n"
        for n, image in enumerate(images)
    ]
    return f"multipart/form-data; boundary={mark}", b"".join(parts) + f"--{mark}--\r\n".encode()


def to_base64(*images: bytes) -> dict[str, list[str]]:
    return {"images": [base64.b64encode(image).decode() for image in images]}


def picture(level: int = 128, size: tuple[int, int] = (8, 8), form: str = "PNG") -> bytes:
    """An image of one grey."""
    written = io.BytesIO()
    Image.new("L", size, level).save(written, form)
    return written.getvalue()
