"""What scripts about the service share: a process of its own that serves, and what it holds."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Service:
    """A process that serves at an address, such as http://127.0.0.1:40123/."""

    address: str
    process: subprocess.Popen[str]

    @property
    def memory(self) -> float:
        """Megabytes that it holds now (VmRSS, Linux)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@contextmanager
def serving(model: str | Path, *flags: str) -> Iterator[Service]:
    """`resnestkit serve MODEL` at a free port; stopped by SIGTERM, which must end it without fault.

    Raises RuntimeError if it does not start, or ends otherwise.
    """
    words = [sys.executable, "-m", "resnestkit", "serve", str(model), "--port", "0", *flags]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        if not lines[1]:
            raise RuntimeError("the service did not start")
        yield Service(lines[1].split()[1], process)
        process.send_signal(signal.SIGTERM)
        if code := process.wait(60):
            raise RuntimeError(f"the service ended with {code}")
    finally:
        process.kill()
        process.wait()
