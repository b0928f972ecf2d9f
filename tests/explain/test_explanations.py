"""Images and folders explained, for every kind of model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from explained import (
    CLASSES,
    NETS,
    draw_pictures,
    make_detector,
    make_net,
    make_pixels,
    make_segmenter,
    read_words,
    see,
)
from pictures import draw_class_folders
from PIL import Image
from torch import nn

from resnestkit import (
    UserError,
    create_panoptic,
    explain_folder,
    explain_image,
    save_panoptic,
)
from resnestkit.data.images import UnreadableImage
from resnestkit.detection.spec import light_settings as light_detector
from resnestkit.explain import force, open_subject, picture
from resnestkit.explain.page import folder_part, image_part
from resnestkit.explain.subject import NOTHING, spread
from resnestkit.explain.words import describe_folder, describe_image


@pytest.mark.parametrize("name", NETS)
def test_an_image_is_explained_block_by_block(name: str) -> None:
    net = make_net(name)
    subject = open_subject(net, CLASSES)
    look = subject.look(make_pixels())
    explained = explain_image(subject, look)
    with torch.no_grad():
        scores = net(look.image).softmax(1)[0]
        assert np.allclose(explained.scores, scores.numpy(), atol=1e-5)
        assert explained.label == explained.top == CLASSES[int(scores.argmax())]
        alone = see(net, look.image)
        for view in explained.blocks:
            assert np.allclose(view.attention.grid, alone[view.attention.block].grid, atol=1e-5)
        for view in (explained.blocks[0], explained.blocks[-1]):
            for effect in view.effects:
                with force(net, effect.split, effect.value, view.attention.block):
                    forced = net(look.image).softmax(1)[0]
                assert effect.score == pytest.approx(float(forced[explained.target]), abs=1e-4)
                assert effect.change == pytest.approx(effect.score - explained.score, abs=1e-5)
                assert effect.top == CLASSES[int(forced.argmax())]
        with force(net, 0, 0.0):
            forced = net(look.image).softmax(1)[0]
    assert explained.everywhere[0].score == pytest.approx(float(forced[explained.target]), abs=1e-4)
    assert explained.activation is not None
    assert explained.activation.shape == explained.blocks[-1].energy.shape[2:]
    assert 0 <= explained.activation.min() <= explained.activation.max() <= 1


def test_the_activation_map_is_grad_cam() -> None:
    """The definition: maps of the last stage, weighed by the mean gradients of the logit."""
    net = make_net("resnet23_small")
    subject = open_subject(net, CLASSES)
    look = subject.look(make_pixels())
    found = subject.activate(look, 1)
    features = net.forward_features(look.image)["layer4"].detach().requires_grad_()
    net.fc(features.mean((2, 3)))[0, 1].backward()
    weights = features.grad.mean((2, 3), keepdim=True)
    expected = (weights * features).sum(1).relu()[0].detach()
    assert found is not None
    assert np.allclose(found, (expected / expected.max()).numpy(), atol=1e-5)


def test_a_plain_net_gets_the_activation_map_alone(tmp_path: Path) -> None:
    net = make_net("resnet23_small")
    explained = explain_image(net, make_pixels())
    assert explained.blocks == explained.everywhere == ()
    assert explained.activation is not None
    with pytest.raises(UserError, match="has no attention"):
        explain_folder(net, draw_pictures(tmp_path / "p", 1).rglob("*.png"))


def test_one_block_and_one_class_may_be_asked_for() -> None:
    subject = open_subject(make_net(), CLASSES)
    explained = explain_image(subject, make_pixels(), target="fish", block="layer2.1")
    assert [view.attention.block for view in explained.blocks] == ["layer2.1"]
    assert (explained.label, explained.everywhere) == ("fish", ())
    assert explained.score == pytest.approx(float(explained.scores[2]))
    bare = explain_image(subject, make_pixels(), activation=False, forcing=False)
    assert bare.activation is None
    assert all(view.effects == () for view in bare.blocks)


def test_a_detectors_backbone_is_explained() -> None:
    model = make_detector()
    explained = explain_image(model.train(), make_pixels(48, 80))
    assert model.training
    assert model.backbone.body.training
    assert explained.kind == "detector"
    assert explained.activation is not None
    assert explained.activation.shape == (2, 3)  # of 64 x 96 pixels, at a stride of 32
    assert len(explained.blocks) == 4
    height, width = 58, 96  # the longer side is at most 96, and multiples of 32 are seen
    assert explained.seen == pytest.approx((57 / 64, width / 96), abs=1 / height)
    with torch.no_grad():
        (found,) = model.eval()([make_pixels(48, 80).float() / 255])
    for label in range(3):
        best = max(found["scores"][found["labels"] == label + 1].tolist(), default=0.0)
        assert explained.scores[label] == pytest.approx(best, abs=1e-5)
    view = explained.blocks[1]
    with torch.no_grad(), force(model.backbone.body, 0, 1.0, view.attention.block):
        (found,) = model([make_pixels(48, 80).float() / 255])
    assert any(abs(effect.change) > 1e-4 for effect in view.effects)
    chosen = found["scores"][found["labels"] == explained.target + 1].tolist()
    assert view.effects[2].score == pytest.approx(max(chosen, default=0.0), abs=1e-4)


def test_a_detectors_size_is_not_drawn_as_in_a_training() -> None:
    model = make_detector(min_size=(64, 96, 160), max_size=300)
    sizes = {open_subject(model.train()).look(make_pixels()).size for _ in range(6)}
    assert model.training
    assert sizes == {open_subject(model.eval()).look(make_pixels()).size}


def test_no_mask_is_made_for_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are as large as the image, and every block is forced with three of them."""
    few = replace(light_detector("mask_rcnn"), score=0.0, detections=5)
    subject = open_subject(make_detector("mask_rcnn", settings=few), CLASSES)
    look = subject.look(make_pixels())
    with torch.no_grad():
        (found,) = subject.model.eval()([look.image[0]])
        assert len(found["masks"]) == 5
        monkeypatch.setattr(subject.model.roi_heads, "mask_logits", None)
        scores = subject.score([look])[0]
    assert scores.max() == found["scores"].max()
    assert subject.model.roi_heads.has_mask()


