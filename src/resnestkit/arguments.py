"""What each verb of the command line takes: one dataclass is its flags and its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import tyro

from resnestkit.training.recipe import BaseRecipe, Precision

DEFAULT_DATA = "digits"
"""Built-in data, which has a recipe of the same name."""


Task = Literal["classification", "detection"]
RecipeT = TypeVar("RecipeT", bound=BaseRecipe)


@dataclass(frozen=True)
class TrainArguments(Generic[RecipeT]):
    """Train a net on images by class, or a detector on images with boxes; or on the digits.

    Settings come from the defaults, then from --recipe, then from the other flags. The defaults
    shown here are those of the digits; with --data, --task or --recipe before --help, they are
    theirs.
    """

    settings: Annotated[RecipeT, tyro.conf.arg(name="")]
    data: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = DEFAULT_DATA
    """Images by class: train/ and val/ or test/, or a folder per class, or tar shards, or hf:NAME.
    Images with boxes: annotations/ of COCO's form with images/, or "shapes"."""
    task: Task | None = None
    """What is learnt; none tells it from the data."""
    recipe: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Start from a recipe that comes with the package, a .py file, or a run's config.json."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Run folder to make; runs/<net>-<time> if not given."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Go on with the run in this folder, by its own settings; --data says if the images moved."""


@dataclass(frozen=True)
class DoctorArguments(Generic[RecipeT]):
    """Look at data, recipe and machine before a training, and train nothing.

    Settings come as for `resnestkit train`: defaults, then --recipe, then the other flags.
    """

    settings: Annotated[RecipeT, tyro.conf.arg(name="")]
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = DEFAULT_DATA
    """As for `resnestkit train`."""
    task: Task | None = None
    """What would be learnt; none tells it from the data."""
    recipe: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Start from a recipe that comes with the package, a .py file, or a run's config.json."""
    speed: bool = True
    """Time reading and computing, in about ten seconds."""
    json: Path | None = None
    """Write all numbers to this file."""


@dataclass(frozen=True)
class EvaluateArguments:
    """Measure a checkpoint on labelled images; its own data are the default.

    A classifier gives its accuracy, a detector COCO's twelve numbers and the precision per class.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A file that `resnestkit train` wrote."""
    data: Annotated[str | None, tyro.conf.Positional] = None
    """Folder of images by class, or of COCO's form for a detector; or "digits", or "shapes"."""
    split: Literal["train", "val", "test", "all"] | None = None
    """Which images; if not given, test, else val, else what was held out, else all."""
    batch_size: int | None = None
    """Images per step; 128 if not given, 4 for a detector."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, ..."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    json: Path | None = None
    """Write all numbers to this file."""
    results: Path | None = None
    """Write a detector's boxes to this file in COCO's form; masks go to a second one beside it."""


@dataclass(frozen=True)
class PredictArguments:
    """Say what is on images: files, folders (searched through) or globs.

    A classifier names each image; a detector draws its objects on it.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A file that `resnestkit train` wrote."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders or globs."""
    top: int | None = None
    """A classifier's guesses per image; 3 if not given."""
    score: float | None = None
    """Show a detector's objects from this score on; if not given, that of its best validation."""
    output: Path | None = None
    """Folder for a detector's drawings; detections/ if not given."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, ..."""
    json: Path | None = None
    """Write the guesses to this file as JSON, or the objects in COCO's form of results."""
    csv: Path | None = None
    """Write the guesses or objects to this file as CSV, a line for each."""


@dataclass(frozen=True)
class ModelsArguments:
    """List the nets, with what they cost."""

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    """Shell pattern of names, such as 'resnest*'."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class CompareArguments:
    """Draw runs in one picture, and say what they reached and in what they differ.

    A run may be finished, stopped or going on.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, as `resnestkit train` leaves them."""
    output: Path = Path("comparison.png")
    """Picture to write, or a page with the tables if it ends in .html."""
    json: Path | None = None
    """Write all numbers to this file."""


@dataclass(frozen=True)
class InspectArguments:
    """Say what a file of weights is, whoever wrote it."""

    file: Annotated[Path, tyro.conf.Positional]
    """A .pth or safetensors file."""


@dataclass(frozen=True)
class ConvertArguments:
    """Turn another code's weights into a checkpoint, or ours into another code's names."""

    source: Annotated[Path, tyro.conf.Positional]
    """A .pth or safetensors file, in any names that are known."""
    target: Annotated[Path, tyro.conf.Positional]
    """The safetensors file to write."""
    net: str | None = None
    """Which net it is, where several have the same tensors."""
    to: Literal["resnestkit", "caffe", "openmmlab", "detectron2"] = "resnestkit"
    """A checkpoint of ours, or the code whose names to use."""


@dataclass(frozen=True)
class ConvertDataArguments:
    """Turn a folder of Pascal VOC's form into one of COCO's, which `resnestkit train` takes."""

    source: Annotated[Path, tyro.conf.Positional]
    """A folder with Annotations/ and JPEGImages/."""
    target: Annotated[Path, tyro.conf.Positional]
    """The folder to make; the images stay where they are."""
