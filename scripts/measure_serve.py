"""How fast the service is under load, beside the predictor alone; and whether it keeps its memory.

The service runs in a process of its own and the clients in another, over loopback; each client
keeps a connection, sends a JPEG as a form, waits for the answer, and sends the next. The bare
predictor reads, prepares and computes the same files in batches of the service's size, in a process
of its own, with as many threads. Rounds of all take turns, so that what else the machine does falls
on all; a ratio is that of a round, and its median is told. Then more clients come to a service with
a short queue than it takes. Memory is what a fresh service holds (VmRSS) after 1,000 and after
10,000 requests.

It ends with the bars, and with 1 if one is not met: at 8 clients and more at least 85% of the bare
predictor's images a second; no answer but 200 under the limit, and none but 200 and 429 above it;
at most 5% more memory at the end.

Command: .venv/bin/python scripts/random_nets.py FOLDER          (random weights cost the same)
         .venv/bin/python scripts/measure_serve.py FOLDER/resnest50.xml FOLDER/images
             [--precision float32] [--clients 1 8 64] [--seconds 8] [--rounds 5] [--threads 2]
             [--batch-size 16] [--requests 1000 10000] [--queue 8] [--json FILE]        (Linux)
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
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from machine import describe_machine, print_machine
from service import Service, serving

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

MARK = "a-line-that-no-image-holds"
PACKAGES = ("resnestkit", "openvino", "onnxruntime", "torch", "uvicorn", "fastapi", "pillow")
LEAST_SHARE, BUSY = 0.85, 8
"""Of the bare predictor's images a second, from so many clients on."""
MOST_GROWTH = 0.05
CROWD = 64
"""Clients that come to a short queue."""

BARE = """
import sys, time
from itertools import cycle, islice
from resnestkit import Predictor
model, threads, batch, precision, *files = sys.argv[1:]
predictor, ring = Predictor(model, "cpu", int(threads), precision or None), cycle(files)
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


@dataclass(frozen=True)
class Bar:
    """What is asked for, what was seen, and whether that is enough."""

    asked: str
    seen: str
    met: bool


def main() -> None:
    """Measure, print a table, and judge."""
    asked = read_arguments()
    files = sorted(str(path) for path in asked.images.rglob("*.jp*g"))[: asked.files]
    if not files:
        raise SystemExit(f"no JPEGs in {asked.images}")
    machine = describe_machine(*PACKAGES)
    print_machine(machine)
    flags = ["--threads", str(asked.threads), "--batch-size", str(asked.batch_size)]
    flags += ["--precision", asked.precision] if asked.precision else []
    words = [str(asked.threads), str(asked.batch_size), asked.precision or "", *files]
    print(f"{asked.model}, {' '.join(flags)}, {len(files)} JPEGs", flush=True)
    load = start(LOAD, str(Path(__file__).parent))
    with serving(asked.model, *flags) as service:
        bare = start(BARE, asked.model, *words)
        ask(load, {"address": service.address, "files": files, "clients": 8, "seconds": 2.0})
        rates, rounds = take_turns(asked, bare, load)
    end(bare)
    show(rates, rounds)
    crowd = overflow(asked, flags, load)
    with serving(asked.model, *flags) as service:
        held = keep(service, load, asked.requests)
    end(load)
    bars = [*judge_rates(rates, rounds), judge_statuses(rounds), judge_crowd(crowd, asked.queue)]
    bars += judge_memory(held)
    for bar in bars:
        print(f"{'met' if bar.met else 'NOT MET':<12}{bar.asked}: {bar.seen}")
    if asked.json:
        plain = {str(c): [asdict(one) for one in several] for c, several in rounds.items()}
        said = {
            "model": asked.model,
            "flags": flags,
            "machine": machine,
            "bare": rates,
            "rounds": plain,
            "crowd": asdict(crowd),
            "memory": held,
            "bars": [asdict(bar) for bar in bars],
        }
        asked.json.write_text(json.dumps(said, indent=2))
    raise SystemExit(0 if all(bar.met for bar in bars) else 1)


def take_turns(
    asked: argparse.Namespace, bare: subprocess.Popen[str], load: subprocess.Popen[str]
) -> tuple[list[float], dict[int, list[Round]]]:
    """The bare predictor's images a second, and the rounds of so many clients each."""
    rates: list[float] = []
    rounds: dict[int, list[Round]] = {clients: [] for clients in asked.clients}
    for number in range(asked.rounds):
        rates.append(ask(bare, asked.seconds))
        for clients in asked.clients:
            order = {"clients": clients, "seconds": asked.seconds}
            rounds[clients].append(read_round(ask(load, order)))
        print(f"round {number + 1} of {asked.rounds}", file=sys.stderr, flush=True)
    return rates, rounds


