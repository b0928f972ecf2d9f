"""Train from data and a recipe to a run folder: the whole way, in one function."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from resnestkit.compute import Compute, choose_compute, choose_device, explain_memory
from resnestkit.data.seeding import mix_seed
from resnestkit.errors import UserError
from resnestkit.models.cost import Cost
from resnestkit.models.zoo import Net, find_net
from resnestkit.ops.kernels import why_no_kernels
from resnestkit.progress import Reporter
from resnestkit.ranks import is_first, joined, rank, restarts, share, wait
from resnestkit.tasks.base import score_name
from resnestkit.training.build import resolve, resolve_data
from resnestkit.training.classification import prepare_classification
from resnestkit.training.detection import prepare_detection
from resnestkit.training.job import Job
from resnestkit.training.live import LiveReport
from resnestkit.training.loop import Trainer
from resnestkit.training.observers import Observer, Observers
from resnestkit.training.panoptic import prepare_panoptic
from resnestkit.training.recipe import (
    BaseRecipe,
    DetectionRecipe,
    PanopticRecipe,
    Recipe,
    SegmentationRecipe,
)
from resnestkit.training.run import RunFolder
from resnestkit.training.segmentation import prepare_segmentation
from resnestkit.training.tensorboard import Board, require_tensorboard
from resnestkit.weights.checkpoint import current_versions


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished training left."""

    run: RunFolder
    evaluation: Any
    """The best model on the validation images, in float32. The epoch was chosen on these images.
    An `Evaluation` of a classifier, a `DetectionEvaluation` of a detector, a
    `SegmentationEvaluation` of a segmenter, a `PanopticEvaluation` of a panoptic net."""
    best_epoch: int
    last_score: float
    """Score (accuracy, AP, mIoU or PQ) of the last epoch, for which nothing was chosen."""
    cost: Cost
    """Parameters, and multiply-adds at the size evaluated with."""
    images_per_second: float
    """Median over the epochs, of training alone."""


