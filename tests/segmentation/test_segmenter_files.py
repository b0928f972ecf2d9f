"""A segmenter's checkpoint brings it back, says what it is, and serves as weights."""

import json
from pathlib import Path

import pytest
import torch
from small_segmenters import NARROW, make
from torchvision.ops import FrozenBatchNorm2d

from resnestkit import (
    UserError,
    create_detector,
    create_model,
    create_segmenter,
    load_detector,
    load_model,
    load_segmenter,
    save_model,
    save_segmenter,
)
from resnestkit.preprocessing import Preprocessing
from resnestkit.segmentation.spec import KINDS, Kind, light_settings
from resnestkit.weights.card import ModelCard
from resnestkit.weights.checkpoint import read_card, save_tensors
from resnestkit.weights.convert import convert

NAMES = ["road", "sky", "car"]
PALETTE = [(128, 64, 128), (70, 130, 180), (0, 0, 142)]
BGR = Preprocessing(224, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), channel_order="BGR")
SMALL = "resnet23_small"


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_the_same(kind: Kind, tmp_path: Path) -> None:
    model = make(kind, "resnest23_small", norm="batch", preprocessing=BGR).eval()
    model.head_is_new = False
    card = save_segmenter(model, tmp_path / "a.safetensors", NAMES, {"mIoU": 0.5}, PALETTE)
    loaded, read = load_segmenter(tmp_path / "a.safetensors")
    assert read == card
    assert (read.kind, read.net, read.classes) == ("segmenter", "resnest23_small", tuple(NAMES))
    assert read.palette == tuple(PALETTE)
    assert loaded.spec == model.spec
    assert loaded.preprocessing == BGR
    assert not loaded.head_is_new
    images = torch.randn(1, 3, 30, 41)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_wrappers_are_taken_off(tmp_path: Path) -> None:
    wrapped = torch.nn.DataParallel(make("fcn", SMALL))
    card = save_segmenter(wrapped, tmp_path / "a.safetensors")
    assert (card.classes[0], card.palette) == ("class 0", ())
    model, card = load_segmenter(tmp_path / "a.safetensors")
    assert card.head_is_new
    with pytest.raises(UserError, match="never trained"):
        model.require_head()
    model.load_state_dict(model.state_dict())
    model.require_head()


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_segmenter(make("fcn", SMALL), path)
    with pytest.raises(UserError, match=r"holds a segmenter; a classifier is needed here\. It tel"):
        load_model(path)
    with pytest.raises(UserError, match="holds a segmenter; a detector is needed here"):
        load_detector(path)
    with pytest.raises(UserError, match="holds a segmenter, and nets alone are converted"):
        convert(path, tmp_path / "b.safetensors", to="detectron2")
    save_model(create_model(SMALL, classes=2), path)
    with pytest.raises(UserError, match="holds a classifier; a segmenter is needed here"):
        load_segmenter(path)
    with pytest.raises(UserError, match="a segmenter of create_segmenter can"):
        save_segmenter(torch.nn.Linear(1, 1), path)


