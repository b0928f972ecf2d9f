"""The verbs, but predict. Each loads what it needs when it is called."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from resnestkit.cli.arguments import (
    BenchmarkArguments,
    CompareArguments,
    ConvertArguments,
    ConvertDataArguments,
    EvaluateArguments,
    ExplainArguments,
    ExportArguments,
    InspectArguments,
    ModelsArguments,
    QuantiseArguments,
    ServeArguments,
    mirrored,
)
from resnestkit.cli.parsing import parse, parse_command, parse_doctor, parse_train, value_of
from resnestkit.cli.tables import (
    benchmark_table,
    check_table,
    columns,
    conversion_table,
    cost_table,
    detection_evaluation_table,
    evaluation_table,
    net_table,
    panoptic_evaluation_table,
    segmentation_evaluation_table,
)
from resnestkit.cli.writing import check_places, write, write_bytes
from resnestkit.errors import UserError, nearest
from resnestkit.extras import require
from resnestkit.models.zoo import TABLE, list_models
from resnestkit.report.words import name_score


def train(arguments: Sequence[str]) -> int:
    """Train a net on your images, or on the built-in digits."""
    parsed = parse_train(arguments)
    from resnestkit.tasks.base import score_name  # noqa: PLC0415  (torch loads here)
    from resnestkit.training.train import resume, train  # noqa: PLC0415  (torch loads here)

    if parsed.resume is None:
        result = train(parsed.data, parsed.settings, parsed.output)
    else:
        result = resume(parsed.resume, value_of("--data", arguments))
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
    parsed = parse_doctor(arguments)
    check_places(parsed.json)
    from resnestkit.progress import Reporter  # noqa: PLC0415  (torch loads here)
    from resnestkit.training.checkup import check_up  # noqa: PLC0415  (torch loads here)
    from resnestkit.training.screen import show, to_dict  # noqa: PLC0415  (torch loads here)

    reporter = Reporter()
    checkup = check_up(parsed.data, parsed.settings, reporter, speed=parsed.speed)
    show(checkup, reporter)
    if parsed.json is not None:
        write(parsed.json, json.dumps(to_dict(checkup), indent=2))
    return UserError.exit_code if checkup.refused else 0


def evaluate(arguments: Sequence[str]) -> int:
    """Measure a checkpoint on labelled images."""
    parsed = parse(EvaluateArguments, "evaluate", arguments)
    check_places(parsed.json)
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
        flip=mirrored(parsed),
        windows=parsed.windows,
        side=parsed.side,
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
        write(parsed.json, json.dumps({"classes": classes, **asdict(evaluation)}, indent=2))
    return 0


def explain(arguments: Sequence[str]) -> int:
    """Show what the attention of a net does on images."""
    parsed = parse(ExplainArguments, "explain", arguments)
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


def export(arguments: Sequence[str]) -> int:
    """Write a model for another runtime, checked against PyTorch."""
    parsed = parse(ExportArguments, "export", arguments)
    check_places(parsed.json, made=parsed.output and parsed.output.parent)
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
        write(parsed.json, json.dumps(asdict(exported.card), indent=2))
    return 0


def quantise(arguments: Sequence[str]) -> int:
    """Write a classifier in int8, and measure what that costs."""
    parsed = parse(QuantiseArguments, "quantise", arguments)
    check_places(parsed.json, made=parsed.output and parsed.output.parent)
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
        write(parsed.json, json.dumps(asdict(quantised.card), indent=2))
    return 0


def benchmark(arguments: Sequence[str]) -> int:
    """Measure nets where they are deployed, beside their peers, on this machine."""
    parsed = parse(BenchmarkArguments, "benchmark", arguments)
    check_places(parsed.json, parsed.plot)
    from resnestkit.bench.running import Settings, benchmark  # noqa: PLC0415  (torch loads here)
    from resnestkit.progress import Reporter  # noqa: PLC0415  (torch loads here)

    settings = Settings(parsed.batch, parsed.rounds, parsed.threads, parsed.only, parsed.memory)
    result = benchmark(parsed.nets, settings, size=parsed.size, reporter=Reporter())
    print(benchmark_table(result))
    if parsed.json is not None:
        write(parsed.json, result.to_json())
    if parsed.plot is not None:
        from resnestkit.bench.plot import draw  # noqa: PLC0415  (matplotlib loads here)

        write_bytes(parsed.plot, draw(result))
        print(f"\npicture     {parsed.plot}")
    return 130 if result.stopped else 0


def serve(arguments: Sequence[str]) -> int:
    """Answer over HTTP, with a page to drop images on."""
    parsed = parse(ServeArguments, "serve", arguments)
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


def compare(arguments: Sequence[str]) -> int:
    """Compare runs: one picture, one table, what differs."""
    parsed = parse(CompareArguments, "compare", arguments)
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
        write(parsed.json, json.dumps(to_dict(comparison), indent=2))
    print(f"\npicture     {parsed.output}")
    return 0


def models(arguments: Sequence[str]) -> int:
    """List the nets of the family, with what they cost."""
    parsed = parse(ModelsArguments, "models", arguments)
    names = set(list_models(parsed.pattern))
    nets = [net for net in TABLE if net.name in names]
    if not nets:
        known = [net.name for net in TABLE]
        raise UserError(f"No net matches {parsed.pattern!r}.{nearest(parsed.pattern, known)}")
    print(json.dumps([asdict(net) for net in nets], indent=2) if parsed.json else net_table(nets))
    return 0


def weights(arguments: Sequence[str]) -> int:
    """Inspect or convert files of weights, ours and others'."""
    commands = {"inspect": InspectArguments, "convert": ConvertArguments}
    parsed = parse_command("weights", arguments, commands)
    if parsed is None:
        return 0
    from resnestkit.conversion import convert, inspect  # noqa: PLC0415  (torch loads here)

    if isinstance(parsed, ConvertArguments):
        made = convert(parsed.source, parsed.target, parsed.net, parsed.to)
        print(f"{parsed.target} holds a {made}")
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
    parsed = parse_command("data", arguments, {"convert": ConvertDataArguments})
    if isinstance(parsed, ConvertDataArguments):
        from resnestkit.data.detection.voc import convert_voc  # noqa: PLC0415  (torch loads here)

        print(conversion_table(convert_voc(parsed.source, parsed.target)))
    return 0
