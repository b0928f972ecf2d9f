"""What a person sees while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

SECONDS_BETWEEN_LINES = 30.0


def format_seconds(seconds: float) -> str:
    """1:05, or 2:03:04."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def format_rate(rate: float) -> str:
    """12 or 1,234 a second, and 3.4 where a whole number would say little."""
    return f"{rate:,.0f}" if rate >= 9.95 else f"{rate:.1f}"


class PatientConsole(Console):
    """A console that falls silent, rather than ends the program, when its reader leaves."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on; the training goes on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Reporter:
    """Prints how a long piece of work goes on. ``quiet`` prints nothing."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or PatientConsole(quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        """One line, kept on the screen."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def track(self, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A bar of ``total`` units; call the result with the units done and a text beside it."""
        with (
            self._bar(title, total)
            if self.console.is_terminal
            else self._lines(title, total) as advance
        ):
            yield advance

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total, text="")
            yield lambda done, text: progress.update(task, advance=done, text=text)

    @contextmanager
    def _lines(self, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        finished, printed = 0, time.monotonic()

        def advance(done: int, text: str) -> None:
            nonlocal finished, printed
            finished += done
            if time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                self.say(f"{title}  {finished}/{total}  {text}".rstrip())

        yield advance


@contextmanager
def track_bytes(reporter: Reporter, title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for a download; call the result with the bytes there and the bytes there will be."""
    shown = 0
    with reporter.track(title, 100) as advance:

        def show(there: int, total: int) -> None:
            nonlocal shown
            percent = 100 * there // total if total else 0
            advance(percent - shown, f"{there / 1e6:.0f} MB")
            shown = percent

        yield show


def error_reporter() -> Reporter:
    """A reporter on standard error, for work inside a call that is asked for a value."""
    return Reporter(PatientConsole(stderr=True, highlight=False))
