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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, get_type_hints

import resnestkit.recipes
from resnestkit.errors import UserError, nearest
from resnestkit.models.spec import NormPolicy
from resnestkit.preprocessing import AutoPolicy, ChannelOrder, Crop, Interpolation
from resnestkit.segmentation.spec import Kind as SegmenterKind
from resnestkit.values import describe_type, is_a

Precision = Literal["auto", "float32", "bfloat16"]
Schedule = Literal["cosine", "step", "poly"]
DetectorKind = Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet"]
DetectorSettings = Literal["paper", "torchvision", "light"]
ClassWeights = Literal["none", "softened", "balanced"] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """What every training chooses, whatever its task."""

    task: ClassVar[str]
    """By which config.json tells what the other settings mean."""

    model: str = "resnest50"
    """Net to train; `resnestkit models` lists them."""
    weights: str | None = None
    """Start from a file of weights, or from "imagenet1k", the published ones (downloaded once)."""
    partial: bool = False
    """Take those weights that fit, and leave the rest as drawn."""
    freeze: int | None = None
    """Freeze the loaded stem and the first so many stages; none freezes nothing."""
    norm: NormPolicy = "batch"
    """Norm policy."""
    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 64
    """Images per forward pass."""
    accumulate: int = 1
    """Passes whose gradients are added up before the weights move."""

    lr: float = 0.1
    """Peak learning rate per 256 images; it is scaled with the batch."""
    warmup_epochs: float = 5.0
    """Epochs in which the learning rate rises from 0; at most half of all."""
    warmup_steps: int | None = None
    """Steps in which it rises, instead of epochs; at most half of all."""
    schedule: Schedule = "cosine"
    """How the rate falls: along a cosine to 0, to a tenth at every milestone, or by a power."""
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    """Shares of the training after which the rate of --schedule step falls."""
    power: float = 0.9
    """Of --schedule poly: the rate is the share of the training that is left, to this power."""
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
    precise_norm: int = 0
    """Batches on which the norms' statistics are taken anew before every evaluation; 0 keeps the
    running ones."""

    flip: bool = True
    """Mirror every other image."""
    jitter: float = 0.0
    """Brightness, contrast and saturation vary by so much up and down; the paper's is 0.4."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel, in the range 0 to 1; one value reads images as grey."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel."""
    channel_order: ChannelOrder | None = None
    """Order in which the net reads colours; none is that of the loaded weights, else RGB."""

    seed: int = 0
    """Seed of the weights, the order, the augmentation and the split."""
    holdout: float = 0.2
    """Share that is held out where the data brings no validation split."""
    save_minutes: float = 10.0
    """The state to go on from is written so often, besides after every epoch; 0 is every step."""
    keep_states: int = 2
    """States that are kept: the newest, and those before it in case it is damaged."""
    skip_bad_steps: int = 0
    """Leave out so many batches whose loss is no number, before the run is stopped."""
    precision: Precision = "auto"
    """Arithmetic of the forward pass; auto takes bfloat16 where the processor has it."""
    channels_last: bool = True
    """Keep maps in channels_last order, which is quicker nearly everywhere."""
    kernels: bool | None = None
    """Norms and attention (on a CPU RoIAlign too) by our own kernels, compiled for this CPU or GPU;
    None: where they can be."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, ..."""
    workers: int | None = None
    """Processes that read images; none picks by data and machine."""
    cache_mb: int = 2048
    """Decoded images are kept in memory if they fit in so many megabytes."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    tensorboard: bool = False
    """Write the numbers of every epoch for TensorBoard too; needs the extra `tensorboard`."""

    def __post_init__(self) -> None:
        check_recipe(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Recipe(BaseRecipe):
    """How to train a classifier. Loss and schedule default to the paper's (section 4.1)."""

    task: ClassVar[str] = "classification"

    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    mixup: float = 0.2
    """Alpha of mixup's Beta distribution; 0 is off. A batch shares one draw, as in the published
    codes (the paper's text draws one per image)."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta distribution; 0 is off."""
    mixup_off_epochs: int = 0
    """Last epochs, in which neither mixup nor CutMix acts."""
    dropout: float | None = None
    """Dropout before the classifier; none is what the net was published with."""
    drop_path: float = 0.0
    """Stochastic depth's probability in the last block."""
    drop_block: float = 0.0
    """DropBlock's probability at the end; it rises linearly from 0."""
    zero_gamma: bool = True
    """Start every block as its shortcut."""

    size: int | None = None
    """Side of the input in pixels; none is the size that the net was published for."""
    train_size: int | None = None
    """Side of the input in training, where it differs; none is that of --size."""
    crop: Crop = "resized"
    """Training crop: random-resized, padded then cropped, or none."""
    min_area: float = 0.08
    """Smallest share of the image that a random-resized crop takes."""
    padding: int = 4
    """Pixels that the padded crop adds on each side."""
    auto_augment: AutoPolicy = "none"
    """Policy of random changes: AutoAugment's for ImageNet, RandAugment, or none."""
    rand_ops: int = 2
    """RandAugment's changes per image."""
    rand_magnitude: int = 12
    """RandAugment's strength, of 30."""
    lighting: float = 0.0
    """Deviation of the noise along ImageNet's colour components; the paper's is 0.1."""
    erase: float = 0.0
    """Probability that random erasing blanks a rectangle."""
    crop_ratio: float | None = None
    """Evaluation crop: its side over the resized image's short side; none is the net's own."""
    interpolation: Interpolation | None = None
    """How images are resized; none is the net's own."""