def train(
    data: str | Path,
    recipe: BaseRecipe,
    output: str | Path | None = None,
    *,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train, evaluate and report. Under torchrun, every process calls this and gets the result.

    Args:
        data: "digits", or a folder of images by class; "shapes", or a COCO folder, for a detector;
            "scenes", or a folder of images and masks, for a segmenter; "scenes", or a folder of
            COCO's panoptic form, for a panoptic net.
        recipe: every setting; its kind, `Recipe`, `DetectionRecipe`, `SegmentationRecipe` or
            `PanopticRecipe`, says what is trained.
        output: the run folder to make; None is runs/<net>-<time>.
        reporter: where progress goes; None prints to standard output.

    Raises:
        UserError: for anything the user can mend; Interrupted after a signal, with all saved.
    """
    with joined():
        if output is not None and restarts() and RunFolder(Path(output)).config.exists():
            return resume(output, reporter=reporter)
        net = find_net(recipe.model)
        recipe = resolve(recipe, net)
        origin = resolve_data(data)
        run = share(_new_run(net, output, origin) if is_first() else None)
        assert run is not None
        return _train(run, origin, recipe, reporter or _reporter(), resumed=False)


def resume(
    path: str | Path, data: str | Path | None = None, *, reporter: Reporter | None = None
) -> TrainResult:
    """Go on with a stopped run; on a CPU with as many threads, to the same bits.

    Args:
        path: the run's folder.
        data: where the images are now, if they moved; they must be the same images.
        reporter: where progress goes; None prints to standard output.

    Raises:
        UserError: the folder holds no run, or the images are others.
    """
    with joined():
        run, origin, recipe = RunFolder.open(Path(path))
        moved = origin if data is None else resolve_data(data)
        reporter = reporter or _reporter()
        return _train(run, moved, _without_kernels(recipe, reporter), reporter, resumed=True)


def _without_kernels(recipe: BaseRecipe, reporter: Reporter) -> BaseRecipe:
    """The recipe without kernels, if the run had some and this machine has none."""
    if not recipe.kernels:
        return recipe
    reason = why_no_kernels(choose_device(recipe.device))
    if reason is None:
        return recipe
    reporter.say(f"kernels     {reason} Going on without them, to other last bits.")
    return replace(recipe, kernels=False)


def _reporter() -> Reporter:
    """One process speaks for all."""
    return Reporter(quiet=not is_first())


def _new_run(net: Net, output: str | Path | None, origin: str) -> RunFolder:
    run = RunFolder.new(net.name) if output is None else RunFolder(Path(output))
    _keep_apart(run, origin)
    if output is not None:
        run.check_free()
    return run


def _keep_apart(run: RunFolder, origin: str) -> None:
    if Path(origin).is_absolute() and run.path.resolve().is_relative_to(origin):
        raise UserError(
            f"The run folder {run.path} would lie inside the data, where it would be taken for a "
            "class. Choose an --output elsewhere."
        )


def _train(
    run: RunFolder, data: str, recipe: BaseRecipe, reporter: Reporter, *, resumed: bool
) -> TrainResult:
    if recipe.tensorboard:
        require_tensorboard()
    compute = choose_compute(recipe.device, recipe.precision, channels_last=recipe.channels_last)
    torch.manual_seed(recipe.seed)
    states = run.states(recipe.keep_states)
    starts = share(not any(state.exists() for state in states))
    job = _prepare(data, recipe, compute, reporter, load=starts)

    # Only now, when nothing the user could mend stands in the way, is the folder taken.
    if not resumed and is_first():
        run.take(data, job.recipe, current_versions())
    if rank():
        torch.manual_seed(mix_seed(recipe.seed, rank()))  # each drops and mixes its own
    reporter.say(f"run         {run.path}")
    trainer = Trainer(
        job.model, job.task, job.recipe, job.loaders, run, job.card, compute, reporter,
        job.heads, job.head_lr,
    )  # fmt: skip
    if not starts:
        trainer.resume()
    advice = f"Halve --batch-size {recipe.batch_size}, and double --accumulate to make up for it."
    report = LiveReport(run, job.card, job.recipe, job.task, job.validation, job.split)
    watching: dict[str, Observer[Any]] = {"report": report} if is_first() else {}
    if recipe.tensorboard and is_first():
        watching["tensorboard"] = Board(run.path / "tensorboard")
    observers = Observers(reporter, watching)
    trainer.on_epoch = observers
    with explain_memory(advice), observers:
        trainer.fit()
        wait()  # until the first process has written the last epoch's files
        best = compute.place(job.load(run.best))
        result = trainer.evaluate(best, replace(compute, bfloat16=False))
    best_epoch, records = trainer.position.best_epoch, trainer.records
    if is_first():
        run.write_json("evaluation.json", {"classes": job.card.classes, **asdict(result)})
        observers.attempt("report", lambda: report.finish(trainer.position, records, result))
    speeds = sorted(record["images_per_second"] for record in records)
    speed, last = speeds[len(speeds) // 2], records[-1][f"val_{score_name(result.metrics)}"]
    return TrainResult(run, result, best_epoch, last, job.cost, speed)


def _prepare(
    data: str, recipe: BaseRecipe, compute: Compute, reporter: Reporter, *, load: bool
) -> Job[Any, Any]:
    if isinstance(recipe, PanopticRecipe):  # which is a detector's too
        return prepare_panoptic(data, recipe, compute, reporter)
    if isinstance(recipe, DetectionRecipe):
        return prepare_detection(data, recipe, compute, reporter)
    if isinstance(recipe, SegmentationRecipe):
        return prepare_segmentation(data, recipe, compute, reporter)
    assert isinstance(recipe, Recipe)
    return prepare_classification(data, recipe, compute, reporter, load=load)
