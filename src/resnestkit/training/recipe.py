"""The recipe: every choice of a training, typed, in one place. Imports without torch.

A recipe comes from three places, each over the one before it: the defaults below, a recipe file
(a name of `resnestkit.recipes`, a Python file with a function ``recipe()``, or the ``config.json``
of an earlier run), and the flags of the command line.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import pkgutil
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import resnestkit.recipes
from resnestkit.errors import UserError, nearest
from resnestkit.models.spec import NormPolicy
from resnestkit.preprocessing import Crop, Interpolation

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The defaults are the paper's where it names a value."""

    model: str = "resnest50"
    """Net to train; `resnestkit models` lists them."""
    weights: str | None = None
    """Start from this checkpoint's backbone instead of random weights."""
    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step."""
    accumulate: int = 1
    """Steps whose gradients are added up before the weights move."""

    lr: float = 0.1
    """Peak learning rate per 256 images; it is scaled with the batch."""
    warmup_epochs: float = 5.0
    """Epochs in which the learning rate rises from 0."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = True
    """Nesterov's form of the momentum."""
    weight_decay: float = 1e-4
    """Decay of weights; biases and norms' parameters are exempt."""
    clip_norm: float | None = None
    """Largest norm of the gradient; none leaves it alone."""
    ema: float = 0.0
    """Decay of the moving average of the weights; 0 keeps none."""

    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    mixup: float = 0.2
    """Alpha of mixup's Beta distribution; 0 is off."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta distribution; 0 is off."""
    dropout: float | None = None
    """Dropout before the classifier; none is what the net was published with."""
    drop_path: float = 0.0
    """Stochastic depth's probability in the last block."""
    drop_block: float = 0.0
    """DropBlock's probability at the end; it rises linearly from 0."""
    zero_gamma: bool = True
    """Start every block as its shortcut."""
    norm: NormPolicy = "batch"
    """Norm policy."""

    size: int | None = None
    """Side of the input in pixels; none is what the net was published for."""
    crop: Crop = "resized"
    """Training crop: random-resized, padded then cropped, or none."""
    min_area: float = 0.08
    """Smallest share of the image that a random-resized crop takes."""
    padding: int = 4
    """Pixels that the padded crop adds on each side."""
    flip: bool = True
    """Mirror every other image."""
    crop_ratio: float = 0.875
    """Evaluation crop: its side over the resized image's short side."""
    interpolation: Interpolation = "bilinear"
    """How images are resized."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel, in the range 0 to 1; one value reads images as grey."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel."""

    seed: int = 0
    """Seed of the weights, the order, the augmentation and the split."""
    holdout: float = 0.2
    """Share that is held out where the data brings no validation split."""
    precision: Precision = "auto"
    """Arithmetic of the forward pass; auto takes bfloat16 where the processor has it."""
    channels_last: bool = True
    """Keep maps in channels_last order, which is quicker nearly everywhere."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, ..."""
    workers: int | None = None
    """Processes that read images; none picks by data and machine."""
    cache_mb: int = 2048
    """Decoded images are kept in memory if they fit in so many megabytes."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, instead of stopping."""

    def __post_init__(self) -> None:
        check_recipe(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return dataclasses.asdict(self)


def check_recipe(recipe: Recipe) -> None:
    """Raise UserError, naming the flag, for a value that makes no sense."""
    positive = ("epochs", "batch_size", "accumulate", "lr", "min_area", "crop_ratio")
    not_negative = ("warmup_epochs", "momentum", "weight_decay", "mixup", "cutmix", "padding")
    share = ("ema", "label_smoothing", "drop_path", "drop_block", "holdout")
    for name in positive:
        _require(recipe, name, getattr(recipe, name) > 0, "more than 0")
    for name in not_negative:
        _require(recipe, name, getattr(recipe, name) >= 0, "0 or more")
    for name in share:
        _require(recipe, name, 0 <= getattr(recipe, name) < 1, "at least 0 and below 1")
    for name in ("min_area", "crop_ratio"):
        _require(recipe, name, getattr(recipe, name) <= 1, "at most 1")
    _require(recipe, "size", recipe.size is None or recipe.size >= 8, "8 or more")
    _require(recipe, "workers", recipe.workers is None or recipe.workers >= 0, "0 or more")
    _require(recipe, "mean", len(recipe.mean) in {1, 3}, "one value (grey) or three (RGB)")
    _require(recipe, "std", len(recipe.std) == len(recipe.mean), "as many values as --mean")
    _require(recipe, "std", min(recipe.std) > 0, "more than 0")


def _require(recipe: Recipe, name: str, holds: bool, wanted: str) -> None:
    if not holds:
        flag = name.replace("_", "-")
        raise UserError(f"--{flag} is {getattr(recipe, name)}; it must be {wanted}.")


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    found = pkgutil.iter_modules(resnestkit.recipes.__path__)
    return sorted(module.name for module in found)


def load_recipe(name: str) -> Recipe:
    """A recipe by name, from a Python file, or from the config.json of a run.

    Raises UserError if there is no such recipe or the file does not hold one.
    """
    path = Path(name)
    if path.suffix == ".json":
        return _from_json(path)
    if path.suffix == ".py":
        return _from_module(_import_file(path), name)
    if name not in list_recipes():
        raise UserError(
            f"There is no recipe called {name!r}.{nearest(name, list_recipes())} "
            f"Known: {', '.join(list_recipes())}; or give a .py file or a run's config.json."
        )
    return _from_module(importlib.import_module(f"resnestkit.recipes.{name}"), name)


def recipe_from_dict(values: dict[str, Any], origin: str) -> Recipe:
    """A recipe from plain values, such as `Recipe.to_dict` gives. Raises UserError if it is not."""
    known = {field.name for field in dataclasses.fields(Recipe)}
    for name in values:
        if name not in known:
            raise UserError(f"{origin} has an unknown setting {name!r}.{nearest(name, known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return Recipe(**values)
    except TypeError as error:
        raise UserError(f"{origin} does not hold a recipe: {error}.") from error


def _from_json(path: Path) -> Recipe:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read the recipe {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"The recipe {path} is not JSON: {error}.") from error
    if isinstance(values, dict) and isinstance(values.get("recipe"), dict):
        values = values["recipe"]
    if not isinstance(values, dict):
        raise UserError(f"The recipe {path} must hold one JSON object.")
    return recipe_from_dict(values, str(path))


def _import_file(path: Path) -> types.ModuleType:
    if not path.is_file():
        raise UserError(f"There is no recipe file {path}.")
    spec = importlib.util.spec_from_file_location("resnestkit_user_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"The recipe {path} fails: {type(error).__name__}: {error}") from error
    return module


def _from_module(module: types.ModuleType, origin: str) -> Recipe:
    make = getattr(module, "recipe", None)
    made = make() if callable(make) else None
    if not isinstance(made, Recipe):
        raise UserError(f"The recipe {origin} needs a function recipe() that returns a Recipe.")
    return made