def test_a_card_that_makes_no_sense(tmp_path: Path) -> None:
    model = make("deeplabv3", SMALL)
    with pytest.raises(UserError, match="2 names for 3 classes"):
        save_segmenter(model, tmp_path / "a.safetensors", NAMES[:2])
    with pytest.raises(UserError, match="1 colours for 3 classes"):
        save_segmenter(model, tmp_path / "a.safetensors", NAMES, palette=PALETTE[:1])
    with pytest.raises(UserError, match="has a palette of"):
        save_segmenter(model, tmp_path / "a.safetensors", NAMES, palette=[(0, 0, 256)] * 3)
    assert not (tmp_path / "a.safetensors").exists()
    saved = save_segmenter(model, tmp_path / "a.safetensors", palette=PALETTE)
    card = json.loads(json.dumps(saved.to_dict()))
    assert ModelCard.from_dict(card).segmenter == model.spec
    for name, value, said in (
        ("classes", 4, "has a segmenter of"),
        ("output_stride", 16, "has a segmenter of"),
        ("kind", "segformer", "kind is 'segformer'"),
        ("later", 1, "newer version"),
        ("auxiliary", 1, "segmenter.auxiliary is 1; it must be true or false"),
        ("settings", {"dropout": "none"}, "describes no net"),
        ("settings", {"channels": 9.5}, "segmenter.settings.channels is 9.5"),
        ("settings", {"later": 1}, "newer version"),
        ("net", {"layers": [2]}, "widths"),
    ):
        forged = {**card, "segmenter": {**card["segmenter"], name: value}}
        with pytest.raises(ValueError, match=said):
            ModelCard.from_dict(forged)
        save_tensors(tmp_path / "b.safetensors", model.state_dict(), forged)
        with pytest.raises(UserError, match="The card of"):
            load_segmenter(tmp_path / "b.safetensors")
    for palette in (3, [[0, 0]] * 3, [[0, 0, 0]], [[0, 0, "red"]] * 3, [[0, 0, -1]] * 3):
        with pytest.raises(ValueError, match=r"palette|describes no net"):
            ModelCard.from_dict({**card, "palette": palette})
    with pytest.raises(ValueError, match="has a kind of 'classifier'"):
        ModelCard.from_dict({**card, "kind": "classifier"})


def test_a_card_cannot_be_both(tmp_path: Path) -> None:
    card = save_segmenter(make("fcn", "resnet18"), tmp_path / "a.safetensors").to_dict()
    with torch.device("meta"):
        detector = create_detector("faster_rcnn", "resnet18", classes=3, norm="group").spec
    both = {**card, "kind": "detector", "detector": detector.to_dict()}
    with pytest.raises(ValueError, match="has a segmenter of"):
        ModelCard.from_dict(both)


def test_a_checkpoint_of_ours_as_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = make("deeplabv3", SMALL, preprocessing=BGR, norm="batch", output_stride=16)
    model.head_is_new = False
    save_segmenter(model, path, NAMES)
    again = create_segmenter("deeplabv3", SMALL, weights=path, frozen_stages=1)
    assert again.spec == model.spec
    assert again.preprocessing == BGR
    assert not again.head_is_new
    assert not again.body.layer1[0].conv1.weight.requires_grad
    assert again.body.layer2[0].conv1.weight.requires_grad
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in again.state_dict().items())
    frozen = create_segmenter("deeplabv3", SMALL, weights=path, norm="frozen", output_stride=8)
    assert (frozen.spec.norm, frozen.spec.head_norm) == ("frozen", "frozen")
    assert frozen.spec.output_stride == 8
    assert isinstance(frozen.decoder[2], FrozenBatchNorm2d)
    with pytest.warns(UserWarning, match="a classifier of 7 is new"):
        other = create_segmenter("deeplabv3", SMALL, classes=7, weights=path)
    assert other.head_is_new
    assert other.classifier.weight.shape[0] == other.auxiliary[4].weight.shape[0] == 7
    assert torch.equal(other.decoder[1].weight, model.decoder[1].weight)
    assert torch.equal(other.auxiliary[0].weight, model.auxiliary[0].weight)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_segmenter(make("fcn", SMALL, norm="batch"), path)
    with pytest.raises(UserError, match="holds a fcn, not a deeplabv3; ask for a fcn"):
        create_segmenter("deeplabv3", SMALL, weights=path)
    with pytest.raises(UserError, match="has resnet23_small as its backbone, not resnest14"):
        create_segmenter("fcn", "resnest14", weights=path)
    with pytest.raises(UserError, match="reads images of 3 channels, not 1"):
        create_segmenter("fcn", SMALL, weights=path, in_channels=1)
    with pytest.raises(UserError, match=r"does not hold the weights of this fcn: .* unexpected"):
        create_segmenter("fcn", SMALL, weights=path, norm="group")
    with pytest.warns(UserWarning, match="was loaded in part"):
        create_segmenter("fcn", SMALL, weights=path, norm="group", partial=True)
    state = torch.load(_plain(path, tmp_path))
    del state["decoder.1.running_mean"]
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"1 missing \(decoder\.1\.running_mean\)"):
        create_segmenter("fcn", SMALL, weights=tmp_path / "b.pth")


