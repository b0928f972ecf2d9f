"""Kill a training again and again, at random moments, and see that it ends in the same bits.

Usage: python scripts/kill.py [KILLS [FORM]]    (float32-contiguous, bfloat16-channels_last)

A small ResNeSt learns digits on a CPU, with everything that draws random numbers, and writes its
state after every step. Each round lets it run for a random time, most of them long enough to train,
and ends it by SIGKILL; the next round goes on. When the kills are spent it runs to its end, and its
weights are compared with those of a run that nobody disturbed.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from resnestkit import Recipe, load_model, resume, train
from resnestkit.progress import Reporter
from resnestkit.training.recipe import Precision

QUIET = Reporter(quiet=True)


def recipe(precision: Precision, *, channels_last: bool) -> Recipe:
    """Long enough to be killed often."""
    return Recipe(
        model="resnest23_small",
        epochs=8,
        batch_size=128,
        mixup=0.2,
        drop_path=0.1,
        drop_block=0.1,
        ema=0.9,
        size=8,
        crop="pad",
        padding=1,
        precision=precision,
        channels_last=channels_last,
        device="cpu",
        save_minutes=0.0,
    )


FORMS = {
    "float32-contiguous": recipe("float32", channels_last=False),
    "bfloat16-channels_last": recipe("bfloat16", channels_last=True),
}


def main() -> None:
    """Print a line per kill, and the verdict."""
    if sys.argv[1:2] == ["--run"]:
        run(*sys.argv[2:])
        return
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    equal = True
    for form in sys.argv[2:] or FORMS:
        with tempfile.TemporaryDirectory() as folder:
            equal &= kill_often(form, Path(folder), kills)
    sys.exit(not equal)


def kill_often(form: str, folder: Path, kills: int) -> bool:
    """Whether the killed run ends as the undisturbed one."""
    moments = random.Random(0)
    whole, killed = folder / "whole", folder / "killed"
    start(form, whole).wait()
    finished = 0
    for number in range(1, kills + 1):
        process = start(form, killed)
        wait_for_training(process, killed)
        time.sleep(moments.uniform(0.0, 2.0))
        if process.poll() is not None:
            finished = number
            break
        process.kill()
        process.wait()
        print(f"{form}: kill {number}", flush=True)
    start(form, killed).wait()
    same = digest(whole) == digest(killed)
    done = finished - 1 if finished else kills
    print(f"{form}: {done} kills, {'the same bits' if same else 'OTHER BITS'}", flush=True)
    return same


def start(form: str, folder: Path) -> subprocess.Popen[bytes]:
    """Begin the run, or go on with it."""
    return subprocess.Popen([sys.executable, __file__, "--run", form, str(folder)])


def run(form: str, folder: str) -> None:
    """What a started process does."""
    if Path(folder, "config.json").exists():
        resume(folder, reporter=QUIET)
    else:
        train("digits", FORMS[form], folder, reporter=QUIET)


def wait_for_training(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the process has written a state of its own."""
    state = folder / "state.safetensors"
    before = state.stat().st_mtime_ns if state.exists() else 0
    while process.poll() is None:
        if state.exists() and state.stat().st_mtime_ns != before:
            return
        time.sleep(0.01)


def digest(folder: Path) -> str:
    """Hash of the last model's weights."""
    state = load_model(folder / "last.safetensors")[0].state_dict()
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest()


if __name__ == "__main__":
    main()
