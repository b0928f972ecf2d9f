"""The run folder: everything that a training leaves, under names that do not change.

==================  ==========================================================================
config.json         data and recipe, resolved, and the versions that ran it
metrics.jsonl       one line per epoch
best.safetensors    the model of the best epoch
last.safetensors    the model of the last epoch
state.safetensors   weights, optimiser and random state, from which a stopped run goes on
state-1...          the states before it, in case it is damaged
evaluation.json     the best model on the validation images
curves.png          loss, accuracy, learning rate and speed over the epochs
confusion.png       true class against predicted class; of a detector precision_recall.png and
                    examples.png instead, of a segmenter classes.png, worst.png and examples.png too
report.html         all of it on one page that needs no other file; it grows with the run
tensorboard/        the numbers of every epoch, with --tensorboard
==================  ==========================================================================
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from resnestkit.errors import UserError
from resnestkit.training.recipe import BaseRecipe, Recipe, recipe_from_dict
from resnestkit.weights.checkpoint import write_whole

Record = dict[str, float]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder that holds one run."""

    path: Path

    def check_free(self) -> None:
        """Raise UserError if the folder holds a run already, or cannot be made."""
        if self.config.exists():
            raise self._taken()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Cannot make the folder {self.path}: {error.strerror}.") from error

    def take(self, data: str, recipe: BaseRecipe, versions: dict[str, str]) -> None:
        """Begin a run here: write its config, unless another run was quicker.

        Raises UserError if the folder holds a run already, or cannot be written.
        """
        config = {
            "data": data, "task": recipe.task, "recipe": recipe.to_dict(), "versions": versions,
        }  # fmt: skip
        try:
            with self.config.open("x", encoding="utf-8") as file:
                json.dump(config, file, indent=2)
        except FileExistsError:
            raise self._taken() from None
        except OSError as error:
            raise UserError(f"Cannot write {self.config}: {error.strerror}.") from error

    def _taken(self) -> UserError:
        return UserError(
            f"{self.path} holds a run already. Go on with it by --resume {self.path}, or choose "
            "another --output."
        )

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, str, BaseRecipe]:
        """An earlier run, with its data and recipe. Raises UserError if there is none."""
        run = cls(path)
        if not run.config.is_file():
            raise UserError(f"{path} holds no run: there is no config.json in it.")
        try:
            config = json.loads(run.config.read_text(encoding="utf-8"))
            data, values = str(config["data"]), dict(config["recipe"])
            task = config.get("task", Recipe.task)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{run.config} is damaged: {error}.") from error
        return run, data, recipe_from_dict(values, str(run.config), task)

    @classmethod
    def new(cls, net: str) -> RunFolder:
        """runs/<net>-<date>-<time>, with a number behind it if that is taken."""
        stem = f"{net}-{datetime.now():%Y%m%d-%H%M%S}"
        for number in itertools.count(1):
            path = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(f"Cannot make the folder {path}: {error.strerror}.") from error
            return cls(path)
        raise AssertionError("counting never ends")

    @property
    def config(self) -> Path:
        """Data and recipe."""
        return self.path / "config.json"

    @property
    def best(self) -> Path:
        """Checkpoint of the best epoch."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """Checkpoint of the last epoch."""
        return self.path / "last.safetensors"

    @property
    def state(self) -> Path:
        """What a stopped run goes on from."""
        return self.path / "state.safetensors"

    def states(self, keep: int) -> list[Path]:
        """The newest state's file, then older ones', ``keep`` in all."""
        return [self.state, *(self.path / f"state-{age}.safetensors" for age in range(1, keep))]

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    def read_records(self) -> list[Record]:
        """One record per finished epoch; a line cut short by a crash is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def write_records(self, records: list[Record]) -> None:
        """Replace the records."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        write_whole(self.path / "metrics.jsonl", lines.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write a small file of results."""
        write_whole(self.path / name, json.dumps(value, indent=2).encode())
