"""Each finding: provoked, and not provoked."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from resnestkit import Recipe, UserError, cli
from resnestkit.data.findings import Finding
from resnestkit.data.survey import Twin, look_at
from resnestkit.progress import Reporter
from resnestkit.training import doctor
from resnestkit.training.checkup import Checkup, check_up
from resnestkit.training.doctor import Balance
from resnestkit.training.memory import StepMemory
from resnestkit.training.preflight import warn

QUIET = Reporter(quiet=True)
SMALL = {"model": "resnest23_small", "size": 16, "crop_ratio": 1.0, "batch_size": 8, "epochs": 20}
SMALL |= {"precision": "float32", "device": "cpu", "warmup_epochs": 2.0}


def only(findings: Iterable[Finding], severity: str, *words: str) -> Finding:
    (finding,) = findings
    assert finding.severity == severity
    assert all(word in str(finding) for word in words), str(finding)
    return finding


def none(findings: Iterable[Finding]) -> None:
    assert list(findings) == []


def test_imbalance() -> None:
    only(doctor.find_imbalance(Balance({"a": 50, "b": 4})), "note", "12 times", "b (4)")
    none(doctor.find_imbalance(Balance({"a": 50, "b": 40})))


def test_copies() -> None:
    def find(splits: tuple[str, str], labels: tuple[int, int]) -> Iterable[Finding]:
        twin = Twin("same", splits, ("x.png", "y.png"), labels)
        return doctor.find_twins_findings([twin], ["cat", "dog"])

    only(find(("train", "val"), (0, 0)), "wrong", "train and val both", "x.png = y.png")
    only(find(("train", "train"), (0, 1)), "wrong", "two labels", "cat and dog")
    only(find(("train", "train"), (0, 0)), "note", "twice in train")
    none(doctor.find_twins_findings([], ["cat", "dog"]))


def test_small_and_grey_images() -> None:
    looks = [look_at(torch.full((3, 20, 20), 9, dtype=torch.uint8))]
    only(doctor.find_small_images(looks, 40), "note", "100%", "--size")
    none(doctor.find_small_images(looks, 39))
    only(doctor.find_grey(looks, Recipe()), "note", "grey")
    none(doctor.find_grey(looks, Recipe(mean=(0.5,), std=(0.2,))))
    none(doctor.find_grey(looks, Recipe(weights="imagenet1k")))
    colour = look_at(torch.eye(3, dtype=torch.uint8).view(3, 3, 1).expand(3, 3, 3))
    none(doctor.find_grey([*looks, colour], Recipe()))


def test_normalisation() -> None:
    recipe = Recipe()
    none(doctor.find_normalisation((0.5, 0.4, 0.5), (0.25, 0.2, 0.3), recipe))
    far = doctor.find_normalisation((0.1, 0.4, 0.5), (0.25, 0.2, 0.3), recipe)
    only(far, "note", "--mean 0.100 0.400 0.500", "own is the better start")
    narrow = ((0.5, 0.4, 0.5), (0.1, 0.2, 0.3))
    only(doctor.find_normalisation(*narrow, Recipe(weights="imagenet1k")), "note", "Leave it")


def test_batch() -> None:
    only(doctor.find_batch(Recipe(batch_size=4), 100), "note", "over 4 images", "--norm group")
    only(doctor.find_batch(Recipe(batch_size=64), 5), "note", "over 5 images")
    none(doctor.find_batch(Recipe(batch_size=8), 100))
    none(doctor.find_batch(Recipe(batch_size=4, norm="group"), 100))
    none(doctor.find_batch(Recipe(batch_size=4, norm="sync"), 100, processes=2))
    only(doctor.find_batch(Recipe(batch_size=4), 100, processes=2), "note", "--norm sync")


def test_rate() -> None:
    none(doctor.find_rate(Recipe(lr=0.1, batch_size=64)))
    only(doctor.find_rate(Recipe(lr=10, batch_size=256)), "wrong", "peaks at 10", "Lower --lr")
    only(doctor.find_rate(Recipe(lr=0.1, batch_size=256), 128), "wrong", "has 32768")
    only(doctor.find_rate(Recipe(lr=0.025, batch_size=64)), "note", "give --lr 0.1")
    only(doctor.find_rate(Recipe(lr=0.2, batch_size=64, accumulate=8)), "note", "give --lr 0.1")
    none(doctor.find_rate(Recipe(lr=0.1, batch_size=256)))


def test_schedule() -> None:
    none(doctor.find_schedule(Recipe(epochs=20), 1000))
    only(doctor.find_schedule(Recipe(epochs=9), 1000), "note", "--warmup-epochs 5", "4.5")
    only(doctor.find_schedule(Recipe(epochs=20, accumulate=8), 1000), "note", "move 40 times")
    assert doctor.steps_per_epoch(Recipe(accumulate=2), 320) == 3


def test_memory_and_speed() -> None:
    memory = StepMemory(weights=1, momentum=1, average=1, working=5, slack=2)
    assert memory.total == 10
    only(doctor.find_memory(memory, 9, Recipe()), "wrong", "Halve --batch-size 64")
    only(doctor.find_memory(memory, 11, Recipe()), "note", "close")
    none(doctor.find_memory(memory, 20, Recipe()))
    none(doctor.find_memory(memory, None, Recipe()))
    only(doctor.find_speed(10, 20), "slow", "reading limits", "--workers")
    none(doctor.find_speed(20, 10))


def look(data: Path, **settings: object) -> Checkup:
    recipe = Recipe(**(SMALL | settings))  # type: ignore[arg-type]
    return check_up(data, recipe, QUIET, speed=False)


def test_refusals_are_those_of_a_training(colours: Path, tmp_path: Path) -> None:
    assert not look(colours).refused
    lonely = look(colours, batch_size=1)
    assert lonely.refused
    assert "--norm group" in lonely.findings[0].text
    assert not look(colours, batch_size=1, norm="group").refused
    (colours / "red" / "00.png").write_bytes(b"")
    assert "red/00.png: the file is empty" in look(colours).findings[0].text
    assert not look(colours, skip_unreadable=True).refused
    foreign = tmp_path / "words.safetensors"
    foreign.write_bytes(b"words")
    assert look(colours, weights=str(foreign), skip_unreadable=True).refused
    with pytest.raises(UserError, match="no folder"):
        look(tmp_path / "nothing")


def test_a_training_says_only_what_is_wrong(
    colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(colours / "red" / "00.png", colours / "green" / "copy.png")
    patient = look(colours, epochs=1).patient
    warn(patient, Reporter(Console(force_terminal=False, width=80)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("wrong       One image is under two labels, such as green and red")


def typed(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(["doctor", *map(str, words)])
    return int(left.value.code or 0)


def test_the_screen_and_its_numbers(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    code = typed(colours, *words, "--json", tmp_path / "facts.json")
    out = capsys.readouterr().out
    assert code == 0
    for part in ("train       39 images of 16x16", "colour", "memory", "speed", "verdict", "blue"):
        assert part in out
    assert "\x1b" not in out
    assert len(out.splitlines()) < 40
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["splits"]["train"]["classes"] == {"blue": 13, "green": 13, "red": 13}
    assert facts["memory"]["total"] > 0
    assert facts["speed"]["loading"] > 0
    assert typed(colours, *words, "--no-speed", "--batch-size", "1") == 2
    assert "a training would be refused" in capsys.readouterr().out
