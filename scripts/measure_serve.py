"""How fast the service is under load, beside the predictor alone; and whether it keeps its memory.

The service runs in a process of its own and the clients in another, over loopback; each client
keeps a connection, sends a JPEG as a form, waits for the answer, and sends the next. The bare
predictor reads, prepares and computes the same files in batches of the service's size, in a process
of its own, with as many threads. Rounds of all take turns, so that what else the machine does falls
on all; a ratio is that of a round, and its median is told. Every answer must be 200. Memory is what
the service holds (VmRSS) after 1,000 and after 10,000 requests.

Command: .venv/bin/python scripts/measure_serve.py MODEL IMAGES [--clients 1 8 64] [--seconds 8]
             [--rounds 5] [--threads 2] [--batch-size 16] [--requests 1000 10000] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from service import Service, serving

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

MARK = "a-line-that-no-image-holds"

BARE = """
import sys, time
from itertools import cycle, islice
from resnestkit import Predictor
model, threads, batch, *files = sys.argv[1:]
predictor, ring = Predictor(model, "cpu", int(threads)), cycle(files)
def go(seconds):
    end, done = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        done += len(list(predictor.iterate(islice(ring, int(batch)), batch_size=int(batch))))
    return done
go(1)
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    done = go(float(line))
    print(done / (time.perf_counter() - start), flush=True)
"""
LOAD = "import sys; sys.path.insert(0, sys.argv[1]); import measure_serve; measure_serve.load()"


@dataclass(frozen=True)
class Round:
    """What some clients saw in a few seconds."""

    clients: int
    rate: float
    """Answers a second."""
    median_ms: float
    slow_ms: float
    """Of a hundred answers, the second slowest took so long."""
    statuses: dict[int, int]


def main() -> None:
    """Measure, and print a table."""
    asked = read_arguments()
    files = sorted(str(path) for path in asked.images.rglob("*.jp*g"))[: asked.files]
    flags = ("--threads", str(asked.threads), "--batch-size", str(asked.batch_size))
    bare_words = [asked.model, str(asked.threads), str(asked.batch_size), *files]
    with serving(asked.model, *flags) as service:
        bare, load = start(BARE, *bare_words), start(LOAD, str(Path(__file__).parent))
        ask(load, {"address": service.address, "files": files, "clients": 8, "seconds": 2.0})
        rates: list[float] = []
        rounds: dict[int, list[Round]] = {clients: [] for clients in asked.clients}
        for number in range(asked.rounds):
            rates.append(ask(bare, asked.seconds))
            for clients in asked.clients:
                order = {"clients": clients, "seconds": asked.seconds}
                rounds[clients].append(read_round(ask(load, order)))
            print(f"round {number + 1} of {asked.rounds}", file=sys.stderr, flush=True)
        show(rates, rounds)
        held = keep(service, load, asked.requests)
    if asked.json:
        plain = {str(c): [asdict(one) for one in several] for c, several in rounds.items()}
        asked.json.write_text(
            json.dumps({"bare": rates, "rounds": plain, "memory": held}, indent=2)
        )


def read_arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("images", type=Path, help="a folder of JPEGs")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--files", type=int, default=64, help="how many of the JPEGs")
    parser.add_argument("--requests", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def start(code: str, *words: str) -> subprocess.Popen[str]:
    """A process that says that it is ready."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=pipe, stdout=pipe, text=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit(1)
    return process


def ask(process: subprocess.Popen[str], order: Any) -> Any:
    """One answer of such a process."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps(order), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


def read_round(said: dict[str, Any]) -> Round:
    """Of what the clients' process said. Raises SystemExit if an answer was not 200."""
    statuses = {int(code): number for code, number in said["statuses"].items()}
    if set(statuses) != {200}:
        raise SystemExit(f"{said['clients']} clients were answered {statuses}")
    return Round(**{**said, "statuses": statuses})


def show(rates: Sequence[float], rounds: dict[int, list[Round]]) -> None:
    """A table: rates, shares of the bare predictor's, times."""
    print(f"{'':<12}{'images/s':>10}{'of bare':>9}{'p50 ms':>9}{'p99 ms':>9}")
    print(f"{'bare':<12}{statistics.median(rates):>10.1f}{1:>9.0%}")
    for clients, several in rounds.items():
        shares = [one.rate / rate for one, rate in zip(several, rates, strict=True)]
        print(
            f"{clients:>3} clients {statistics.median(one.rate for one in several):>10.1f}"
            f"{statistics.median(shares):>9.0%}"
            f"{statistics.median(one.median_ms for one in several):>9.1f}"
            f"{statistics.median(one.slow_ms for one in several):>9.1f}"
        )


def keep(
    service: Service, load: subprocess.Popen[str], requests: Sequence[int]
) -> dict[int, float]:
    """Memory after so many requests by eight clients, all in all."""
    held, done = {}, 0
    for wanted in requests:
        said = ask(load, {"clients": 8, "requests": wanted - done})
        read_round(said)
        done = wanted
        held[wanted] = service.memory
        print(f"memory      {service.memory:.1f} MB after {wanted} requests", flush=True)
    return held


# --- the clients' process ---


def load() -> None:
    """Be the clients: orders come as lines of JSON, what was seen goes out."""
    print("ready", flush=True)
    known: dict[str, Any] = {}
    for line in sys.stdin:
        known = {**known, "seconds": None, "requests": None, **json.loads(line)}
        print(json.dumps(asdict(asyncio.run(visit(known)))), flush=True)


async def visit(order: dict[str, Any]) -> Round:
    """So many clients at once, for some seconds or so many requests."""
    place = urlsplit(order["address"])
    bodies = [form_of(Path(path), place.netloc) for path in order["files"]]
    seconds, requests = order["seconds"], order["requests"]
    end = time.perf_counter() + seconds if seconds else float("inf")
    numbers = iter(range(requests)) if requests else count()
    seen: list[tuple[int, float]] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        for number in numbers:
            before = time.perf_counter()
            if before >= end:
                break
            writer.write(bodies[number % len(bodies)])
            status = await read_status(reader)
            seen.append((status, 1000 * (time.perf_counter() - before)))
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(order["clients"])))
    spent = time.perf_counter() - start
    times = sorted(ms for _, ms in seen)
    slow = times[min(len(times) - 1, int(0.99 * len(times)))]
    statuses = dict(Counter(status for status, _ in seen))
    rate = len(seen) / spent
    return Round(order["clients"], rate, statistics.median(times), slow, statuses)


async def read_status(reader: asyncio.StreamReader) -> int:
    """The status of an answer, which is read to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
    await reader.readexactly(length)
    return int(lines[0].split()[1])


def form_of(path: Path, host: str) -> bytes:
    """A request with one file."""
    body = (
        f'--{MARK}\r\nContent-Disposition: form-data; name="images"; filename="{path.name}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode()
    body += path.read_bytes() + f"\r\n--{MARK}--\r\n".encode()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={MARK}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    main()
