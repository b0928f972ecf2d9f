"""What each verb of the command line takes: one dataclass is its flags and its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import tyro

from resnestkit.errors import UserError
from resnestkit.training.recipe import BaseRecipe, Precision

DEFAULT_DATA = "digits"
"""Built-in data, which has a recipe of the same name."""


Task = Literal["classification", "detection", "segmentation", "panoptic"]
RecipeT = TypeVar("RecipeT", bound=BaseRecipe)


@dataclass(frozen=True)
class TrainArguments(Generic[RecipeT]):
    """Train a net on images by class, a detector on boxes, a segmenter on masks; or on the digits.

    With --task panoptic, masks that tell things apart train a panoptic net.

    Settings come from the defaults, then from --recipe, then from the other flags. The defaults
    shown here are those of the digits; with --data, --task or --recipe before --help, they are
    theirs.
    """

    settings: Annotated[RecipeT, tyro.conf.arg(name="")]
    data: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = DEFAULT_DATA
    """Images by class: train/ and val/ or test/, or a folder per class, or tar shards, or hf:NAME.
    Images with boxes: annotations/ of COCO's form with images/, or "shapes". Images with masks:
    images/ and labels/, or as CamVid, ADE20K, Cityscapes or COCO panoptic have it, or "scenes".
    "shapes:2000" and "scenes:2000" draw so many to train on."""
    task: Task | None = None
    """What is learnt; none tells it from the data, but for panoptic."""
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

    A classifier gives its accuracy, a detector COCO's twelve numbers and the precision per class, a
    segmenter its IoU per class, and by which protocol it was measured, and a panoptic net its
    panoptic quality.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A file that `resnestkit train` wrote."""
    data: Annotated[str | None, tyro.conf.Positional] = None
    """Folder of images by class, of COCO's form for a detector, or of images and masks for a
    segmenter; or "digits", "shapes" or "scenes"."""
    split: Literal["train", "val", "test", "all"] | None = None
    """Which images; if not given, test, else val, else what was held out, else all."""
    batch_size: int | None = None
    """Images per step; 128 for a classifier, else 4, if not given."""
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
    scales: tuple[float, ...] | None = None
    """Sizes at which a segmenter looks at an image, such as 0.5 0.75 1 1.25 1.5 1.75; if not given,
    as the validation of its training did."""
    flip: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let a segmenter look at each image mirrored too."""
    no_flip: tyro.conf.FlagCreatePairsOff[bool] = False
    """Do not, though the validation of its training did."""
    windows: int | None = None
    """Side of the windows by which a segmenter looks at an image, such as the training's crop; 0
    for the whole image; if not given, as the validation of its training did."""
    side: int | None = None
    """Pixels to which an image's longer side is resized before a segmenter looks at it; 0 leaves it
    as it is; if not given, as the validation of its training did."""


@dataclass(frozen=True)
class PredictArguments:
    """Say what is on images: files, folders (searched through) or globs.

    A classifier names each image, a detector draws its objects on it, and a segmenter writes the
    class of every pixel: an index mask, a coloured overlay and a legend. A panoptic net writes
    segments in COCO's panoptic form, and overlays.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A file that `resnestkit train` wrote; of a classifier also what `resnestkit export` or
    `resnestkit quantise` made of it."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders or globs."""
    top: int | None = None
    """A classifier's guesses per image; 3 if not given."""
    score: float | None = None
    """Show a detector's objects, or a panoptic net's things, from this score on; if not given, that
    of its best validation, or of its training."""
    output: Path | None = None
    """Folder for a detector's drawings, a segmenter's masks or a panoptic net's segments;
    detections/, segmentation/ or panoptic/ if not given."""
    scales: tuple[float, ...] | None = None
    """Sizes at which a segmenter looks at an image, as multiples; if not given, as the validation
    of its training did."""
    flip: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let a segmenter look at each image mirrored too."""
    no_flip: tyro.conf.FlagCreatePairsOff[bool] = False
    """Do not, though the validation of its training did."""
    windows: int | None = None
    """Side of the windows by which a segmenter looks at an image; 0 for the whole image; if not
    given, as the validation of its training did."""
    side: int | None = None
    """Pixels to which an image's longer side is resized before a segmenter looks at it; 0 leaves it
    as it is; if not given, as the validation of its training did. Masks have the image's size."""
    tile: int | None = None
    """Side of the tiles into which a segmenter cuts images, in the pixels that the net sees; 0 for
    none; if not given, large images alone are cut."""
    max_megapixels: float | None = None
    """Larger images are refused by a segmenter; 256 if not given."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, ..."""
    threads: int | None = None
    """A classifier's threads at most; as many as there are cores if not given."""
    precision: Precision | None = None
    """A classifier's or a segmenter's arithmetic; auto measures which is quicker for a classifier,
    and remembers it in an exported file, and takes what the processor is made for with a segmenter;
    if not given, what such a file remembers, and else float32."""
    json: Path | None = None
    """Write the guesses, or a segmenter's shares of each class, to this file as JSON, or the
    objects in COCO's form of results, or the segments in its panoptic form."""
    csv: Path | None = None
    """Write the guesses, objects, segments or shares to this file as CSV, a line for each."""


def mirrored(parsed: EvaluateArguments | PredictArguments) -> bool | None:
    """Whether a segmenter shall look at images mirrored too; None if nobody said.

    Raises UserError if it was asked for both.
    """
    if parsed.flip and parsed.no_flip:
        raise UserError("--flip and --no-flip exclude each other; leave one out.")
    return None if parsed.flip == parsed.no_flip else parsed.flip


