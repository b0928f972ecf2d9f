"""timm creates our nets, and finds in them what it finds in its own."""

import copy
import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import timm.data
import torch
from timm.models import group_parameters

import resnestkit
from resnestkit import UserError, create_model, list_models
from resnestkit.models.zoo import find_net
from resnestkit.plugins.timm_registry import PREFIX
from resnestkit.weights.manifest import MANIFEST, find_published

NAMES = resnestkit.register_with_timm()
DEEP = ("resnet18", "resnest14", "seresnet50a", "sknet23_small")
DEEP += tuple(list_models("se_*inception*"))
IMAGES = torch.randn(2, 3, 96, 96)


def test_registering_is_explicit_complete_and_idempotent() -> None:
    program = (
        "import resnestkit, sys; resnestkit.register_with_timm; assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert [PREFIX + name for name in list_models()] == NAMES
    assert resnestkit.register_with_timm() == NAMES  # no warning that something is overwritten
    assert set(timm.list_models(f"{PREFIX}*")) == set(NAMES)
    pretrained = timm.list_models(f"{PREFIX}*", pretrained=True)
    assert set(pretrained) == {f"{PREFIX}{w.net}.{w.source}" for w in MANIFEST}


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'resnestkit\[timm\]'"):
        resnestkit.register_with_timm()


@pytest.mark.parametrize("name", list_models())
def test_every_net_is_created(name: str) -> None:
    with torch.device("meta"):
        made = timm.create_model(PREFIX + name)
    net = find_net(name)
    assert sum(weight.numel() for weight in made.parameters()) == net.params
    assert made.num_classes == made.pretrained_cfg["num_classes"] == net.classes
    assert made.pretrained_cfg["first_conv"] + ".weight" == made.first_weight
    assert made.get_submodule(made.pretrained_cfg["classifier"]) is made.get_classifier()


@pytest.mark.parametrize("name", DEEP)
def test_the_parts_of_the_call_are_the_call(name: str) -> None:
    theirs = timm.create_model(PREFIX + name, num_classes=5).eval()
    ours = create_model(name, classes=5).eval()
    ours.load_state_dict(theirs.state_dict())  # strictly: parameters keep their names
    with torch.no_grad():
        maps = theirs.forward_features(IMAGES)
        assert maps.shape[1] == theirs.num_features == ours.stages[-1].channels
        pooled = theirs.forward_head(maps, pre_logits=True)
        assert pooled.shape == (2, theirs.head_hidden_size)
        torch.testing.assert_close(theirs.forward_head(maps), ours(IMAGES))
        assert torch.equal(theirs(IMAGES), theirs.forward_head(maps))


@pytest.mark.parametrize("name", DEEP)
def test_features_are_the_levels(name: str) -> None:
    theirs = timm.create_model(PREFIX + name, features_only=True).eval()
    ours = create_model(name, classes=0).eval()
    ours.load_state_dict(theirs.state_dict())
    info = theirs.feature_info
    with torch.no_grad():
        maps = theirs(IMAGES)
        for got, expected in zip(maps, ours.forward_levels(IMAGES).values(), strict=True):
            assert torch.equal(got, expected)
    assert info.channels() == [m.shape[1] for m in maps]
    assert info.reduction() == [level.stride for level in ours.levels]
    for module in info.module_name():
        theirs.get_submodule(module)
    assert "num_classes" not in theirs.pretrained_cfg


def test_features_look_like_those_of_timms_own_net() -> None:
    """Every question that timm's users ask of features gets timm's answer."""
    for choice in ({}, {"out_indices": (1, 3)}, {"out_indices": (-2, -1)}, {"out_indices": 2}):
        ours = timm.create_model(f"{PREFIX}resnet18", features_only=True, **choice)
        theirs = timm.create_model("resnet18", features_only=True, **choice)
        assert ours.feature_info.channels() == theirs.feature_info.channels()
        assert ours.feature_info.reduction() == theirs.feature_info.reduction()
        ours.load_state_dict(theirs.state_dict())
        for got, expected in zip(ours.eval()(IMAGES), theirs.eval()(IMAGES), strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", DEEP)
def test_what_comes_after_the_last_level_is_dropped(name: str) -> None:
    net = timm.create_model(PREFIX + name, features_only=True, out_indices=(0, 2))
    full = create_model(name, classes=0)
    maps = net(IMAGES)
    assert [m.shape[1] for m in maps] == [full.levels[0].channels, full.levels[2].channels]
    sum(m.sum() for m in maps).backward()
    assert all(weight.grad is not None for weight in net.parameters())
    assert len(net.state_dict()) < len(full.state_dict())


@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride(stride: int) -> None:
    net = timm.create_model(f"{PREFIX}resnest14", features_only=True, output_stride=stride).eval()
    assert net.feature_info.reduction()[-1] == stride
    assert net(torch.zeros(1, 3, 64, 64))[-1].shape[-1] == 64 // stride


def test_options_reach_the_net() -> None:
    net = timm.create_model(
        f"{PREFIX}resnet18", in_chans=1, num_classes=4, drop_rate=0.3, drop_path_rate=0.2
    )
    assert net.in_chans == 1
    assert net.drop_rate == 0.3
    assert not torch.equal(*(net.train()(IMAGES[:, :1]) for _ in range(2)))
    assert timm.create_model(f"{PREFIX}resnest200", num_classes=0, device=None).drop_rate == 0.2


def test_without_classifier_and_with_another() -> None:
    net = timm.create_model(f"{PREFIX}resnet18", num_classes=0).eval()
    assert net(IMAGES).shape == (2, 512)
    net.reset_classifier(0, "")
    assert net(IMAGES).shape == (2, 512, 3, 3)
    net.double().reset_classifier(6, "avg")
    assert net(IMAGES.double()).shape == (2, 6)
    assert net.get_classifier() is net.fc
    with pytest.raises(UserError, match="num_classes=0 only"):
        net.reset_classifier(6, "")
    with pytest.raises(UserError, match="global_pool is 'max'"):
        timm.create_model(f"{PREFIX}resnet18", global_pool="max")


def test_intermediates() -> None:
    net = timm.create_model(f"{PREFIX}resnet18").eval()
    last, maps = net.forward_intermediates(IMAGES, indices=2)
    assert [m.shape[1] for m in maps] == [256, 512]
    assert torch.equal(last, maps[-1])
    only = net.forward_intermediates(IMAGES, indices=[0, -1], intermediates_only=True)
    assert [m.shape[1] for m in only] == [64, 512]
    with pytest.raises(UserError, match="NCHW"):
        net.forward_intermediates(IMAGES, output_fmt="NHWC")
    with pytest.raises(UserError, match=r"levels 0 \(the stem\) to 4"):
        timm.create_model(f"{PREFIX}resnet18", features_only=True, out_indices=(5,))


def test_parameters_fall_into_groups_by_level() -> None:
    net = timm.create_model(f"{PREFIX}resnest14")
    groups = group_parameters(net, net.group_matcher(coarse=True))
    assert len(groups) == 6
    assert set(groups[0]) == {
        n for n, _ in net.named_parameters() if n.startswith(("conv1.", "bn1."))
    }
    assert set(groups[5]) == {"fc.weight", "fc.bias"}
    net.set_grad_checkpointing(False)
    with pytest.raises(UserError, match="checkpointing"):
        net.set_grad_checkpointing()


def test_preprocessing_is_that_of_the_weights() -> None:
    for name in ("resnest269", "resnest50", "resnet50", "resnet50.torchvision_v1"):
        with torch.device("meta"):
            net = timm.create_model(PREFIX + name)
        config = timm.data.resolve_model_data_config(net)
        images = find_published(*name.replace(".", " ").split()).preprocessing
        assert config["input_size"] == (3, images.size, images.size)
        assert config["crop_pct"] == images.crop_ratio
        assert config["interpolation"] == images.interpolation
        assert (config["mean"], config["std"]) == (images.mean, images.std)


@pytest.fixture
def published_in_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of a resnet18 where a download would put them, and no network."""
    monkeypatch.setenv("RESNESTKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("RESNESTKIT_OFFLINE", "1")
    weights = create_model("resnet18").state_dict()
    torch.save(weights, tmp_path / "mine.pth")
    digits = hashlib.sha256((tmp_path / "mine.pth").read_bytes()).hexdigest()[:8]
    (tmp_path / "mine.pth").rename(tmp_path / f"resnet18-{digits}.pth")
    entry = replace(find_published("resnet18"), file=f"resnet18-{digits}.pth")
    monkeypatch.setattr("resnestkit.plugins.timm_models.find_published", lambda *_: entry)
    return weights


def test_pretrained_weights_come_by_our_downloader(
    published_in_cache: dict[str, torch.Tensor],
) -> None:
    kept = published_in_cache["layer1.0.conv1.weight"]
    net = timm.create_model(f"{PREFIX}resnet18", pretrained=True)
    assert torch.equal(net.fc.weight, published_in_cache["fc.weight"])
    net = timm.create_model(f"{PREFIX}resnet18", pretrained=True, num_classes=3, in_chans=4)
    assert torch.equal(net.layer1[0].conv1.weight, kept)
    assert net.head_is_new
    features = timm.create_model(f"{PREFIX}resnet18", pretrained=True, features_only=True)
    assert torch.equal(features.layer1[0].conv1.weight, kept)


def test_no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights of that name are published for resnet101a"):
        timm.create_model(f"{PREFIX}resnet101a", pretrained=True)
    monkeypatch.setenv("RESNESTKIT_OFFLINE", "1")
    with pytest.raises(UserError, match="is not in"):
        timm.create_model(f"{PREFIX}resnet18", pretrained=True, cache_dir=tmp_path)


def test_weights_that_timm_finds(tmp_path: Path) -> None:
    """A file, and a folder that timm's own saving wrote."""
    ours = create_model("resnet18", classes=5)
    torch.save(ours.state_dict(), tmp_path / "mine.pth")
    overlay = {"file": str(tmp_path / "mine.pth"), "num_classes": 5}
    net = timm.create_model(f"{PREFIX}resnet18", pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(net.fc.weight, ours.fc.weight)
    timm.models.save_for_hf(net, tmp_path / "saved")
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    assert torch.equal(again.fc.weight, ours.fc.weight)


def test_copies_and_pickles() -> None:
    net = timm.create_model(f"{PREFIX}resnet18", num_classes=3).eval()
    features = timm.create_model(f"{PREFIX}resnet18", features_only=True, out_indices=(1,)).eval()
    for model in (net, features):
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(other) is type(model)
            expected, got = model(IMAGES), other(IMAGES)
            assert all(map(torch.equal, expected, got))
    assert timm.utils.ModelEmaV3(net).module.num_classes == 3
