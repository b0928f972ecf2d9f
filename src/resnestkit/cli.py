"""The command line: verbs only. Each verb loads what it needs when it is called."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import tyro

from resnestkit import __version__
from resnestkit.arguments import (
    DEFAULT_DATA,
    BenchmarkArguments,
    CompareArguments,
    ConvertArguments,
    ConvertDataArguments,
    DoctorArguments,
    EvaluateArguments,
    ExplainArguments,
    ExportArguments,
    InspectArguments,
    ModelsArguments,
    PredictArguments,
    QuantiseArguments,
    ServeArguments,
    TrainArguments,
)
from resnestkit.data.detection.layout import looks_like_detection
from resnestkit.data.segmentation.layout import looks_like_segmentation
from resnestkit.errors import UserError, nearest
from resnestkit.extras import require
from resnestkit.models.zoo import TABLE, list_models
from resnestkit.report.words import name_score
from resnestkit.tables import (
    benchmark_table,
    check_table,
    columns,
    conversion_table,
    cost_table,
    detection_csv,
    detection_evaluation_table,
    detection_table,
    evaluation_table,
    net_table,
    panoptic_csv,
    panoptic_evaluation_table,
    panoptic_table,
    prediction_csv,
    prediction_table,
    segmentation_csv,
    segmentation_evaluation_table,
    segmentation_table,
)
from resnestkit.training.recipe import (
    RECIPES,
    BaseRecipe,
    DetectionRecipe,
    Recipe,
    SegmentationRecipe,
    load_recipe,
    recorded_data,
)

ArgumentsT = TypeVar("ArgumentsT")


def train(arguments: Sequence[str]) -> int:
    """Train a net on your images, or on the built-in digits."""
    parsed = _parse_train(arguments)
    from resnestkit.tasks.base import score_name  # noqa: PLC0415  (torch loads here)
    from resnestkit.training.train import resume, train  # noqa: PLC0415  (torch loads here)

    if parsed.resume is None:
        result = train(parsed.data, parsed.settings, parsed.output)
    else:
        result = resume(parsed.resume, _value_of("--data", arguments))
    if os.environ.get("RANK", "0") != "0":  # torchrun's: the first process speaks for all
        return 0
    name = name_score(score_name(result.evaluation.metrics))
    print(
        f"{name:<11} {result.evaluation.score:.2%} on {result.evaluation.count} images, "
        f"best epoch {result.best_epoch} (last {result.last_score:.2%})\n"
        f"model       {result.run.best}\n"
        f"report      {result.run.report}"
    )
    return 0


def doctor(arguments: Sequence[str]) -> int:
    """Look at data, recipe and machine before a training."""
    parsed = _parse_doctor(arguments)
    from resnestkit.progress import Reporter  # noqa: PLC0415  (torch loads here)
    from resnestkit.training.checkup import check_up  # noqa: PLC0415  (torch loads here)
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
    from resnestkit.tasks.detection_evaluation import DetectionEvaluation  # noqa: PLC0415  (torch)
    from resnestkit.tasks.panoptic_evaluation import PanopticEvaluation  # noqa: PLC0415  (torch)
    from resnestkit.tasks.segmentation_evaluation import (  # noqa: PLC0415  (torch loads here)
        SegmentationEvaluation,
    )
    from resnestkit.training.evaluate import evaluate  # noqa: PLC0415  (torch loads here)

    evaluation, classes = evaluate(
        parsed.checkpoint,
        parsed.data,
        split=parsed.split,
        batch_size=parsed.batch_size,
        precision=parsed.precision,
        device=parsed.device,
        skip_unreadable=parsed.skip_unreadable,
        results=parsed.results,
        scales=parsed.scales,
        flip=parsed.flip or None,
        windows=parsed.windows,
    )
    if isinstance(evaluation, PanopticEvaluation):
        print(panoptic_evaluation_table(evaluation, classes))
    elif isinstance(evaluation, DetectionEvaluation):
        print(detection_evaluation_table(evaluation, classes))
    elif isinstance(evaluation, SegmentationEvaluation):
        print(segmentation_evaluation_table(evaluation, classes))
    else:
        print(evaluation_table(evaluation, classes))
    if parsed.json is not None:
        _write(parsed.json, json.dumps({"classes": classes, **asdict(evaluation)}, indent=2))
    return 0


def predict(arguments: Sequence[str]) -> int:
    """Say what is on images."""
    parsed = _parse(PredictArguments, "predict", arguments)
    if not parsed.images:
        raise UserError("Give the images to look at after the checkpoint: files, folders or globs.")
    from resnestkit.deploy.predictor import collect_images  # noqa: PLC0415  (slow to import)

    answers = {"detector": _detect, "segmenter": _segment, "panoptic": _tell_segments}
    kind = _kind_of(parsed.checkpoint)
    named = {"panoptic": "panoptic net"}.get(kind, kind)
    _refuse_foreign_flags(parsed, named if kind in answers else "classifier")
    unreadable = answers.get(kind, _classify)(parsed, collect_images(parsed.images))
    for image in unreadable:
        print(f"resnestkit: cannot read {image}", file=sys.stderr)
    return 1 if unreadable else 0


def _kind_of(checkpoint: Path) -> str:
    """What a checkpoint holds; nothing special of an exported file, whose kinds all are told."""
    if checkpoint.suffix.lower() in {".xml", ".onnx", ".pt2"}:
        return ""
    from resnestkit.weights.checkpoint import read_kind  # noqa: PLC0415  (torch loads here)

    return read_kind(checkpoint)


def _refuse_foreign_flags(parsed: PredictArguments, kind: str) -> None:
    """Raise UserError for a flag of another kind of model than the checkpoint holds."""
    flags = {
        "top": ("classifier",),
        "score": ("detector", "panoptic net"),
        "output": ("detector", "segmenter", "panoptic net"),
        **dict.fromkeys(("threads", "precision"), ("classifier",)),
        **dict.fromkeys(("scales", "flip", "windows", "tile", "max_megapixels"), ("segmenter",)),
    }
    for name, kinds in flags.items():
        value = getattr(parsed, name)  # 0 is said too, and no False
        if kind not in kinds and value is not None and value is not False:
            flag, words = name.replace("_", "-"), " and ".join(f"{one}s" for one in kinds)
            raise UserError(f"--{flag} is for {words}, and {parsed.checkpoint} holds a {kind}.")


def _classify(parsed: PredictArguments, images: Sequence[Path]) -> Sequence[UserError]:
    """Name each image; what could not be read comes back."""
    from resnestkit.data.decoding import UnreadableImage  # noqa: PLC0415  (slow to import)
    from resnestkit.deploy.predictor import Predictor  # noqa: PLC0415  (slow to import)

    top = 3 if parsed.top is None else parsed.top
    if top < 1:
        raise UserError(f"--top is {top}; it must be 1 or more.")
    unreadable: list[UnreadableImage] = []
    predictor = Predictor(parsed.checkpoint, parsed.device, parsed.threads, parsed.precision)
    predictions = list(predictor.iterate(images, top, unreadable=unreadable))
    if predictions:
        print(prediction_table(predictions))
    if parsed.json is not None:
        _write(parsed.json, json.dumps([asdict(p) for p in predictions], indent=2))
    if parsed.csv is not None:
        _write(parsed.csv, prediction_csv(predictions))
    return unreadable


def _detect(parsed: PredictArguments, images: Sequence[Path]) -> Sequence[UserError]:
    """Find and draw the objects of each image; what could not be read comes back."""
    from resnestkit.data.images import UnreadableImage  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.detection_predictor import DetectionPredictor  # noqa: PLC0415  (torch)
    from resnestkit.deploy.drawings import Drawings, leave_out_drawings  # noqa: PLC0415  (torch)

    images = leave_out_drawings(images)
    predictor = DetectionPredictor(parsed.checkpoint, parsed.device, parsed.score)
    drawings = Drawings(parsed.output or Path("detections"), images)
    unreadable: list[UnreadableImage] = []
    detections = []
    for one, image in predictor.iterate(images, unreadable):
        drawings.write(one.image, one.draw(image))
        detections.append(one)
    if detections:
        print(detection_table(detections))
        print(f"\nscore       {predictor.score:.2f} or more\ndrawings    {drawings.folder}")
    if parsed.json is not None:
        _write(parsed.json, json.dumps(predictor.results(detections)))
    if parsed.csv is not None:
        _write(parsed.csv, detection_csv(detections))
    return unreadable


def _segment(parsed: PredictArguments, images: Sequence[Path]) -> Sequence[UserError]:
    """Write the class of every pixel of each image; what could not be read comes back."""
    from resnestkit.data.images import UnreadableImage  # noqa: PLC0415  (torch loads here)
    from resnestkit.data.pictures import MOST_MEGAPIXELS  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.drawings import leave_out_drawings  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.overlays import MaskFolder  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.segmentation_predictor import (  # noqa: PLC0415  (torch loads here)
        SegmentationPredictor,
    )

    images = leave_out_drawings(images)
    predictor = SegmentationPredictor(
        parsed.checkpoint,
        parsed.device,
        parsed.scales,
        parsed.flip or None,
        parsed.windows,
        parsed.tile,
        MOST_MEGAPIXELS if parsed.max_megapixels is None else parsed.max_megapixels,
    )
    folder = parsed.output or Path("segmentation")
    written = MaskFolder(folder, images, predictor.card.classes, predictor.colours)
    unreadable: list[UnreadableImage] = []
    said = []
    for one, picture in predictor.iterate(images, unreadable):
        written.write(one.image, one.labels, picture)
        said.append(one.to_dict())  # and not the mask, which may be large
        del one, picture
    if said:
        print(segmentation_table(said))
        print(f"\nprotocol    {predictor.protocol}\nmasks       {written.folder}")
    if parsed.json is not None:
        _write(parsed.json, json.dumps(said, indent=2))
    if parsed.csv is not None:
        _write(parsed.csv, segmentation_csv(said))
    return unreadable


def explain(arguments: Sequence[str]) -> int:
    """Show what the attention of a net does on images."""
    parsed = _parse(ExplainArguments, "explain", arguments)
    if not parsed.images:
        raise UserError("Give the images to explain after the checkpoint: files, folders or globs.")
    from resnestkit.explain.command import explain  # noqa: PLC0415  (torch loads here)
    from resnestkit.progress import Reporter  # noqa: PLC0415  (torch loads here)

    made = explain(
        parsed.checkpoint,
        parsed.images,
        parsed.output,
        target=parsed.target,
        block=parsed.block,
        device=parsed.device,
        reporter=Reporter(),
    )
    print("\n".join([*made.lines, f"report      {made.report}"]))
    for image in made.unreadable:
        print(f"resnestkit: cannot read {image}", file=sys.stderr)
    return 1 if made.unreadable else 0


def _tell_segments(parsed: PredictArguments, images: Sequence[Path]) -> Sequence[UserError]:
    """Write the segments of each image; what could not be read comes back."""
    from resnestkit.data.images import UnreadableImage  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.drawings import leave_out_drawings  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.panoptic_folder import SegmentFolder  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.panoptic_predictor import (  # noqa: PLC0415  (torch loads here)
        PanopticPredictor,
    )

    images = leave_out_drawings(images)
    predictor = PanopticPredictor(parsed.checkpoint, parsed.device, parsed.score)
    classes, folder = predictor.card.classes, parsed.output or Path("panoptic")
    written = SegmentFolder(folder, images, classes, predictor.things, predictor.colours)
    unreadable: list[UnreadableImage] = []
    found = []
    for one, image in predictor.iterate(images, unreadable):
        written.write(one, image)
        found.append((one.image, one.counts, one.shares))
    listed = written.finish()
    if found:
        print(panoptic_table(found))
        print(f"\nscore       {predictor.score:.2f} or more\nsegments    {listed}")
    if parsed.json is not None:
        _write(parsed.json, json.dumps(written.content(), indent=2))
    if parsed.csv is not None:
        _write(parsed.csv, panoptic_csv(written.content()))
    return unreadable


def export(arguments: Sequence[str]) -> int:
    """Write a model for another runtime, checked against PyTorch."""
    parsed = _parse(ExportArguments, "export", arguments)
    from resnestkit.deploy.export import export  # noqa: PLC0415  (torch loads here)

    exported = export(
        parsed.checkpoint,
        parsed.to,
        parsed.output,
        size=parsed.size,
        static=parsed.static,
        batch=parsed.batch,
        images=parsed.images,
    )
    print(f"{check_table(exported.card)}\nfile        {exported.path}")
    if parsed.json is not None:
        _write(parsed.json, json.dumps(asdict(exported.card), indent=2))
    return 0


def benchmark(arguments: Sequence[str]) -> int:
    """Measure nets where they are deployed, beside their peers, on this machine."""
    parsed = _parse(BenchmarkArguments, "benchmark", arguments)
    from resnestkit.bench.running import Settings, benchmark  # noqa: PLC0415  (torch loads here)
    from resnestkit.progress import Reporter  # noqa: PLC0415  (torch loads here)

    settings = Settings(parsed.batch, parsed.rounds, parsed.threads, parsed.only, parsed.memory)
    result = benchmark(parsed.nets, settings, size=parsed.size, reporter=Reporter())
    print(benchmark_table(result))
    if parsed.json is not None:
        _write(parsed.json, result.to_json())
    if parsed.plot is not None:
        from resnestkit.bench.plot import draw  # noqa: PLC0415  (matplotlib loads here)

        _write_bytes(parsed.plot, draw(result))
        print(f"\npicture     {parsed.plot}")
    return 0


def quantise(arguments: Sequence[str]) -> int:
    """Write a classifier in int8, and measure what that costs."""
    parsed = _parse(QuantiseArguments, "quantise", arguments)
    from resnestkit.deploy.quantise import quantise  # noqa: PLC0415  (torch loads here)

    quantised = quantise(
        parsed.model,
        parsed.data,
        parsed.to,
        parsed.output,
        max_drop=parsed.max_drop,
        images=parsed.images,
        split=parsed.split,
    )
    print(f"{cost_table(quantised)}\nfile        {quantised.path}")
    if parsed.json is not None:
        _write(parsed.json, json.dumps(asdict(quantised.card), indent=2))
    return 0


def serve(arguments: Sequence[str]) -> int:
    """Answer over HTTP, with a page to drop images on."""
    parsed = _parse(ServeArguments, "serve", arguments)
    for library in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        require(library, "serve")
    from resnestkit.serve.running import serve  # noqa: PLC0415  (an extra)
    from resnestkit.serve.settings import Limits  # noqa: PLC0415  (an extra)

    serve(
        parsed.model,
        Limits(
            batch_size=parsed.batch_size,
            queue=parsed.queue,
            max_megabytes=parsed.max_megabytes,
            max_megapixels=parsed.max_megapixels,
            timeout=parsed.timeout,
        ),
        host=parsed.host,
        port=parsed.port,
        token_file=parsed.token_file,
        device=parsed.device,
        threads=parsed.threads,
        precision=parsed.precision,
    )
    return 0


def models(arguments: Sequence[str]) -> int:
    """List the nets of the family, with what they cost."""
    parsed = _parse(ModelsArguments, "models", arguments)
    names = set(list_models(parsed.pattern))
    nets = [net for net in TABLE if net.name in names]
    if not nets:
        known = [net.name for net in TABLE]
        raise UserError(f"No net matches {parsed.pattern!r}.{nearest(parsed.pattern, known)}")
    print(json.dumps([asdict(net) for net in nets], indent=2) if parsed.json else net_table(nets))
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
    print(columns(run_table(comparison), frozenset({2, 3, 5, 6, 7, 8, 9, 10})))
    if comparison.spreads:
        print(f"\n{columns(spread_table(comparison), frozenset({0, 1, 2}))}")
    write_comparison(comparison, parsed.output)
    if parsed.json is not None:
        _write(parsed.json, json.dumps(to_dict(comparison), indent=2))
    print(f"\npicture     {parsed.output}")
    return 0


def weights(arguments: Sequence[str]) -> int:
    """Inspect or convert files of weights, ours and others'."""
    commands = {"inspect": InspectArguments, "convert": ConvertArguments}
    parsed = _parse_command("weights", arguments, commands)
    if parsed is None:
        return 0
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


