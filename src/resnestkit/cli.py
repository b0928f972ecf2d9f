"""The command line: verbs only. Each verb loads what it needs when it is called."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from resnestkit import __version__
from resnestkit.errors import UserError, nearest
from resnestkit.models.zoo import TABLE, Net, list_models
from resnestkit.training.recipe import Precision, Recipe, load_recipe, recorded_data

if TYPE_CHECKING:
    from resnestkit.deploy.predictor import Prediction
    from resnestkit.tasks.evaluation import Evaluation

ArgumentsT = TypeVar("ArgumentsT")

DEFAULT_DATA = "digits"
"""Built-in data, which has a recipe of the same name."""


@dataclass(frozen=True)
class TrainArguments:
    """Train a net on a folder of images by class, or on the built-in digits.

    Settings come from the defaults, then from --recipe, then from the other flags. The defaults
    shown here are those of the digits; with --data or --recipe before --help, they are theirs.
    """

    settings: Annotated[Recipe, tyro.conf.arg(name="")]
    data: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = DEFAULT_DATA
    """Holds train/ and val/ or test/, or one folder per class, or tar shards; or hf:NAME."""
    recipe: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Start from a recipe that comes with the package, a .py file, or a run's config.json."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Run folder to make; runs/<net>-<time> if not given."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Go on with the run in this folder, by its own settings; --data says if the images moved."""


@dataclass(frozen=True)
class DoctorArguments:
    """Look at data, recipe and machine before a training, and train nothing.

    Settings come as for `resnestkit train`: defaults, then --recipe, then the other flags.
    """

    settings: Annotated[Recipe, tyro.conf.arg(name="")]
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = DEFAULT_DATA
    """Holds train/ and val/ or test/, or one folder per class, or tar shards; or hf:NAME."""
    recipe: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Start from a recipe that comes with the package, a .py file, or a run's config.json."""
    speed: bool = True
    """Time reading and computing, in about ten seconds."""
    json: Path | None = None
    """Write all numbers to this file."""


@dataclass(frozen=True)
class EvaluateArguments:
    """Measure a checkpoint on labelled images; its own data are the default."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A file that `resnestkit train` wrote."""
    data: Annotated[str | None, tyro.conf.Positional] = None
    """Folder of images by class, or "digits"."""
    split: Literal["train", "val", "test", "all"] | None = None
    """Which images; if not given, test, else val, else what was held out, else all."""
    batch_size: int = 128
    """Images per step."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, ..."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    json: Path | None = None
    """Write all numbers to this file."""


@dataclass(frozen=True)
class PredictArguments:
    """Say what is on images: files, folders (searched through) or globs."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A file that `resnestkit train` wrote."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders or globs."""
    top: int = 3
    """Guesses per image."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, ..."""
    json: Path | None = None
    """Write the guesses to this file as JSON."""
    csv: Path | None = None
    """Write the guesses to this file as CSV, a line per guess."""


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


def train(arguments: Sequence[str]) -> int:
    """Train a net on your images, or on the built-in digits."""
    parsed = _parse_train(arguments)
    from resnestkit.training.train import resume, train  # noqa: PLC0415  (torch loads here)

    if parsed.resume is None:
        result = train(parsed.data, parsed.settings, parsed.output)
    else:
        result = resume(parsed.resume, _value_of("--data", arguments))
    if os.environ.get("RANK", "0") != "0":  # torchrun's: the first process speaks for all
        return 0
    print(
        f"accuracy    {result.evaluation.top1:.2%} of {result.evaluation.count} images, "
        f"best epoch {result.best_epoch} (last {result.last_top1:.2%})\n"
        f"model       {result.run.best}\n"
        f"report      {result.run.report}"
    )
    return 0


def doctor(arguments: Sequence[str]) -> int:
    """Look at data, recipe and machine before a training."""
    parsed = _parse_doctor(arguments)
    from resnestkit.training.checkup import check_up  # noqa: PLC0415  (torch loads here)
    from resnestkit.training.progress import Reporter  # noqa: PLC0415  (torch loads here)
    from resnestkit.training.screen import show, to_dict  # noqa: PLC0415  (torch loads here)

    reporter = Reporter()
    checkup = check_up(parsed.data, parsed.settings, reporter, speed=parsed.speed)
    show(checkup, reporter)
    if parsed.json is not None:
        _write(parsed.json, json.dumps(to_dict(checkup), indent=2))
    return UserError.exit_code if checkup.refused else 0


