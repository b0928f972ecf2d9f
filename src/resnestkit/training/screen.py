"""What `resnestkit doctor` shows: one screen of facts, then the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.bar import Bar
from rich.table import Table

from resnestkit.data.findings import Finding
from resnestkit.data.survey import Look, Shape, describe_shapes
from resnestkit.progress import Reporter, format_seconds
from resnestkit.ranks import ranks
from resnestkit.training import doctor
from resnestkit.training.checkup import Checkup
from resnestkit.training.optimizer import peak_rate
from resnestkit.training.preflight import Patient

_CLASSES_SHOWN = 12


def show(checkup: Checkup, reporter: Reporter) -> None:
    """Print facts and findings."""
    lines = [*_data_lines(checkup), *_recipe_lines(checkup), *_machine_lines(checkup)]
    for name, words in lines:
        reporter.say(f"{name:<11} {words}")
    reporter.say("")
    reporter.console.print(_class_table(checkup))
    reporter.say("")
    for finding in checkup.findings or [_all_well()]:
        reporter.say(f"{finding.severity:<11} {finding}")
    if checkup.refused:
        reporter.say("verdict     a training would be refused")
    elif all(finding.severity == "note" for finding in checkup.findings):
        reporter.say("verdict     nothing stands in the way of a training")
    else:
        reporter.say("verdict     a training would start; look at the lines above first")


def _all_well() -> Finding:
    return Finding("note", "Nothing was found.", "")


def _data_lines(checkup: Checkup) -> list[tuple[str, str]]:
    patient = checkup.patient
    lines = []
    for split, one in patient.checked.items():
        bad = f", {len(one.unreadable)} unreadable" if one.unreadable else ""
        total = patient.counts[split].total()
        boxed = f", {total:,} {patient.things}" if patient.things != "images" else ""
        lines.append((split, f"{_describe(describe_shapes(one.looks))}{boxed}{bad}"))
    mean, std = patient.colours
    lines.append(("classes", _describe_classes(checkup)))
    lines.append(("colour", f"{_share(patient.looks)}, mean {_numbers(mean)}, std {_numbers(std)}"))
    recipe = patient.recipe
    lines.append(("", f"the recipe's: mean {_numbers(recipe.mean)}, std {_numbers(recipe.std)}"))
    return lines


def _describe(shape: Shape) -> str:
    smallest, median, largest = (
        f"{width}x{height}" for height, width in (shape.smallest, shape.median, shape.largest)
    )
    sizes = smallest if smallest == largest else f"{smallest}, median {median}, to {largest}"
    low, _, high = shape.aspects
    aspect = f", aspect {low:.2f} to {high:.2f}" if low != high else ""
    return f"{shape.count} images of {sizes}{aspect}"


def _describe_classes(checkup: Checkup) -> str:
    balance = checkup.patient.balance
    named = ", ".join(f"{name} ({balance.counts[name]:,})" for name in balance.smallest)
    words = f"{len(balance.counts)}; the largest is {balance.ratio:.1f} times the smallest"
    return f"{words}; fewest of {named}" if balance.ratio > 1.2 else words


def _share(looks: Sequence[Look]) -> str:
    return f"{doctor.share_grey(looks):.0%} grey"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _recipe_lines(checkup: Checkup) -> list[tuple[str, str]]:
    patient, recipe = checkup.patient, checkup.patient.recipe
    batch = recipe.batch_size * recipe.accumulate * ranks()
    moves = doctor.steps_per_epoch(recipe, len(patient.train.images), ranks())
    lines = [
        ("net", patient.describe()),
        ("schedule", f"{recipe.epochs} epochs x {moves} steps of {batch} images, learning rate up "
         f"to {peak_rate(recipe.lr, batch):.3g}"),
    ]  # fmt: skip
    return lines + ([("weights", checkup.weights)] if checkup.weights else [])


def _machine_lines(checkup: Checkup) -> list[tuple[str, str]]:
    patient = checkup.patient
    lines = [("compute", str(patient.compute))]
    if patient.memory is not None:
        free = "" if patient.free is None else f" of {patient.free / 1e9:.1f} GB free"
        lines.append(("memory", f"a step takes about {patient.memory.total / 1e9:.2f} GB{free}"))
    if checkup.speed is not None:
        loading, stepping = checkup.speed.loading, checkup.speed.stepping
        limit = "reading" if loading < stepping else "computing"
        lines.append(("speed", f"reading {loading:.3g} images/s, computing {stepping:.3g}: {limit} "
                      "limits; the "
                      f"whole run about {format_seconds(_duration(checkup))}"))  # fmt: skip
    return lines


def _duration(checkup: Checkup) -> float:
    """Seconds of all epochs; the validation is a forward pass, a third of a step."""
    assert checkup.speed is not None
    patient = checkup.patient
    held = len(patient.checked[patient.source.validation].images)
    images = len(patient.train.images) + held / 3
    return patient.recipe.epochs * images / (checkup.speed.together * ranks())


def _class_table(checkup: Checkup) -> Table:
    """A bar per class; of many classes, the smallest and the largest."""
    source, counts = checkup.patient.source, list(checkup.patient.counts.values())
    order = sorted(range(len(source.classes)), key=lambda label: counts[0][label])
    half = _CLASSES_SHOWN // 2
    shown = order if len(order) <= _CLASSES_SHOWN else [*order[:half], *order[-half:]]
    table = Table("class", *checkup.patient.counts, "", box=None, pad_edge=False)
    most = max(counts[0].values(), default=1)
    for label in shown:
        numbers = [f"{count[label]:,}" for count in counts]
        table.add_row(source.classes[label], *numbers, Bar(most, 0, counts[0][label], width=24))
    return table


def to_dict(checkup: Checkup) -> dict[str, Any]:
    """All numbers, as plain values."""
    patient = checkup.patient
    mean, std = patient.colours
    return {
        "recipe": patient.recipe.to_dict(),
        "classes": list(patient.source.classes),
        "splits": {split: _split(patient, split)
                   | {"unreadable": [asdict_of(bad) for bad in one.unreadable]}
                   for split, one in patient.checked.items()},
        "counted": patient.things,
        "mean": mean,
        "std": std,
        "twins": [asdict(twin) for twin in patient.twins],
        "memory": None if patient.memory is None else asdict(patient.memory)
        | {"total": patient.memory.total, "free": patient.free},
        "speed": None if checkup.speed is None else asdict(checkup.speed)
        | {"seconds": _duration(checkup)},
        "weights": checkup.weights,
        "findings": [asdict(finding) for finding in checkup.findings],
        "refused": checkup.refused,
        **patient.facts,
    }  # fmt: skip


def asdict_of(bad: Any) -> dict[str, str]:
    """An unreadable image."""
    return {"name": bad.name, "reason": bad.reason}


def _split(patient: Patient, split: str) -> dict[str, Any]:
    looks, counts = patient.checked[split].looks, patient.counts[split]
    return asdict(describe_shapes(looks)) | {
        "grey": doctor.share_grey(looks),
        "classes": {name: counts[label] for label, name in enumerate(patient.source.classes)},
    }