def data(arguments: Sequence[str]) -> int:
    """Convert data sets of another form."""
    parsed = _parse_command("data", arguments, {"convert": ConvertDataArguments})
    if isinstance(parsed, ConvertDataArguments):
        from resnestkit.data.detection.voc import convert_voc  # noqa: PLC0415  (torch loads here)

        print(conversion_table(convert_voc(parsed.source, parsed.target)))
    return 0


def _parse_command(
    verb: str, arguments: Sequence[str], kinds: Mapping[str, type[Any]]
) -> object | None:
    """The arguments of a verb's command; None where its help was asked for, and printed."""
    words = list(arguments) or ["--help"]
    if words[0] in {"-h", "--help"}:
        lines = [f"  {name:<10} {_first_line(kind)}" for name, kind in kinds.items()]
        print("\n".join([f"usage: resnestkit {verb} COMMAND ...", "", *lines]))
        return None
    if words[0] not in kinds:
        raise UserError(f"There is no command '{verb} {words[0]}'.{nearest(words[0], kinds)}")
    parsed: object = _parse(kinds[words[0]], f"{verb} {words[0]}", words[1:])
    return parsed


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().split("\n", maxsplit=1)[0]


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
    lines = [f"  {name:<10} {_first_line(verb)}" for name, verb in VERBS.items()]
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