def overflow(asked: argparse.Namespace, flags: Sequence[str], load: subprocess.Popen[str]) -> Round:
    """What a crowd hears of a service with a short queue."""
    with serving(asked.model, *flags, "--queue", str(asked.queue)) as service:
        order = {"address": service.address, "clients": CROWD, "seconds": asked.seconds}
        crowd = read_round(ask(load, order))
    print(f"crowd       {CROWD} clients at a queue of {asked.queue}: {crowd.statuses}", flush=True)
    return crowd


def judge_rates(rates: Sequence[float], rounds: dict[int, list[Round]]) -> list[Bar]:
    """The share of the bare predictor's rate, where there are enough clients."""
    shares = {n: statistics.median(shares_of(rates, several)) for n, several in rounds.items()}
    return [
        Bar(f"{LEAST_SHARE:.0%} of bare, {n} clients", f"{share:.1%}", share >= LEAST_SHARE)
        for n, share in shares.items()
        if n >= BUSY
    ]


def judge_statuses(rounds: dict[int, list[Round]]) -> Bar:
    """Under the limit there is no error."""
    seen = Counter[int]()
    for one in chain.from_iterable(rounds.values()):
        seen.update(one.statuses)
    return Bar("only 200 under the limit", str(dict(seen)), set(seen) == {200})


def judge_crowd(crowd: Round, queue: int) -> Bar:
    """Who is too many is told so, and nothing else happens."""
    asked = f"only 200 and 429, and both, {crowd.clients} clients at a queue of {queue}"
    return Bar(asked, str(crowd.statuses), set(crowd.statuses) == {200, 429})


def judge_memory(held: dict[int, float]) -> list[Bar]:
    """How much more a service holds after the last request than after the first of the counts."""
    if len(held) < 2:
        return []
    (first, before), (last, after) = min(held.items()), max(held.items())
    growth = after / before - 1
    asked = f"memory within {MOST_GROWTH:.0%}, {last} requests against {first}"
    return [Bar(asked, f"{growth:+.1%}", abs(growth) <= MOST_GROWTH)]


def read_arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("images", type=Path, help="a folder of JPEGs")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "auto"))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--files", type=int, default=64, help="how many of the JPEGs")
    parser.add_argument("--requests", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--queue", type=int, default=8, help="places of the service for a crowd")
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


def end(process: subprocess.Popen[str]) -> None:
    """Let such a process go: there is nothing more to ask."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait(60)


def read_round(said: dict[str, Any]) -> Round:
    """What the clients' process said."""
    statuses = {int(code): number for code, number in said["statuses"].items()}
    return Round(**{**said, "statuses": statuses})


def require_ok(found: Round) -> Round:
    """Raises SystemExit if an answer was not 200."""
    if set(found.statuses) != {200}:
        raise SystemExit(f"{found.clients} clients were answered {found.statuses}")
    return found


def shares_of(rates: Sequence[float], rounds: Sequence[Round]) -> list[float]:
    """Each round's rate, of the bare predictor's in the same round."""
    return [one.rate / rate for one, rate in zip(rounds, rates, strict=True)]


def show(rates: Sequence[float], rounds: dict[int, list[Round]]) -> None:
    """A table: rates, shares of the bare predictor's, times."""
    print(f"{'':<12}{'images/s':>10}{'of bare':>9}{'p50 ms':>9}{'p99 ms':>9}")
    print(f"{'bare':<12}{statistics.median(rates):>10.1f}{1:>9.0%}")
    for clients, several in rounds.items():
        print(
            f"{clients:>3} clients {statistics.median(one.rate for one in several):>10.1f}"
            f"{statistics.median(shares_of(rates, several)):>9.0%}"
            f"{statistics.median(one.median_ms for one in several):>9.1f}"
            f"{statistics.median(one.slow_ms for one in several):>9.1f}",
            flush=True,
        )


def keep(
    service: Service, load: subprocess.Popen[str], requests: Sequence[int]
) -> dict[int, float]:
    """Memory of a fresh service after so many requests by eight clients, all in all."""
    held, done = {}, 0
    for wanted in requests:
        order = {"address": service.address, "clients": 8, "requests": wanted - done}
        require_ok(read_round(ask(load, order)))
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