def test_a_detector_that_finds_nothing_says_no_class(tmp_path: Path) -> None:
    quiet = replace(light_detector("faster_rcnn"), score=0.99)
    subject = open_subject(make_detector(settings=quiet), CLASSES)
    explained = explain_image(subject, make_pixels())
    assert (explained.target, explained.score) == (None, 0)
    assert explained.label == explained.top == explained.blocks[0].effects[0].top == NOTHING
    assert describe_image(explained)[0] == f"class       {NOTHING}"
    said = explained.to_dict()
    assert (said["class"], said["top"]) == (None, {})
    assert explain_image(subject, make_pixels(), target="fish").label == "fish"
    paths = sorted(draw_pictures(tmp_path / "p", 2).rglob("*.png"))
    found = explain_folder(subject, paths)
    assert (found.by, found.images, found.right, found.nothing) == ("truth", 4, 0, 4)
    assert found.counts == {0: 2, 1: 2}
    moved = [path.rename(tmp_path / f"{place}.png") for place, path in enumerate(paths)]
    found = explain_folder(subject, moved)
    assert (found.by, found.images, found.counts, found.nothing) == ("prediction", 4, {}, 4)
    assert describe_folder(found)[0].endswith(f"{NOTHING} in 4 of them")
    assert "classes.png" not in folder_part(found).pictures
    assert explained.activation is None
    assert "the detector finds nothing here" in read_words(image_part(explained))


def test_a_detectors_activation_is_that_of_its_surest_object() -> None:
    """HiResCAM's definition, of the highest score that the detector gives the class."""
    model = make_detector()
    subject = open_subject(model, CLASSES)
    look = subject.look(make_pixels(48, 80))
    explained = explain_image(subject, look, forcing=False)
    features: list[torch.Tensor] = []
    subject.last_stage.register_forward_hook(lambda _m, _i, out: features.append(out))
    (found,) = model.eval()([look.image[0]])
    best = found["scores"][found["labels"] == explained.target + 1].max()
    (slopes,) = torch.autograd.grad(best, features)
    expected = (slopes * features[0]).sum(1).relu()[0].detach()
    assert explained.activation is not None
    assert expected.max() > 0
    assert np.allclose(explained.activation, (expected / expected.max()).numpy(), atol=1e-4)
    assert explained.picture.shape[:2] == look.size == (57, 96)