def _plain(path: Path, folder: Path) -> Path:
    """A checkpoint's tensors alone, as torch writes them."""
    torch.save(load_segmenter(path)[0].state_dict(), folder / "plain.pth")
    return folder / "plain.pth"


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_ours_without_a_card(kind: Kind, tmp_path: Path) -> None:
    options = {} if kind == "fcn" else {"settings": light_settings()}
    model = make(kind, "resnest23_small", norm="batch", head_norm="group", **options)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    options |= {"settings": model.spec.settings}
    again = create_segmenter(kind, "resnest23_small", weights=tmp_path / "a.pth", **options)
    assert again.spec == model.spec
    found = create_segmenter(kind, "resnest23_small", weights=tmp_path / "a.pth")
    assert found.state_dict().keys() == model.state_dict().keys()
    assert all(t.shape == model.state_dict()[n].shape for n, t in found.state_dict().items())


def test_the_auxiliary_head_may_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = make("pspnet", SMALL, norm="batch", auxiliary=False)
    save_segmenter(model, path)
    assert create_segmenter("pspnet", SMALL, weights=path).auxiliary is None
    with pytest.warns(UserWarning, match="has no auxiliary head: it starts anew"):
        new = create_segmenter("pspnet", SMALL, weights=path, auxiliary=True)
    save_segmenter(new, path)
    assert create_segmenter("pspnet", SMALL, weights=path).auxiliary is not None
    assert create_segmenter("pspnet", SMALL, weights=path, auxiliary=False).auxiliary is None


def test_a_backbones_weights_and_how_they_want_images(tmp_path: Path) -> None:
    net = create_model(SMALL, classes=2)
    net.head_is_new = False
    save_model(net, tmp_path / "net.safetensors", ["a", "b"], BGR)
    model = make("deeplabv3", SMALL, weights=tmp_path / "net.safetensors", norm="batch")
    assert model.preprocessing == BGR
    assert model.head_is_new
    assert torch.equal(model.body.conv1.weight, net.conv1.weight)
    grey = make("fcn", SMALL, in_channels=1).eval()
    assert grey.preprocessing.channels == 1
    assert grey(torch.randn(1, 1, 9, 9)).shape == (1, 3, 9, 9)


def test_a_segmenters_backbone_serves_other_models(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = make("unet", "resnet18", norm="batch", preprocessing=BGR)
    save_segmenter(model, path)
    assert read_card(path).segmenter == model.spec
    with torch.device("meta"):
        assert create_detector("retinanet", "resnet18", 2).spec.net == model.spec.net
    detector = create_detector("retinanet", "resnet18", 2, weights=path, fpn_channels=32)
    assert torch.equal(detector.backbone.body.conv1.weight, model.body.conv1.weight)
    assert detector.preprocessing == BGR
    with pytest.warns(UserWarning, match="holds no classifier"):
        assert create_model("resnet18", 5, weights=path).head_is_new


def test_nothing_random_is_frozen_and_what_there_is_not() -> None:
    with pytest.raises(UserError, match="frozen_stages would freeze random"):
        make("fcn", SMALL, frozen_stages=1)
    with pytest.raises(UserError, match="norm 'frozen' keeps"):
        make("fcn", SMALL, norm="frozen")
    with pytest.raises(UserError, match="Did you mean deeplabv3"):
        create_segmenter("deeplab")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must be one of paper, light"):
        make("fcn", SMALL, settings="mmsegmentation")
    with pytest.raises(UserError, match="no net called"):
        make("fcn", "resnest51")
    with pytest.raises(ValueError, match="classes is 1"):
        make("fcn", SMALL, classes=1)
    with pytest.raises(ValueError, match="output_stride is 4"):
        make("fcn", SMALL, output_stride=4)
    assert make("deeplabv3", SMALL, settings="light").spec.settings == light_settings() != NARROW