def _parse_train(arguments: Sequence[str]) -> TrainArguments[BaseRecipe]:
    """Defaults, then the recipe file, then flags: the file is read first, to become defaults."""
    name = _value_of("--recipe", arguments)
    data = _value_of("--data", arguments) or recorded_data(name) or DEFAULT_DATA
    settings = _default_settings(name, data, arguments)
    defaults = TrainArguments(settings, data=data)
    kind: Any = TrainArguments[type(settings)]  # type: ignore[misc]  # known when it runs
    parsed: TrainArguments[BaseRecipe] = _parse(kind, "train", arguments, defaults)
    if parsed.resume is not None and replace(parsed, resume=None) != defaults:
        raise UserError("--resume goes on with a run's own settings; leave the other flags out.")
    return parsed


def _parse_doctor(arguments: Sequence[str]) -> DoctorArguments[BaseRecipe]:
    """As for train; which data it is, and so which defaults, shows once the words are parsed."""
    name = _value_of("--recipe", arguments)
    words = (word for word in arguments if _tell_task(word) != Recipe.task)
    data = recorded_data(name) or next(words, DEFAULT_DATA)
    settings = _default_settings(name, data, arguments)
    if data == DEFAULT_DATA and name is None and isinstance(settings, Recipe):
        settings = Recipe()
    kind: Any = DoctorArguments[type(settings)]  # type: ignore[misc]  # known when it runs
    defaults = DoctorArguments(settings, data=data)
    parsed: DoctorArguments[BaseRecipe] = _parse(kind, "doctor", arguments, defaults)
    if name is None and parsed.data == DEFAULT_DATA and isinstance(settings, Recipe):
        defaults = replace(defaults, settings=load_recipe(DEFAULT_DATA))
        parsed = _parse(kind, "doctor", arguments, defaults)
    return parsed


def _default_settings(name: str | None, data: str, arguments: Sequence[str]) -> BaseRecipe:
    """The recipe by its name, else the defaults of the task, which the data tells if nobody does.

    Raises UserError if the recipe is for another task than is asked for.
    """
    task = _value_of("--task", arguments)
    if name is not None:
        settings = load_recipe(name)
        if task not in {None, settings.task}:
            raise UserError(f"The recipe {name} is for {settings.task}, not for {task}.")
        return settings
    told = task if task in RECIPES else _tell_task(data)
    if told != Recipe.task:
        return RECIPES[told]()
    return load_recipe(DEFAULT_DATA) if data == DEFAULT_DATA else Recipe()


def _tell_task(data: str) -> str:
    """What data is for, by the names of its files."""
    if looks_like_segmentation(data):
        return SegmentationRecipe.task
    return DetectionRecipe.task if looks_like_detection(data) else Recipe.task


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
    _write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def _write_bytes(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