def test_a_segmenters_backbone_is_explained() -> None:
    model = make_segmenter()
    subject = open_subject(model, CLASSES)
    look = subject.look(make_pixels(48, 64))
    explained = explain_image(subject, look)
    with torch.no_grad():
        logits = model.eval()(look.image)
        assert np.allclose(explained.scores, logits.softmax(1).mean((2, 3))[0], atol=1e-5)
    assert explained.scores.sum() == pytest.approx(1, abs=1e-5)
    assert explained.activation is not None
    assert explained.activation.shape == (6, 8)  # at output stride 8
    assert explained.blocks[-1].effects[0].score != explained.score
    assert explained.picture.shape == (48, 64, 3)


@pytest.mark.parametrize("make", [make_net, make_detector, make_segmenter])
def test_an_activation_map_needs_no_gradient_before_the_last_stage(
    make: Callable[[], nn.Module],
) -> None:
    """What is before the last block answers from memory; and a net may be frozen."""
    subject = open_subject(make(), CLASSES)
    look = subject.look(make_pixels(48, 64))
    first = subject.first_conv
    asked: list[bool] = []
    first.register_forward_hook(lambda _m, _i, out: asked.append(out.requires_grad))
    for part in subject.model.parameters():
        part.requires_grad_(False)
    explained = explain_image(subject, look, forcing=False)
    assert explained.activation is not None
    assert set(asked) == {False}  # while captum asks for the image's gradient
    with subject.resting():
        whole = subject.activate(look, explained.target)
    assert np.allclose(explained.activation, whole, atol=1e-4)


