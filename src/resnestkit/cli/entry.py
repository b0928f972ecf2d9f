"""Where the command line starts: a verb is found, run, and its end becomes an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence

from resnestkit import __version__
from resnestkit.cli.parsing import first_line
from resnestkit.cli.predicting import predict
from resnestkit.cli.verbs import (
    benchmark,
    compare,
    data,
    doctor,
    evaluate,
    explain,
    export,
    models,
    quantise,
    serve,
    train,
    weights,
)
from resnestkit.errors import UserError, nearest

VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "doctor": doctor,
    "evaluate": evaluate,
    "predict": predict,
    "explain": explain,
    "export": export,
    "quantise": quantise,
    "benchmark": benchmark,
    "serve": serve,
    "compare": compare,
    "models": models,
    "weights": weights,
    "data": data,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and leave with its exit code; what a user can mend is said in one sentence."""
    # OpenMP's threads spin while they wait, and beside another program's that was seen to bring a
    # training nearly to a stop; spinning briefly was not. scripts/measure_sharing.py compares them.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be text in the terminal's encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except UserError as error:
        number = os.environ.get("RANK", "0")
        who = "resnestkit" if number == "0" else f"resnestkit (process {number})"
        print(f"{who}: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("resnestkit: stopped.", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our output left (as `head` does): that is no error, and nobody is told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if os.environ.get("RESNESTKIT_DEBUG"):
            raise
        print(
            f"resnestkit: this should not happen: {type(error).__name__}: {error}. Please report "
            "it, with what RESNESTKIT_DEBUG=1 prints.",
            file=sys.stderr,
        )
        code = 70
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a verb. Raises UserError for what the user can mend."""
    verb, *rest = arguments or ["--help"]
    if verb in {"-h", "--help", "help"}:
        print(_help())
        return 0
    if verb in {"-V", "--version", "version"}:
        print(f"resnestkit {__version__}")
        return 0
    if verb not in VERBS:
        raise UserError(
            f"There is no command {verb!r}.{nearest(verb, VERBS)} Known: {', '.join(VERBS)}."
        )
    return VERBS[verb](rest)


def _help() -> str:
    lines = [f"  {name:<10} {first_line(verb)}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            f"resnestkit {__version__}: ResNeSt and the family it grew from.",
            "",
            "usage: resnestkit COMMAND ...",
            "",
            *lines,
            "",
            "Help on one command: resnestkit COMMAND --help",
            "Try it now, with nothing to download: resnestkit train",
        ]
    )
