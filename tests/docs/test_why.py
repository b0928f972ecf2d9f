"""The guides say what is so: their Python runs, prints what they say, and their figures are there.

Of the other guides, that of `explain` runs here, with a small net and a picture in place of the
reader's. The rest train on the reader's data from downloaded weights, or open files that an export
makes in minutes; what they call is tested in the rooms that do it.
"""

import contextlib
import importlib
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from resnestkit import NetSpec, UserError, load_model, save_model
from resnestkit.models.attention import SplitAttention
from resnestkit.models.build import build_net
from resnestkit.preprocessing import Preprocessing

DOCS = Path(__file__).parents[2] / "docs"
WHY = DOCS / "why.md"


def run_blocks(guide: Path, names: dict[str, Any]) -> list[tuple[list[str], list[str]]]:
    """Run a guide's Python in order; what each block printed, and what it says it prints."""
    text = guide.read_text(encoding="utf-8")
    results = []
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        line, printed = text[: block.start(1)].count("\n"), io.StringIO()
        code = compile("\n" * line + block[1], str(guide), "exec")  # errors name the guide's line
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        said = re.findall(r"^# -> (.*)$", block[1], re.MULTILINE)
        results.append((printed.getvalue().splitlines(), said))
    return results


def save_tiny(checkpoint: Path, image: Path) -> nn.Module:
    """A small ResNeSt that passes for trained, and a picture of noise."""
    spec = NetSpec((1, 1, 3, 1), widths=(8, 8, 8, 8), stem="small", stem_width=8, radix=2)
    net = build_net(spec, classes=2).eval()
    net.head_is_new = False
    save_model(net, checkpoint, ["cat", "dog"], Preprocessing.for_images(32, 3))
    Image.effect_noise((32, 32), 60).convert("RGB").save(image)
    return net


def test_why_runs_and_prints_what_it_says() -> None:
    results = run_blocks(WHY, {})
    assert len(results) > 10
    for printed, said in results:
        assert printed == said


def test_the_guide_of_explain_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    net = save_tiny(Path("runs/mine/best.safetensors"), Path("cat.jpg"))
    names = {"net": net, "images": torch.rand(2, 3, 32, 32), "paths": ["cat.jpg"]}
    assert len(run_blocks(DOCS / "guides" / "explain.md", names)) == 1
    assert names["seen"].attention("layer3.2").entropy == pytest.approx(1)  # as its comment says


def test_nothing_in_why_is_left_to_be_measured() -> None:
    assert "not measured" not in WHY.read_text(encoding="utf-8")


def test_figures_and_links_of_why_exist() -> None:
    text = WHY.read_text(encoding="utf-8")
    figures = {DOCS / name for name in re.findall(r"!\[.+?\]\((.+?)\)", text)}
    assert figures == set((DOCS / "why").glob("*.png"))
    for figure in figures:
        with Image.open(figure) as image:
            assert image.width > 600
    for link in re.findall(r"(?<!!)\[.+?\]\(([^#)]+)\)", text):
        assert (DOCS / link).exists(), link


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import one of the scripts."""
    monkeypatch.syspath_prepend(DOCS.parent / "scripts")
    return importlib.import_module


def table_after(mark: str) -> list[list[str]]:
    """The cells of a marked table of the guide, without its head."""
    part = WHY.read_text(encoding="utf-8").split(mark)[1].split("<!-- end -->")[0]
    return [line.strip("| ").split(" | ") for line in part.strip().splitlines()[2:]]


def test_the_table_of_costs_is_what_the_script_prints(script: Any) -> None:
    printed = [line.strip("| ").split(" | ") for line in script("why").table().splitlines()[2:]]
    said = table_after("<!-- the table of: scripts/why.py times -->")
    assert [row[:5] for row in said] == [row[:5] for row in printed]


def test_the_table_of_arms_has_their_costs(script: Any) -> None:
    trials = script("why_experiments")
    costs = {words: trials.cost_of(arm) for arm, (_, words) in trials.ARMS.items()}
    said = table_after("<!-- the tables of: scripts/why_experiments.py -->")
    assert {row[0] for row in said} == set(costs)
    for row in said:
        cost = costs[row[0]]
        assert row[2:4] == [f"{cost.params:,}", f"{cost.macs / 1e6:.2f} M"]


def test_all_figures_can_be_made_again(script: Any, tmp_path: Path) -> None:
    why = script("why")
    why.write_figures(tmp_path)
    save_tiny(tmp_path / "net.safetensors", tmp_path / "noise.jpg")
    why.write_attention(str(tmp_path / "net.safetensors"), tmp_path, 1, tmp_path)
    made = {path.name for path in tmp_path.glob("*.png")}
    assert made == {path.name for path in (DOCS / "why").glob("*.png")}


def first_trial(trials: ModuleType, arm: str) -> tuple[nn.Module, Any]:
    """An arm's net with random norms, and its last attention."""
    net = trials.build(arm, 10).eval()
    return net, net.get_submodule("layer4.1.conv2")


def test_the_arm_of_resnest_is_split_attention(script: Any) -> None:
    trials = script("why_experiments")
    net, trial = first_trial(trials, "own")
    plain = build_net(trials.NET.spec, classes=10).eval()
    plain.load_state_dict(net.state_dict())
    theirs = plain.get_submodule("layer4.1.conv2")
    assert type(theirs) is SplitAttention
    maps = torch.randn(2, theirs.conv.in_channels, 4, 4)
    torch.testing.assert_close(trial(maps), theirs(maps))


def test_arms_weigh_as_they_say(script: Any) -> None:
    trials = script("why_experiments")
    weights = {}
    for arm in trials.ARMS:
        net, trial = first_trial(trials, arm)
        nn.init.normal_(trial.fc2.weight)
        with trials.watch(net) as seen, torch.inference_mode():
            net(torch.randn(4, 3, 16, 16))
        weights[arm] = seen["layer4.1.conv2"].numbers()
    for arm in ("own", "one-gate", "one-dense"):
        assert weights[arm]["sum"] == pytest.approx(1)
    assert weights["sigmoid"]["sum"] != pytest.approx(1, abs=1e-4)
    assert weights["one-dense"]["spread"] < 1e-6 < weights["own"]["spread"]
    assert weights["one-dense"]["entropy"] == pytest.approx(1)
    assert weights["own"]["entropy"] < 0.999


def test_a_gate_for_each_group_reads_that_group_alone(script: Any) -> None:
    trials = script("why_experiments")
    moved = {}
    for arm in ("own", "one-gate"):
        gate = first_trial(trials, arm)[1].gate
        squeezed = torch.rand(1, 160, 1, 1)
        changed = squeezed.clone()
        changed[:, 80:] += 1
        difference = (gate(changed) != gate(squeezed)).view(2, 2, 80)
        moved[arm] = difference[:, 0].any().item()
    assert moved == {"own": False, "one-gate": True}


@pytest.mark.parametrize("arm", ["one-gate", "sigmoid", "one-dense"])
def test_checkpoints_of_other_gates_do_not_load(script: Any, arm: str, tmp_path: Path) -> None:
    trials = script("why_experiments")
    net = trials.build(arm, 10)
    with pytest.raises(UserError, match="nobody could load it"):
        save_model(net, tmp_path / "net.safetensors")
    plain = tmp_path / "plain.safetensors"
    save_model(build_net(trials.NET.spec, classes=10), plain)
    assert load_model(plain)[1].spec == trials.NET.spec
