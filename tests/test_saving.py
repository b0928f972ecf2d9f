"""What is saved can be loaded, and what is not known of it is asked for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from resnestkit import UserError, create_model, evaluate, insert_attention, load_model, save_model
from resnestkit.models.backbone import Backbone
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.checkpoint import TRAINING_STATE, save_tensors
from resnestkit.weights.convert import convert
from resnestkit.weights.names import Dialect

SMALL = "resnest23_small"
CAFFE = Preprocessing(32, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), channel_order="BGR")


@pytest.fixture
def model() -> Backbone:
    return create_model(SMALL, classes=2)


@pytest.fixture
def new(model: Backbone, tmp_path: Path) -> Path:
    """A checkpoint whose classifier was never trained."""
    save_model(model, tmp_path / "new.safetensors", ["cat", "dog"], CAFFE, {"top1": 0.5})
    return tmp_path / "new.safetensors"


def test_wrappers_are_taken_off(model: Backbone, tmp_path: Path) -> None:
    wrapped = (nn.DataParallel(model), torch.compile(model), torch.compile(nn.DataParallel(model)))
    for number, each in enumerate(wrapped):
        save_model(each, tmp_path / f"{number}.safetensors")  # type: ignore[arg-type]
        loaded = load_model(tmp_path / f"{number}.safetensors")[0]
        assert torch.equal(loaded.fc.weight, model.fc.weight)
    with pytest.raises(UserError, match="A Sequential cannot be saved"):
        save_model(nn.Sequential(model), tmp_path / "a.safetensors")


def test_what_nobody_could_load_is_not_written(model: Backbone, new: Path) -> None:
    before = new.read_bytes()
    with pytest.raises(UserError, match="1 channels"):
        save_model(model, new, preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)))
    with pytest.raises(UserError, match=r"preprocessing\.size of 0"):
        save_model(model, new, preprocessing=Preprocessing(size=0))
    with torch.device("meta"):
        empty = create_model(SMALL, classes=2)
    with pytest.raises(UserError, match="without values"):
        save_model(empty, new)
    insert_attention(model, "se", "layer1.*")
    with pytest.raises(UserError, match=r"nobody could load it.*unexpected"):
        save_model(model, new)
    lost = create_model(SMALL, classes=2)
    nn.init.constant_(lost.fc.weight, float("nan"))
    with pytest.raises(UserError, match="no numbers"):
        save_model(lost, new)
    assert new.read_bytes() == before


def test_classes_become_words(model: Backbone, tmp_path: Path) -> None:
    save_model(model, tmp_path / "a.safetensors", [3, 7])
    assert load_model(tmp_path / "a.safetensors")[1].classes == ("3", "7")


def test_paths_that_cannot_be(model: Backbone, new: Path, tmp_path: Path) -> None:
    for path in (new / "below.safetensors", tmp_path / ("a" * 300), tmp_path / "no" / "a", Path()):
        with pytest.raises(UserError, match="Cannot write"):
            save_model(model, path)
    assert list(tmp_path.iterdir()) == [new]


def test_a_head_that_was_new_in_the_file_still_is(new: Path) -> None:
    assert create_model(SMALL, classes=2, weights=new).head_is_new
    assert create_model(SMALL, classes=2, norm="frozen", weights=new).head_is_new
    assert create_model(SMALL, 2, in_channels=1, weights=new).head_is_new
    assert not create_model(SMALL, classes=0, weights=new).head_is_new


@pytest.mark.parametrize("prefix", ["", "0."])
def test_a_head_is_told_from_others_by_its_prefix(model: Backbone, prefix: str) -> None:
    outer = nn.Sequential(model) if prefix else model
    state = {name: t.clone() for name, t in outer.state_dict().items()}
    head = state.pop(f"{prefix}fc.weight")
    outer.load_state_dict(state, strict=False)
    outer.load_state_dict({**state, "other.fc.weight": head}, strict=False)
    if prefix:
        outer.load_state_dict({**state, "fc.weight": head}, strict=False)
    assert model.head_is_new
    outer.load_state_dict({f"{prefix}fc.weight": head}, strict=False)
    assert not model.head_is_new


def test_a_checkpoint_keeps_its_card(new: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.safetensors"
    with pytest.raises(UserError, match="is a checkpoint of resnestkit already"):
        convert(new, target)
    with pytest.raises(UserError, match="never trained, which no file of detectron2"):
        convert(new, target, to="detectron2")
    twin = create_model("resnet50", classes=2, weights=None)
    saved = save_model(twin, tmp_path / "c.safetensors", ["cat", "dog"], CAFFE, {"top1": 0.5})
    convert(tmp_path / "c.safetensors", target, net="resnet50a")
    card = load_model(target)[1]
    assert (card.net, card.spec.stride_in) == ("resnet50a", "1x1")  # type: ignore[union-attr]
    assert (card.classes, card.preprocessing, card.metrics) == (
        saved.classes,
        saved.preprocessing,
        saved.metrics,
    )
    assert card.head_is_new
    twin.head_is_new = False
    save_model(twin, tmp_path / "d.safetensors")
    convert(tmp_path / "d.safetensors", tmp_path / "e.safetensors", to="detectron2")
    assert "res2.0.conv1.weight" in load_file(tmp_path / "e.safetensors")


def test_a_training_state_is_no_model(model: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, model.state_dict(), {"kind": TRAINING_STATE})
    with pytest.raises(UserError, match=r"training-state.*best\.safetensors or last"):
        convert(path, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"training-state.*best\.safetensors or last"):
        create_model(SMALL, classes=2, weights=path)


@pytest.mark.parametrize("dialect", ["caffe", "openmmlab", "detectron2"])
def test_an_inception_has_one_set_of_names(tmp_path: Path, dialect: Dialect) -> None:
    save_file(create_model("bn_inception", classes=2).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=f"no names in {dialect}"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to=dialect)


def test_evaluation_asks_for_the_data_that_nobody_noted(
    model: Backbone, colours: Path, tmp_path: Path
) -> None:
    model = create_model(SMALL, classes=3)
    model.head_is_new = False
    save_model(model, tmp_path / "a.safetensors", ["blue", "green", "red"], Preprocessing(32))
    with pytest.raises(UserError, match="does not say what it was trained on; give DATA"):
        evaluate(tmp_path / "a.safetensors")
    evaluation, _ = evaluate(tmp_path / "a.safetensors", colours, device="cpu")
    assert sum(map(sum, evaluation.confusion)) == 48
