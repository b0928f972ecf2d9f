"""Training starts from weights as they are: their colours, and what of them is frozen."""

from dataclasses import replace
from pathlib import Path

import pytest

from resnestkit import Recipe, UserError, create_model, load_model, save_model, train
from resnestkit.preprocessing import Preprocessing
from resnestkit.training.train import resume

SMALL = Recipe(
    model="resnest23_small", epochs=1, batch_size=16, size=16, device="cpu", workers=0, mixup=0.0
)


@pytest.fixture
def caffe(tmp_path: Path) -> Path:
    """Weights that read BGR."""
    net = create_model(SMALL.model, classes=5)
    save_model(net, tmp_path / "bgr.safetensors", None, Preprocessing(16, channel_order="BGR"))
    return tmp_path / "bgr.safetensors"


def test_a_run_reads_colours_in_the_order_of_its_weights(
    colours: Path, caffe: Path, tmp_path: Path
) -> None:
    recipe = replace(SMALL, weights=str(caffe))
    result = train(colours, recipe, tmp_path / "run")
    assert load_model(result.run.best)[1].preprocessing.channel_order == "BGR"
    caffe.unlink()  # the run remembers it
    result = resume(tmp_path / "run")
    assert load_model(result.run.last)[1].preprocessing.channel_order == "BGR"


def test_another_order_is_refused(colours: Path, caffe: Path, tmp_path: Path) -> None:
    recipe = replace(SMALL, weights=str(caffe), channel_order="RGB")
    with pytest.raises(UserError, match="--channel-order BGR; say so"):
        train(colours, recipe, tmp_path / "run")


def test_what_was_not_loaded_is_not_frozen(colours: Path, tmp_path: Path) -> None:
    save_model(create_model("resnet23_small", classes=3), tmp_path / "a.safetensors")
    recipe = replace(SMALL, weights=str(tmp_path / "a.safetensors"), partial=True, freeze=1)
    with pytest.raises(UserError, match="would be frozen as it was drawn"):
        train(colours, recipe, tmp_path / "run")


def test_freezing_the_stem_alone_needs_weights_too() -> None:
    with pytest.raises(UserError, match="--freeze is about loaded weights"):
        Recipe(freeze=0)