@pytest.mark.parametrize("make", [make_net, make_detector])
def test_large_images_are_forced_one_by_one(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = open_subject(make(), CLASSES)
    together = explain_image(subject, make_pixels(), activation=False)
    monkeypatch.setattr(picture, "MOST_AT_ONCE", 1)
    runs: list[int] = []
    subject.first_conv.register_forward_hook(lambda _m, _i, out: runs.append(len(out)))
    alone = explain_image(subject, make_pixels(), activation=False)
    assert set(runs) == {1}
    for one, other in zip(together.blocks, alone.blocks, strict=True):
        assert len(one.effects) == 3
        for effect, again in zip(one.effects, other.effects, strict=True):
            assert (effect.split, effect.value) == (again.split, again.value)
            assert effect.score == pytest.approx(again.score, abs=1e-4)


def test_maps_lie_where_they_were_seen() -> None:
    """What was padded is cut off, and a corner stays a corner."""
    values = np.zeros((1, 4, 4), np.float32)
    values[0, 0, 0], values[0, 3, 3] = 1, 9
    laid = spread(values, (60, 40), (0.75, 0.5))[0]
    assert laid.shape == (60, 40)
    assert laid[:10, :10].min() == 1
    assert laid.max() == 1
    assert spread(values, (8, 8), (1.0, 1.0))[0, -1, -1] == 9


def test_statistics_equal_a_direct_computation(tmp_path: Path) -> None:
    net = make_net()
    subject = open_subject(net, CLASSES)
    paths = sorted(draw_pictures(tmp_path / "pictures", 10).rglob("*.png"))
    found = explain_folder(subject, paths)
    labels = np.repeat([0, 1], 10)
    grid = see(net, torch.cat([subject.read(path).image for path in paths]))["layer2.0"].grid
    block = found.blocks[1]
    assert (found.images, found.by, found.counts) == (20, "truth", {0: 10, 1: 10})
    assert np.allclose(block.mean, grid.mean(0), atol=1e-5)
    assert np.allclose(block.std, grid.std(0), atol=1e-4)
    assert np.allclose(block.wins.sum(1), 1)
    assert np.allclose(block.wins[:, 0], (grid[:, :, 0] > 0.5).mean(0), atol=1e-6)
    usual = block.wins.max(1)
    assert np.array_equal(block.switching, usual < 0.9)
    mixed = -(grid * np.log(np.maximum(grid, 1e-38))).sum(2).mean((1, 2)) / np.log(2)
    assert block.entropy == pytest.approx(mixed.mean(), abs=1e-5)
    assert block.entropy_std == pytest.approx(mixed.std(), abs=1e-4)
    for label in (0, 1):
        own = grid[labels == label]
        assert np.allclose(block.class_mean[label], own.mean((0, 3)), atol=1e-5)
        assert np.allclose(block.class_std[label], own.std((0, 3)), atol=1e-4)
        apart = np.abs(own.mean(0) - grid.mean(0)).mean()
        assert block.class_distance[label] == pytest.approx(apart, abs=1e-5)
    with torch.no_grad():
        said = net(torch.cat([subject.read(path).image for path in paths])).argmax(1).numpy()
    assert found.right == (said == labels).sum()


def test_without_class_folders_the_prediction_is_the_class(tmp_path: Path) -> None:
    net = make_net("seresnet23_small")
    paths = []
    for number, pixels in enumerate(np.random.default_rng(1).integers(0, 256, (3, 8, 9, 3))):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    found = explain_folder(open_subject(net, CLASSES), paths)
    assert (found.by, found.right, sum(found.counts.values())) == ("prediction", None, 3)
    assert found.blocks[0].wins.shape[1] == 2  # open and closed
    assert np.allclose(found.blocks[0].wins.sum(1), 1)


def test_verdicts_follow_what_the_attention_does(tmp_path: Path) -> None:
    """Gates that were drawn at random decide; silent ones are even, and biased ones fixed."""
    paths = list(draw_class_folders(tmp_path / "colours", 3).rglob("*.png"))
    net = make_net()
    sites = [net.layer2[0].conv2.fc2, net.layer3[0].conv2.fc2]
    with torch.no_grad():
        for fc2 in sites:
            fc2.weight.zero_()
            fc2.bias.zero_()
        sites[1].bias[: len(sites[1].bias) // 2] = 3
    found = {block.block: block for block in explain_folder(net, paths).blocks}
    assert found["layer1.0"].verdict == "decides"
    assert found["layer2.0"].verdict == "even"
    assert found["layer2.0"].entropy == pytest.approx(1)
    assert found["layer3.0"].verdict == "fixed"
    assert not found["layer3.0"].switching.any()


def test_numbers_survive_json(tmp_path: Path) -> None:
    subject = open_subject(make_net("sknet23_small"), CLASSES)
    one = explain_image(subject, make_pixels(), activation=False)
    said = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    weights = np.array(said["blocks"][2]["weights"])
    assert np.allclose(weights, one.blocks[2].attention.weights[0], atol=1e-6)
    assert said["blocks"][2]["effects"][1]["change"] == one.blocks[2].effects[1].change
    assert list(said["top"]) == [CLASSES[k] for k in np.argsort(-one.scores)]
    many = explain_folder(subject, draw_pictures(tmp_path / "pictures", 2).rglob("*.png"))
    said = json.loads(json.dumps(many.to_dict(), allow_nan=False))
    assert np.allclose(said["blocks"][0]["mean"], many.blocks[0].mean, atol=1e-6)
    assert said["blocks"][0]["classes"]["dog"]["mean"] == many.blocks[0].class_mean[1].tolist()
    assert len(said["blocks"][0]["switching"]) == many.blocks[0].switching.sum()


def test_what_cannot_be_explained_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = make_net()
    with pytest.raises(UserError, match=r"no class 'dgo' among the 3 .* Did you mean dog"):
        explain_image(open_subject(net, CLASSES), make_pixels(), target="dgo")
    with pytest.raises(UserError, match="no block with attention called 'layer9'"):
        explain_image(net, make_pixels(), block="layer9")
    with pytest.raises(UserError, match="A Linear cannot be explained"):
        open_subject(torch.nn.Linear(1, 1))
    save_panoptic(create_panoptic("resnest14", 2, (1,)), tmp_path / "pan.safetensors")
    with pytest.raises(UserError, match="a panoptic net; classifiers, detectors and segmenters"):
        open_subject(tmp_path / "pan.safetensors")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"broken\.png"):
        explain_image(net, tmp_path / "broken.png")
    left_out: list[UnreadableImage] = []
    with pytest.raises(UserError, match="None of the images can be read"):
        explain_folder(net, [tmp_path / "broken.png"], unreadable=left_out)
    assert len(left_out) == 1
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(UserError, match=r"captum is not installed.*resnestkit\[explain\]"):
        explain_image(net, make_pixels())
    net.head_is_new = True
    with pytest.raises(UserError, match="never trained"):
        explain_image(net, make_pixels())
