"""Names of other codes: to ours and back, for every net, without two names meeting."""

import functools

import pytest
import torch

from resnestkit import create_model
from resnestkit.models.zoo import TABLE
from resnestkit.weights.names import DIALECTS, Dialect, find_dialect, from_ours, to_ours

NETS = ["resnet18", "resnet50", "resnet50d", "seresnet50a", "senet154", "sknet50", "resnest50"]


@functools.cache
def names_of(net: str) -> dict[str, str]:
    with torch.device("meta"):
        return {name: name for name in create_model(net).state_dict()}


# Detectron2 has no SE-Net and no SK-Net, and no deep stem without averaged shortcuts.
PAIRS = [(n, d) for n in NETS for d in DIALECTS if d != "detectron2" or n not in {"senet154"}]


@pytest.mark.parametrize(("net", "dialect"), PAIRS)
def test_there_and_back(net: str, dialect: Dialect) -> None:
    ours = names_of(net)
    theirs = from_ours(ours, dialect)
    assert len(theirs) == len(ours)
    back, found = to_ours(theirs)
    assert back == {name: name for name in ours}
    assert found == dialect or (dialect == "openmmlab" and theirs == ours)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone.", "_orig_mod."])
def test_prefixes_and_the_rest_of_a_detector_fall_away(net: str, prefix: str) -> None:
    ours = names_of(net)
    wrapped = {prefix + name: name for name in ours} | {"neck.conv.weight": "neck"}
    assert to_ours(wrapped)[0] == {name: name for name in ours}


def test_caffe_names_are_timms_legacy_names() -> None:
    timm = pytest.importorskip("timm", reason="timm is a test-only peer")
    pairs = [(net.name, a) for net in TABLE for a in net.aliases if a.startswith("legacy_")]
    pairs += [(net.name, net.name) for net in TABLE if net.name.startswith("legacy_")]
    assert len(pairs) == 6
    for name, theirs in pairs:
        with torch.device("meta"):
            peer = timm.create_model(theirs).state_dict()
            ours = create_model(name).state_dict()
        renamed, dialect = to_ours(peer)
        assert dialect == "caffe"
        assert {n: t.shape for n, t in renamed.items()} == {n: t.shape for n, t in ours.items()}


def test_detectron2_names_of_a_resnest_stem_and_block() -> None:
    """As in the authors' fork: resnest/d2/resnest.py of zhanghang1989/ResNeSt at 1dfb3e8."""
    theirs = {
        "backbone.bottom_up.stem.conv1_1.weight": "conv1.0.weight",
        "backbone.bottom_up.stem.conv1_1.norm.running_mean": "conv1.1.running_mean",
        "backbone.bottom_up.stem.conv1_3.weight": "conv1.6.weight",
        "backbone.bottom_up.stem.conv1_3.norm.bias": "bn1.bias",
        "backbone.bottom_up.res2.0.conv1.norm.weight": "layer1.0.bn1.weight",
        "backbone.bottom_up.res2.0.conv2.bn1.weight": "layer1.0.conv2.bn1.weight",
        "backbone.bottom_up.res3.0.shortcut.weight": "layer2.0.downsample.1.weight",
        "backbone.bottom_up.res3.0.shortcut.norm.weight": "layer2.0.downsample.2.weight",
        "proposal_generator.anchor_generator.cell_anchors.0": "",
    }
    expected = {ours: ours for ours in theirs.values() if ours}
    assert to_ours(theirs)[0] == expected


def test_our_own_names_are_no_dialect() -> None:
    for net in NETS:
        assert find_dialect(names_of(net)) == "resnestkit"
