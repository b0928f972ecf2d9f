"""torch.hub loads the repository as it lies here."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resnestkit import UserError, create_model
from resnestkit.models.zoo import TABLE

REPOSITORY = str(Path(__file__).parents[2])
DEPENDENCIES = {"jaxtyping", "numpy", "rich", "safetensors", "torch", "torchvision"}


def test_every_net_is_listed_by_all_its_names_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Listing knows no local repositories: this one stands for what would be downloaded.
    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *_, **__: REPOSITORY)
    names = {name for net in TABLE for name in (net.name, *net.aliases)}
    assert set(torch.hub.list("owner/name")) == names
    for name in ("resnest50", "resnest50d"):
        said = torch.hub.help("owner/name", name)
        assert said.startswith(name)
        assert "resnest50" in said
        assert "27.5 M parameters" in said


def test_a_net_is_loaded_as_create_model_makes_it() -> None:
    torch.manual_seed(1)
    hubs = torch.hub.load(REPOSITORY, "resnest14d", source="local", weights=None, classes=10).eval()
    torch.manual_seed(1)
    ours = create_model("resnest14", classes=10).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(hubs(images), ours(images))


def test_pretrained_is_imagenet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESNESTKIT_OFFLINE", "1")
    monkeypatch.setenv("RESNESTKIT_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"resnet18.* is not in"):
        torch.hub.load(REPOSITORY, "resnet18", source="local", pretrained=True)


def test_the_package_need_not_be_installed() -> None:
    """As from GitHub: the repository's files, and what `dependencies` names."""
    program = f"""
import importlib.util, sys
sys.path = [path for path in sys.path if not path.rstrip("/").endswith("src")]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
assert importlib.util.find_spec("resnestkit") is None

import jaxtyping, numpy, rich, safetensors, torch, torchvision
before = set(sys.modules)
net = torch.hub.load({REPOSITORY!r}, "resnet23_small", source="local", classes=10)
assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
files = {{name: getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - before}}
others = {{name.split(".")[0] for name, file in files.items() if "site-packages" in (file or "")}}
assert others <= {DEPENDENCIES!r}, others
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_dependencies_are_named() -> None:
    spec = importlib.util.spec_from_file_location("conf", f"{REPOSITORY}/hubconf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    assert set(conf.dependencies) == DEPENDENCIES