def evaluate(arguments: Sequence[str]) -> int:
    """Measure a checkpoint on labelled images."""
    parsed = _parse(EvaluateArguments, "evaluate", arguments)
    from resnestkit.training.evaluate import evaluate  # noqa: PLC0415  (torch loads here)

    evaluation, classes = evaluate(
        parsed.checkpoint,
        parsed.data,
        split=parsed.split,
        batch_size=parsed.batch_size,
        precision=parsed.precision,
        device=parsed.device,
        skip_unreadable=parsed.skip_unreadable,
    )
    print(_evaluation_table(evaluation, classes))
    if parsed.json is not None:
        _write(parsed.json, json.dumps({"classes": classes, **asdict(evaluation)}, indent=2))
    return 0


def predict(arguments: Sequence[str]) -> int:
    """Say what is on images."""
    parsed = _parse(PredictArguments, "predict", arguments)
    if not parsed.images:
        raise UserError("Give the images to look at after the checkpoint: files, folders or globs.")
    if parsed.top < 1:
        raise UserError(f"--top is {parsed.top}; it must be 1 or more.")
    from resnestkit.data.images import UnreadableImage  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.predictor import Predictor, collect_images  # noqa: PLC0415  (torch loads here)

    predictor = Predictor(parsed.checkpoint, parsed.device)
    unreadable: list[UnreadableImage] = []
    found = predictor.iterate(collect_images(parsed.images), parsed.top, unreadable=unreadable)
    predictions = list(found)
    if predictions:
        print(_prediction_table(predictions))
    if parsed.json is not None:
        _write(parsed.json, json.dumps([asdict(p) for p in predictions], indent=2))
    if parsed.csv is not None:
        _write(parsed.csv, _prediction_csv(predictions))
    for image in unreadable:
        print(f"resnestkit: cannot read {image}", file=sys.stderr)
    return 1 if unreadable else 0


def models(arguments: Sequence[str]) -> int:
    """List the nets of the family, with what they cost."""
    parsed = _parse(ModelsArguments, "models", arguments)
    names = set(list_models(parsed.pattern))
    nets = [net for net in TABLE if net.name in names]
    if not nets:
        known = [net.name for net in TABLE]
        raise UserError(f"No net matches {parsed.pattern!r}.{nearest(parsed.pattern, known)}")
    print(json.dumps([asdict(net) for net in nets], indent=2) if parsed.json else _net_table(nets))
    return 0


def compare(arguments: Sequence[str]) -> int:
    """Compare runs: one picture, one table, what differs."""
    parsed = _parse(CompareArguments, "compare", arguments)
    if not parsed.runs:
        raise UserError("Give the folders of the runs to compare.")
    from resnestkit.training.compare import compare  # noqa: PLC0415  (torch loads here)
    from resnestkit.training.comparison import (  # noqa: PLC0415  (torch loads here)
        check_output,
        run_table,
        spread_table,
        to_dict,
        write_comparison,
    )

    check_output(parsed.output)
    comparison = compare(parsed.runs)
    print(_columns(run_table(comparison), frozenset({2, 3, 5, 6, 7, 8, 9, 10})))
    if comparison.spreads:
        print(f"\n{_columns(spread_table(comparison), frozenset({0, 1, 2}))}")
    write_comparison(comparison, parsed.output)
    if parsed.json is not None:
        _write(parsed.json, json.dumps(to_dict(comparison), indent=2))
    print(f"\npicture     {parsed.output}")
    return 0


def weights(arguments: Sequence[str]) -> int:
    """Inspect or convert files of weights, ours and others'."""
    kinds: dict[str, type[InspectArguments | ConvertArguments]]
    kinds = {"inspect": InspectArguments, "convert": ConvertArguments}
    words = list(arguments) or ["--help"]
    if words[0] in {"-h", "--help"}:
        lines = [f"  {name:<10} {kind.__doc__}" for name, kind in kinds.items()]
        print("\n".join(["usage: resnestkit weights COMMAND ...", "", *lines]))
        return 0
    if words[0] not in kinds:
        raise UserError(f"There is no command 'weights {words[0]}'.{nearest(words[0], kinds)}")
    parsed = _parse(kinds[words[0]], f"weights {words[0]}", words[1:])
    from resnestkit.weights.convert import convert, inspect  # noqa: PLC0415  (torch loads here)

    if isinstance(parsed, ConvertArguments):
        net = convert(parsed.source, parsed.target, parsed.net, parsed.to)
        print(f"{parsed.target} holds a {net.name}")
    elif isinstance(parsed, InspectArguments):
        found = inspect(parsed.file)
        print(
            f"kind        {found.kind}\n"
            f"net         {' or '.join(net.name for net in found.nets)}\n"
            f"names       {found.dialect}\n"
            f"classes     {found.classes or 'none: features alone'}\n"
            f"channels    {found.in_channels}\n"
            f"coverage    {found.coverage}"
        )
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "doctor": doctor,
    "evaluate": evaluate,
    "predict": predict,
    "compare": compare,
    "models": models,
    "weights": weights,
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
    lines = [f"  {name:<10} {(verb.__doc__ or '').strip()}" for name, verb in VERBS.items()]
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