@dataclass(frozen=True, slots=True)
class DetectionRecipe(BaseRecipe):
    """How to train a detector. Defaults are the authors' 1x schedule, a pass being one of COCO.

    That is 16 images a step, a rate of 0.02, a tenth of it after two thirds and eight ninths, and
    1,000 steps of warm-up (detectron2-ResNeSt at 54ec876, its configs for COCO detection).
    """

    task: ClassVar[str] = "detection"

    kind: DetectorKind = "faster_rcnn"
    """Detector: faster_rcnn, mask_rcnn, cascade_rcnn, cascade_mask_rcnn or retinanet."""
    settings: DetectorSettings | None = None
    """Heads and losses: the paper's (Detectron2's), torchvision's, or light ones for a CPU; none is
    what the weights of a whole detector were trained with, else the paper's."""
    head_norm: Literal["batch", "sync", "frozen", "group", "none"] | None = None
    """Norms of pyramid and heads; none is the norm policy's, or what the weights had."""
    fpn_channels: int | None = None
    """Channels of the feature pyramid and of the heads' convolutions; none is as many as the
    weights of a whole detector have, else 256."""
    epochs: int = 12
    """Passes over the training images: about 12 of COCO's are the 1x schedule, 36 the 3x."""
    batch_size: int = 16
    """Images per forward pass."""
    lr: float = 0.32
    """Peak learning rate per 256 images; it is scaled with the batch (0.02 for 16)."""
    warmup_steps: int | None = 1000
    """Steps in which the learning rate rises from 0; at most half of all."""
    schedule: Schedule = "step"
    """How the rate falls: along a cosine to 0, to a tenth at every milestone, or by a power."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    short_sides: tuple[int, ...] = (640, 800)
    """Pixels of a training image's short side: the ends of a range, or a choice."""
    sampling: Literal["range", "choice"] = "range"
    """Whether --short-sides are the ends of a range or a choice."""
    test_side: int = 800
    """Pixels of an image's short side in evaluation."""
    max_side: int = 1333
    """Pixels of its long side at most."""
    crop: float = 0.0
    """Least share of height and width that a random crop keeps; 0 crops nothing (3x: 0.9)."""


@dataclass(frozen=True, slots=True)
class SegmentationRecipe(BaseRecipe):
    """How to train a segmenter. Defaults are the authors' for ADE20K (PyTorch-Encoding, ac74841).

    That is 16 images a step, a rate of 0.01 for the net and ten times that for what is new, which
    fall by the power 0.9, and no warm-up.
    """

    task: ClassVar[str] = "segmentation"

    kind: SegmenterKind = "deeplabv3"
    """Decoder: deeplabv3, deeplabv3plus, fcn, pspnet, upernet, fpn or unet."""
    settings: Literal["paper", "light"] | None = None
    """How large its heads are: the paper's, or light ones for a CPU; none is as the weights of a
    whole segmenter have them, else the paper's."""
    output_stride: Literal[8, 16, 32] | None = None
    """Image pixels per pixel of the net's last stage; none is the decoder's own."""
    head_norm: NormPolicy | None = None
    """Norms of the decoder; none is the norm policy's, or what the weights had."""
    auxiliary: float = 0.2
    """Weight of the auxiliary head's loss, where the decoder has one; 0 trains none."""
    head_lr: float = 10.0
    """Learning rate of all but the net, as a multiple."""
    class_weights: ClassWeights = "none"
    """Of each class in the loss: none, balanced (rare ones weigh more), softened (by the square
    roots of those), or a number for each."""

    epochs: int = 120
    """Passes over the training images."""
    batch_size: int = 16
    """Images per forward pass."""
    lr: float = 0.16
    """Peak learning rate per 256 images; it is scaled with the batch (0.01 for 16)."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises from 0; at most half of all."""
    schedule: Schedule = "poly"
    """How the rate falls: along a cosine to 0, to a tenth at every milestone, or by a power."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""

    base_side: int = 520
    """Pixels of a training image's longer side, before --scale."""
    scale: tuple[float, ...] = (0.5, 2.0)
    """Ends of the range of multiples of --base-side, one of which is drawn for each image."""
    crop_size: int = 480
    """Side of the square that is cut out of it, padded where the image is smaller."""
    test_side: int | None = None
    """Pixels of the longer side in evaluation; none takes images as they are."""
    test_scales: tuple[float, ...] = (1.0,)
    """Sizes at which an evaluation looks at an image, as multiples."""
    test_flip: bool = False
    """Whether an evaluation looks at it mirrored too."""
    test_window: int | None = None
    """Side of the windows by which an evaluation looks at it; none looks at all of it at once."""


