"""The table of nets: names, patterns, and what the rows say of each other."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict

import pytest

from resnestkit.errors import UserError
from resnestkit.models.zoo import TABLE, find_net, list_models


def test_no_name_means_two_nets() -> None:
    names = [name for net in TABLE for name in (net.name, *net.aliases)]
    assert len(names) == len(set(names))


def test_every_name_and_alias_finds_its_row() -> None:
    for net in TABLE:
        assert all(find_net(name) is net for name in (net.name, *net.aliases))


def test_rows_are_listed_by_pattern_in_the_order_of_the_table() -> None:
    assert list_models() == [net.name for net in TABLE]
    assert list_models("resnest*50") == ["resnest50"]
    assert list_models("resnest50_fast_?s2x40d") == [
        "resnest50_fast_1s2x40d",
        "resnest50_fast_2s2x40d",
        "resnest50_fast_4s2x40d",
    ]
    assert list_models("se*154") == ["senet154"]
    assert list_models("RESNET50") == []


def test_the_family_is_complete() -> None:
    """Every net that the README promises is a row."""
    assert list_models("resnest???") == ["resnest101", "resnest200", "resnest269"]
    assert len(list_models("resnest50_fast_*")) == 7
    assert len(list_models("*_small")) == 5
    assert len(list_models("*inception*")) == 4
    for family in ("resnet", "resnext", "seresnet", "seresnext", "senet", "sknet", "resnest"):
        assert list_models(f"{family}*"), family


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("resnest5O", "resnest50"), ("resnest50x", "resnest50"), ("senet145", "senet154")],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"{wrong}.*Did you mean [^?]*\b{meant}\b"):
        find_net(wrong)


def test_a_name_like_nothing_is_answered_without_a_guess() -> None:
    with pytest.raises(UserError, match="resnestkit models") as caught:
        find_net("vgg16")
    assert "Did you mean" not in str(caught.value)


def test_the_small_twins_cost_the_same_within_five_percent() -> None:
    costs = [find_net(name).gmacs for name in list_models("*_small")]
    assert max(costs) < 1.05 * min(costs)


def test_the_small_twins_share_stages_and_differ_in_the_attention() -> None:
    specs = [asdict(find_net(name).spec) for name in list_models("*_small")]
    for shared in ("layers", "widths", "stem", "stem_width", "pool", "block"):
        assert len({spec[shared] for spec in specs}) == 1, shared
    kinds = [
        (spec["radix"] > 0, spec["se_reduction"] > 0, spec["sk"] is not None) for spec in specs
    ]
    assert len(set(kinds)) == 4, "plain (and grouped plain), split attention, SE, SK"


@pytest.mark.parametrize(
    "name", ["resnet50", "resnest50", "sknet50", "se_bn_inception", "se_inception_resnet_v2"]
)
def test_every_step_of_the_family_is_one_change_of_a_spec(name: str) -> None:
    """ResNeSt is D with split attention, SKNet ResNeXt with selective kernels; SE adds a gate."""
    changed = {
        "resnet50": ("seresnet50", {"se_reduction"}),
        "resnest50": ("resnet50d", {"radix", "avd"}),
        "sknet50": ("resnext50_32x4d", {"sk"}),
        "se_bn_inception": ("bn_inception", {"se_reduction"}),
        "se_inception_resnet_v2": ("inception_resnet_v2", {"se_reduction"}),
    }
    other, fields = changed[name]
    one, two = asdict(find_net(name).spec), asdict(find_net(other).spec)
    assert {field for field in one if one[field] != two[field]} == fields


@pytest.mark.parametrize("module", ["resnestkit.models.zoo", "resnestkit.models.spec"])
def test_the_table_imports_without_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'torchvision'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