def _parse(
    kind: type[ArgumentsT], verb: str, arguments: Sequence[str], default: ArgumentsT | None = None
) -> ArgumentsT:
    options: dict[str, Any] = {} if default is None else {"default": default}
    parsed: ArgumentsT = tyro.cli(kind, prog=f"resnestkit {verb}", args=list(arguments), **options)
    return parsed


def _parse_train(arguments: Sequence[str]) -> TrainArguments:
    """Defaults, then the recipe file, then flags: the file is read first, to become defaults."""
    name = _value_of("--recipe", arguments)
    data = _value_of("--data", arguments) or recorded_data(name) or DEFAULT_DATA
    if name is None and data == DEFAULT_DATA:
        settings = load_recipe(DEFAULT_DATA)
    else:
        settings = load_recipe(name) if name else Recipe()
    defaults = TrainArguments(settings, data=data)
    parsed = _parse(TrainArguments, "train", arguments, defaults)
    if parsed.resume is not None and replace(parsed, resume=None) != defaults:
        raise UserError("--resume goes on with a run's own settings; leave the other flags out.")
    return parsed


def _parse_doctor(arguments: Sequence[str]) -> DoctorArguments:
    """As for train; which data it is, and so which defaults, shows once the words are parsed."""
    name = _value_of("--recipe", arguments)
    settings = load_recipe(name) if name else Recipe()
    defaults = DoctorArguments(settings, data=recorded_data(name) or DEFAULT_DATA)
    parsed = _parse(DoctorArguments, "doctor", arguments, defaults)
    if name is None and parsed.data == DEFAULT_DATA:
        defaults = replace(defaults, settings=load_recipe(DEFAULT_DATA))
        parsed = _parse(DoctorArguments, "doctor", arguments, defaults)
    return parsed


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value given to a flag, as ``--flag value`` or ``--flag=value``; the last one counts."""
    value = None
    for position, word in enumerate(arguments):
        if word == flag and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
    return value


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error


def _columns(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Rows of text in aligned columns; those in ``right`` are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _net_table(nets: Sequence[Net]) -> str:
    rows = [["net", "parameters", "G multiply-adds", "size", "also known as"]]
    for net in nets:
        macs = f"{net.gmacs:.3f}"
        rows.append([net.name, f"{net.params:,}", macs, str(net.size), ", ".join(net.aliases)])
    return _columns(rows, frozenset({1, 2, 3}))


def _evaluation_table(evaluation: Evaluation, classes: Sequence[str]) -> str:
    rows = [["class", "images", "recognised"]]
    for name, counts, share in zip(
        classes, evaluation.confusion, evaluation.per_class, strict=True
    ):
        rows.append([name, str(sum(counts)), f"{share:.2%}" if sum(counts) else "-"])
    summary = (
        f"accuracy    {evaluation.top1:.2%}\ntop 5       {evaluation.top5:.2%}\n"
        f"loss        {evaluation.loss:.4f}"
    )
    return f"{_columns(rows, frozenset({1, 2}))}\n\n{summary}"


def _prediction_table(predictions: Sequence[Prediction]) -> str:
    rows = [["image", "class", "score", "then"]]
    for prediction in predictions:
        others = ", ".join(f"{g.label} {g.score:.1%}" for g in prediction.guesses[1:])
        rows.append([prediction.image, prediction.label, f"{prediction.score:.1%}", others])
    return _columns(rows, frozenset({2}))


def _prediction_csv(predictions: Sequence[Prediction]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "score"])
    for prediction in predictions:
        for rank, guess in enumerate(prediction.guesses, 1):
            writer.writerow([prediction.image, rank, guess.label, f"{guess.score:.6f}"])
    return text.getvalue()
