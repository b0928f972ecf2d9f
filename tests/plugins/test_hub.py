"""To the Hugging Face hub and back, with its client's own code and a folder for the network."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError

import resnestkit
from resnestkit import Predictor, UserError, create_model
from resnestkit.plugins import hub_model
from resnestkit.plugins.hub_model import HubModel
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.checkpoint import CLASSIFIER, ModelCard, save_tensors

IMAGES = torch.randn(2, 1, 64, 64)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A grey net of three classes, as `resnestkit train` leaves it."""
    model = create_model("resnest14", classes=3, in_channels=1)
    card = ModelCard(
        kind=CLASSIFIER,
        net="resnest14",
        spec=model.spec,
        classes=("cat", "dog | wolf", "no_class"),
        preprocessing=Preprocessing(64, 0.9, "bicubic", (0.4,), (0.2,)),
        metrics={"top1": 0.93214},
        data={"origin": "/home/me/pets", "fingerprint": "ab", "held_out": None, "seed": 0},
    )
    save_tensors(tmp_path / "best.safetensors", model.state_dict(), card.to_dict())
    return tmp_path / "best.safetensors"


class Hub:
    """A hub in a folder: what the client sends is put there, and what it asks is taken there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.created, self.commits = folder, [], []
        api = huggingface_hub.HfApi
        monkeypatch.setattr(api, "create_repo", self.create)
        monkeypatch.setattr(api, "upload_folder", self.upload)
        monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", self.download)
        monkeypatch.setattr(hub_model, "hf_hub_download", self.download)

    def create(self, repo_id: str, **how: Any) -> SimpleNamespace:
        self.created.append((repo_id, how["private"]))
        return SimpleNamespace(repo_id=repo_id)

    def upload(self, *, repo_id: str, folder_path: Path, **how: Any) -> str:
        shutil.copytree(folder_path, self.folder / repo_id)
        self.commits.append((how["commit_message"], how["revision"]))
        return f"https://hub/{repo_id}/commit/1"

    def download(self, repo_id: str, filename: str, **how: Any) -> str:
        assert set(how) >= {"revision", "token", "cache_dir"}
        return str(self.folder / repo_id / filename)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(tmp_path / "hub", monkeypatch)


def test_save_and_load_in_a_folder_to_the_same_bits(checkpoint: Path, tmp_path: Path) -> None:
    first = HubModel.from_checkpoint(checkpoint, licence="mit")
    first.save_pretrained(tmp_path / "saved")
    again = HubModel.from_pretrained(tmp_path / "saved")
    assert not again.training
    assert again.licence == "mit"
    assert again.card.classes == first.card.classes
    assert again.card.preprocessing == first.card.preprocessing
    assert torch.equal(again(IMAGES), first(IMAGES))
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    again.save_pretrained(tmp_path / "twice")
    for file in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "twice" / file).read_bytes() == (tmp_path / "saved" / file).read_bytes()


def test_push_and_load(checkpoint: Path, hub: Hub, draw_colours: Any, tmp_path: Path) -> None:
    address = resnestkit.push_to_hub(checkpoint, "me/pets", private=True, branch="v1", message="Hi")
    assert address == "https://hub/me/pets/commit/1"
    assert hub.created == [("me/pets", True)]
    assert hub.commits == [("Hi", "v1")]
    files = {path.name for path in (hub.folder / "me/pets").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors"}

    model, card = resnestkit.from_hub("me/pets", revision="v1")
    expected, _ = resnestkit.load_model(checkpoint)
    assert torch.equal(model(IMAGES), expected(IMAGES))
    assert card.classes == ("cat", "dog | wolf", "no_class")
    picture = next(draw_colours(tmp_path / "colours", 1).rglob("*.png"))
    predictor = Predictor(resnestkit.fetch_from_hub("me/pets"))
    assert predictor.predict([picture])[0].label in card.classes


def test_a_model_is_pushed_under_another_licence(checkpoint: Path, hub: Hub) -> None:
    model = HubModel.from_checkpoint(checkpoint)
    resnestkit.push_to_hub(model, "me/pets", licence="cc-by-4.0")
    assert model.licence is None
    assert HubModel.from_pretrained("me/pets").licence == "cc-by-4.0"
    HubModel.from_pretrained("me/pets").push_to_hub("me/more")  # the mixin's own method
    assert HubModel.from_pretrained("me/more").licence == "cc-by-4.0"


def test_the_readme_says_what_it_is_and_how_to_load_it(checkpoint: Path, hub: Hub) -> None:
    resnestkit.push_to_hub(checkpoint, "me/pets")
    readme = huggingface_hub.ModelCard.load(hub.folder / "me/pets/README.md")
    assert readme.data.license is None
    assert readme.data.library_name == "resnestkit"
    assert readme.data.pipeline_tag == "image-classification"
    assert {"resnestkit", "resnest14"} <= set(readme.data.tags)
    assert 'resnestkit.from_hub("me/pets")' in readme.text
    assert r"3: cat, dog \| wolf, no\_class" in readme.text
    assert "| top1 | 0.9321 |" in readme.text
    config = json.loads((hub.folder / "me/pets/config.json").read_text())
    assert config["classes"] == ["cat", "dog | wolf", "no_class"]
    for file in (hub.folder / "me/pets").iterdir():
        assert b"/home/me" not in file.read_bytes()  # where the data lay is nobody's business


def test_what_the_hub_refuses_is_one_sentence(checkpoint: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        response = SimpleNamespace(headers={}, request=None, status_code=404)
        raise RepositoryNotFoundError("404: no such repository.\nRequest ID: 1", response=response)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", refuse)
    monkeypatch.setattr(hub_model, "hf_hub_download", refuse)
    said = r"me/pets failed: 404: no such repository\.$"
    for call in (resnestkit.from_hub, resnestkit.fetch_from_hub):
        with pytest.raises(UserError, match=said):
            call("me/pets")
    with pytest.raises(UserError, match=said):
        resnestkit.push_to_hub(checkpoint, "me/pets")
    with pytest.raises(UserError, match="me/too/many failed"):
        resnestkit.push_to_hub(checkpoint, "me/too/many")
    with pytest.raises(UserError, match="no checkpoint"):
        resnestkit.push_to_hub("missing.safetensors", "me/pets")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (resnestkit.from_hub, resnestkit.fetch_from_hub):
        with pytest.raises(UserError, match=r"pip install 'resnestkit\[hub\]'"):
            call("me/pets")
    with pytest.raises(UserError, match=r"pip install 'resnestkit\[hub\]'"):
        resnestkit.push_to_hub("best.safetensors", "me/pets")