@dataclass(frozen=True)
class ExplainArguments:
    """Show what the attention of a net does on images, in a report that opens anywhere.

    Named files, up to 8, are explained one by one: the weights of the splits, block by block, what
    each split looks at, a class activation map, and what changes if a split is forced to 0, a half
    or 1. Several images, and those of folders and globs, are told together: by class and depth,
    which channels switch between splits, and where attention decides or idles.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A classifier, detector or segmenter that `resnestkit train` wrote."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders or globs."""
    output: Annotated[Path, tyro.conf.arg(aliases=["--out"], metavar="FOLDER")] = Path(
        "explanation"
    )
    """Where to write report.html, explain.json and the pictures."""
    target: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """The class whose score and activation to look at in single images; if not given, the one with
    the highest score."""
    block: str | None = None
    """Look at this block alone, such as layer3.2, with pictures for each of its heads."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, ..."""


@dataclass(frozen=True)
class ExportArguments:
    """Write a model for another runtime, compare the two on real images, and time both.

    A file that differs from the model by more than rounding is not kept. What images it wants, its
    classes and the table of the comparison travel inside it.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A classifier, a segmenter or a backbone of `resnestkit train` or `save_model`."""
    to: Literal["onnx", "openvino", "torch", "aot"] = "openvino"
    """ONNX; OpenVINO, the quickest on a CPU; a program of torch.export; or that program compiled
    for this machine, which takes a C++ compiler."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write; beside the checkpoint if not given."""
    size: tuple[int, ...] | None = None
    """Side of the images, or height and width; what the checkpoint says if not given."""
    static: bool = False
    """Take images of that size alone, and one at a time, instead of any number of any size."""
    batch: int | None = None
    """With --static, take so many at a time."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Images to compare by; those of the checkpoint's own data if not given."""
    json: Path | None = None
    """Write all that the file says of itself to this file."""


@dataclass(frozen=True)
class BenchmarkArguments:
    """Measure nets in the deploy form beside their peers, on this machine.

    Everybody takes turns in the same rounds: timm as it comes, by torch.compile, and exported to
    ONNX Runtime and OpenVINO; torchvision's ResNet-50; and plain products of matrices, whose rate
    is the floor. Peers that are missing are left out with a line.
    """

    nets: Annotated[tuple[str, ...], tyro.conf.Positional] = ("resnest50",)
    """Nets of the table, which get random weights, or checkpoints of classifiers."""
    batch: tuple[int, ...] = (1, 16)
    """Images of a call."""
    size: int | None = None
    """Side of the images; each net's own if not given."""
    rounds: int = 20
    """Calls of everybody that count."""
    threads: int | None = None
    """How many each may use; one for each core if not given."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN")] = ()
    """Shell patterns of names to measure, such as '*int8' or '*OpenVINO*'; everybody if not
    given."""
    memory: bool = True
    """Start a process for everybody, to see how much memory it takes."""
    json: Path | None = None
    """Write all numbers to this file, those of every call too."""
    plot: Path | None = None
    """Draw speed against cost, or against accuracy if all are checkpoints, to this PNG."""


@dataclass(frozen=True)
class QuantiseArguments:
    """Write a classifier in int8, and measure on held-out images what that costs.

    Training images tell the ranges of the maps. Layers that suffer stay in float32 until no more
    than --max-drop of the accuracy is lost; if that cannot be met, nothing is written.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, or what `resnestkit export` made of it: an .xml or .onnx."""
    data: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Images by class, as for `resnestkit evaluate`; a checkpoint's own if not given."""
    to: Literal["openvino", "onnx"] | None = None
    """The runtime; an exported file's own, else openvino, if not given."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write; beside the model, with .int8 in its name, if not given."""
    max_drop: float = 0.003
    """Accuracy that may be lost: 0.003 is 0.3 points."""
    images: int = 300
    """How many training images to look at."""
    split: Literal["train", "val", "test", "all"] | None = None
    """Which images measure the cost; if not given, test, else val, else what was held out."""
    json: Path | None = None
    """Write all that the file says of itself to this file."""


@dataclass(frozen=True)
class ServeArguments:
    """Answer over HTTP what is on images, with a page to drop one on.

    Requests are computed in batches as they come in; what is too much, too large or too slow is
    refused in words. RESNESTKIT_TOKEN in the environment, or --token-file, asks every client for
    that token.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A file that `resnestkit train` wrote; of a classifier also what `resnestkit export` or
    `resnestkit quantise` made of it."""
    host: str = "127.0.0.1"
    """Address to listen at; only this machine reaches the usual one."""
    port: int = 8000
    """Port to listen at; 0 for any that is free."""
    token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File with a token that clients must bring."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, ..."""
    threads: int | None = None
    """How many at most compute; one for each core if not given."""
    precision: Precision | None = None
    """A classifier's arithmetic, as for `resnestkit predict`."""
    batch_size: int = 16
    """Images computed at a time, at most."""
    queue: int = 256
    """Images received, waiting or computed; for more, clients are told to come back."""
    max_megabytes: float = 20.0
    """Of one request."""
    max_megapixels: float = 40.0
    """Of one image."""
    timeout: float = 30.0
    """Seconds from a request to its answer."""


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