@dataclass(frozen=True, slots=True)
class PanopticRecipe(DetectionRecipe):
    """How to train a panoptic net: as a detector that finds masks, and a branch for stuff beside.

    The authors' differs from their detectors' in the images' sides: 400 to 1000 pixels, of the long
    side 1440 at most, and three times the passes (detectron2-ResNeSt at 54ec876).
    """

    task: ClassVar[str] = "panoptic"

    kind: Literal["mask_rcnn", "cascade_mask_rcnn"] = "mask_rcnn"
    """What finds the things: mask_rcnn or cascade_mask_rcnn."""
    semantic_weight: float = 0.5
    """Weight of the loss of the branch for stuff."""
    stuff_area: int | None = None
    """Stuff of fewer pixels becomes void; none is 4096 as in the paper, 64 with light settings."""


RECIPES: dict[str, type[BaseRecipe]] = {
    kind.task: kind for kind in (Recipe, DetectionRecipe, SegmentationRecipe, PanopticRecipe)
}
"""By task."""


def _rises(shares: tuple[float, ...]) -> bool:
    return list(shares) == sorted(shares) and all(0 < share < 1 for share in shares)


def _is_range(ends: tuple[float, ...]) -> bool:
    return len(ends) == 2 and 0 < ends[0] <= ends[1]


def _weighs(weights: tuple[float, ...]) -> bool:
    return bool(weights) and min(weights) >= 0 and max(weights) > 0


def _are_scales(scales: tuple[float, ...]) -> bool:
    return bool(scales) and all(1 / 16 <= scale <= 16 for scale in scales)


_BOUNDS: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    ("more than 0", lambda v: v > 0, ("epochs", "batch_size", "accumulate", "lr", "clip_norm")),
    ("more than 0", lambda v: v > 0, ("rand_ops", "keep_states")),
    ("0 or more", lambda v: v >= 0, ("save_minutes", "skip_bad_steps")),
    ("0 or more", lambda v: v >= 0, ("warmup_epochs", "weight_decay", "mixup", "cutmix")),
    ("0 or more", lambda v: v >= 0, ("mixup_off_epochs", "lighting")),
    ("0 or more", lambda v: v >= 0, ("padding", "workers", "cache_mb", "freeze")),
    ("0 or more", lambda v: v >= 0, ("warmup_steps", "precise_norm")),
    ("shares from 0 to 1, rising", _rises, ("milestones",)),
    ("one or more sides of 1 pixel or more", lambda v: v and min(v) >= 1, ("short_sides",)),
    ("1 or more", lambda v: v >= 1, ("test_side", "max_side", "fpn_channels", "base_side")),
    ("8 or more", lambda v: v >= 8, ("crop_size", "test_window")),
    ("two numbers above 0, rising", _is_range, ("scale",)),
    ("numbers of 0 or more, one above 0", _weighs, ("class_weights",)),
    ("one or more, from 1/16 to 16", _are_scales, ("test_scales",)),
    ("more than 0", lambda v: v > 0, ("power", "head_lr")),
    ("0 or more", lambda v: v >= 0, ("auxiliary", "semantic_weight", "stuff_area")),
    ("at least 0, below 1", lambda v: 0 <= v < 1, ("crop",)),
    ("from 0 to 30", lambda v: 0 <= v <= 30, ("rand_magnitude",)),
    ("from 0 to 1", lambda v: 0 <= v <= 1, ("jitter", "erase")),
    ("more than 0, at most 1", lambda v: 0 < v <= 1, ("min_area", "crop_ratio")),
    ("at least 0, below 1", lambda v: 0 <= v < 1, ("momentum", "ema", "label_smoothing")),
    ("at least 0, below 1", lambda v: 0 <= v < 1, ("dropout", "drop_path", "drop_block")),
    ("more than 0, below 1", lambda v: 0 < v < 1, ("holdout",)),
    ("from 8 to 4096", lambda v: 8 <= v <= 4096, ("size", "train_size")),
    ("from 0 to 2^63 - 1", lambda v: 0 <= v < 2**63, ("seed",)),
    ("one value (grey) or three (RGB)", lambda v: len(v) in {1, 3}, ("mean", "std")),
    ("more than 0", lambda v: min(v) > 0, ("std",)),
)


