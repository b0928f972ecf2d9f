"""Does anything that a client can send end in a 500? Mutated images, and what schemathesis makes.

First images of every kind that is read, cut off, with bytes changed, joined, and with headers that
claim other sizes, go to /predict and /explain, several at a time; then schemathesis goes by the
service's own OpenAPI description. Requests and statuses are those that the service counts itself;
the script ends with 1 if there is a 500, if schemathesis finds an answer that is not described, or
if the service does not answer a whole image as it did before.

Command: .venv/bin/python scripts/fuzz_serve.py MODEL [--mutated 5000] [--examples 300] [--seed 0]
             [--schemathesis schemathesis]            (its program: `pip install schemathesis`)
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
from PIL import Image
from service import serving

MARK = "a-line-that-no-image-holds"
Image.init()
READ = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM")
FORMATS = tuple(form for form in (*READ, "ICO", "TGA", "PCX") if form in Image.SAVE)
"""All that the service reads, as far as this Pillow writes it, and some that it refuses."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
"""Not that whatever fits the description is accepted: bytes that are made up are no image."""
AT_ONCE = 4
Random = np.random.Generator


def main() -> None:
    """Send, count, and say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("--mutated", type=int, default=5000)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schemathesis", default="schemathesis")
    asked = parser.parse_args()
    with serving(asked.model, "--threads", "1") as service:
        whole = make_seeds()[0]
        before = send(service.address, "/predict", whole)
        parts = [range(n, asked.mutated, AT_ONCE) for n in range(AT_ONCE)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            told = sum(
                pool.map(lambda part: send_mutated(service.address, part, asked.seed), parts),
                Counter[int](),
            )
        print(f"mutated     {told.total()} images: {dict(sorted(told.items()))}", flush=True)
        code = run_schemathesis(asked, service.address) if asked.examples else 0
        same = send(service.address, "/predict", whole) == before
        statuses = count_statuses(service.address)
    faults = statuses[500]
    print(f"requests    {statuses.total()}: {dict(sorted(statuses.items()))}")
    print(f"faults      {faults}")
    print(f"afterwards  {'as before' if same else 'ANOTHER ANSWER'}")
    raise SystemExit(1 if faults or code or not same else 0)


def make_seeds() -> list[bytes]:
    """Small whole images of all kinds; the first is a JPEG."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels), Image.fromarray(pixels[..., 0])]
    deep = Image.fromarray(random.integers(0, 60000, (40, 56), dtype=np.uint16))
    seeds = []
    for form in FORMATS:
        for image in (*images, deep) if form in {"PNG", "TIFF"} else images:
            written = io.BytesIO()
            image.save(written, form)
            seeds.append(written.getvalue())
    return seeds


def send_mutated(address: str, numbers: range, seed: int) -> Counter[int]:
    """The statuses of so many mutated images."""
    seeds, told = make_seeds(), Counter[int]()
    changes: tuple[Callable[[Random, bytearray, list[bytes]], bytearray], ...]
    changes = (change_bytes, change_start, cut, repeat_part, join)
    for number in numbers:
        random = np.random.default_rng((seed, number))
        image = bytearray(seeds[random.integers(len(seeds))])
        for _ in range(random.integers(1, 4)):
            image = changes[random.integers(len(changes))](random, image, seeds)
        path = "/explain" if number % 10 == 0 else f"/predict?top={random.integers(1, 9)}"
        told[send(address, path, bytes(image), as_json=number % 3 == 0)[0]] += 1
    return told


def change_bytes(random: Random, image: bytearray, _seeds: list[bytes]) -> bytearray:
    """A few bytes anywhere."""
    for place in random.integers(max(1, len(image)), size=random.integers(1, 12)):
        image[place : place + 1] = random.bytes(1)
    return image


def change_start(random: Random, image: bytearray, _seeds: list[bytes]) -> bytearray:
    """A few bytes where kinds and sizes stand, often to the largest."""
    for place in random.integers(min(64, max(1, len(image))), size=random.integers(1, 5)):
        image[place : place + 1] = random.choice([b"\xff", b"\0", b"\x7f", random.bytes(1)])
    return image


def cut(random: Random, image: bytearray, _seeds: list[bytes]) -> bytearray:
    """The end is missing."""
    return image[: random.integers(len(image) + 1)]


def repeat_part(random: Random, image: bytearray, _seeds: list[bytes]) -> bytearray:
    """A part comes twice."""
    start, stop = sorted(random.integers(len(image) + 1, size=2))
    return image[:stop] + image[start:]


def join(random: Random, image: bytearray, seeds: list[bytes]) -> bytearray:
    """Another image's end."""
    other = seeds[random.integers(len(seeds))]
    half = random.integers(len(image) + 1)
    return image[:half] + other[random.integers(len(other)) :]


def send(address: str, path: str, image: bytes, *, as_json: bool = False) -> tuple[int, bytes]:
    """One image; its status and its answer. Raises SystemExit if there is none."""
    if as_json:
        kind = "application/json"
        body = json.dumps({"images": [base64.b64encode(image).decode()]}).encode()
    else:
        kind = f"multipart/form-data; boundary={MARK}"
        head = 'Content-Disposition: form-data; name="images"; filename="one.jpg"'
        body = f"--{MARK}\r\n{head}\r\n\r\n".encode() + image + f"\r\n--{MARK}--\r\n".encode()
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=300)
    try:
        connection.request("POST", path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise SystemExit(f"no answer to {len(image)} bytes at {path}: {error}") from error
    finally:
        connection.close()


def run_schemathesis(asked: argparse.Namespace, address: str) -> int:
    """Let it go by the description; its exit code."""
    words = ["run", f"{address}openapi.json", "--checks", ",".join(CHECKS), "--workers", "1"]
    words += ["--max-examples", str(asked.examples), "--seed", str(asked.seed), "--no-color"]
    words += ["--continue-on-failure"]
    return subprocess.run([asked.schemathesis, *words], check=False).returncode


def count_statuses(address: str) -> Counter[int]:
    """What the service has answered so far."""
    with urlopen(f"{address}metrics") as answer:
        text = answer.read().decode()
    counted: Counter[int] = Counter()
    for status, number in re.findall(r'requests_total\{.*status="(\d+)"\} ([\d.e+]+)', text):
        counted[int(status)] += int(float(number))
    return counted


if __name__ == "__main__":
    main()
