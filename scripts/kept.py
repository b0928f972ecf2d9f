"""What scripts of several trainings share: each is done once, goes on if stopped, and is kept."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from resnestkit import TrainResult, resume, train
from resnestkit.training.recipe import BaseRecipe


def train_or_resume(path: Path, data: str, recipe: BaseRecipe) -> tuple[TrainResult, float | None]:
    """The finished run, and the processor's minutes of it: None if it was not of one call."""
    before = time.process_time()
    if (path / "config.json").exists():
        return resume(path, data), None
    result = train(data, recipe, path)
    return result, (time.process_time() - before) / 60


def words(minutes: float | None) -> str:
    """Minutes as a table shows them."""
    return "not of one call" if minutes is None else f"{minutes:.1f}"


class Kept:
    """Results by name, a JSON line each: what was measured is never measured again."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> dict[str, dict[str, Any]]:
        """What was measured so far; of a name that came twice, the last."""
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return {done["name"]: done for done in map(json.loads, lines)}

    def add(self, done: dict[str, Any]) -> None:
        """Keep a result, which has a name."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done) + "\n")