def check_recipe(recipe: BaseRecipe) -> None:
    """Raise UserError, naming the flag, for a value of the wrong type or without sense.

    The command line checks types by itself; a file and a caller in Python do not.
    """
    kinds = get_type_hints(type(recipe))
    known = [field.name for field in dataclasses.fields(recipe)]
    for name in known:
        if not is_a(getattr(recipe, name), kinds[name]):
            _refuse(recipe, name, describe_type(kinds[name]))
    for wanted, holds, names in _BOUNDS:
        for name in names:
            value = getattr(recipe, name) if name in known else None
            # A crop by name is no number, and its type has checked it.
            if value is not None and not isinstance(value, str) and not holds(value):
                _refuse(recipe, name, wanted)
    if len(recipe.std) != len(recipe.mean):
        _refuse(recipe, "std", "as many values as --mean")
    _check_together(recipe)
    for name in ("partial", "freeze"):
        value = getattr(recipe, name)  # 0 stages frozen is the stem frozen, and no False
        if recipe.weights is None and value is not None and value is not False:
            raise UserError(f"--{name} is about loaded weights; give --weights too.")


def _check_together(recipe: BaseRecipe) -> None:
    """What makes no sense beside another setting."""
    usual = next(f.default for f in dataclasses.fields(recipe) if f.name == "warmup_epochs")
    steps = recipe.warmup_steps
    if steps is not None and recipe.warmup_epochs != usual:
        remedy = f"left out while --warmup-steps is {steps} (or give --warmup-steps None)"
        _refuse(recipe, "warmup_epochs", remedy)
    if isinstance(recipe, Recipe):
        if recipe.lighting and len(recipe.mean) != 3:
            _refuse(recipe, "lighting", "0 for grey images, since it shifts colours")
        if recipe.mixup_off_epochs > recipe.epochs:
            _refuse(recipe, "mixup_off_epochs", f"at most --epochs, which is {recipe.epochs}")


def _refuse(recipe: BaseRecipe, name: str, wanted: str) -> NoReturn:
    flag = name.replace("_", "-")
    raise UserError(f"--{flag} is {getattr(recipe, name)}; it must be {wanted}.")


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    found = pkgutil.iter_modules(resnestkit.recipes.__path__)
    return sorted(module.name for module in found)


def load_recipe(name: str) -> BaseRecipe:
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


def recipe_from_dict(values: dict[str, Any], origin: str, task: object = Recipe.task) -> BaseRecipe:
    """A recipe from plain values, such as `BaseRecipe.to_dict` gives.

    Raises UserError if it is none, or of a task that is not known.
    """
    if task not in RECIPES:
        raise UserError(f"{origin} is of a task {task!r}; known are {', '.join(RECIPES)}.")
    kind = RECIPES[str(task)]
    known = {field.name for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise UserError(f"{origin} has an unknown setting {name!r}.{nearest(name, known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{origin} does not hold a recipe: {error}.") from error


def recorded_data(name: str | None) -> str | None:
    """The data that a run's config.json was trained on; None for any other recipe."""
    if name is None or Path(name).suffix != ".json":
        return None
    data = _read_json(Path(name)).get("data")
    return data if isinstance(data, str) else None


def _from_json(path: Path) -> BaseRecipe:
    values = _read_json(path)
    if isinstance(values.get("recipe"), dict):
        settings = dict(values["recipe"])
        # What one machine could, another need not: kernels are chosen anew.
        settings["kernels"] = None if settings.get("kernels") else settings.get("kernels")
        return recipe_from_dict(settings, str(path), values.get("task", Recipe.task))
    return recipe_from_dict(values, str(path))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read the recipe {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"The recipe {path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise UserError(f"The recipe {path} must hold one JSON object.")
    return values


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


def _from_module(module: types.ModuleType, origin: str) -> BaseRecipe:
    make = getattr(module, "recipe", None)
    try:
        made = make() if callable(make) else None
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"The recipe {origin} fails: {type(error).__name__}: {error}") from error
    if not isinstance(made, BaseRecipe):
        raise UserError(
            f"The recipe {origin} needs a function recipe() that returns a Recipe, a "
            "DetectionRecipe, a SegmentationRecipe or a PanopticRecipe."
        )
    return made
