"""Equal to the authors' net: their dilated backbone's features, and their files' logits."""

from pathlib import Path

import encoding_files as files
import pytest
import resnest.torch
import torch
from small_segmenters import difference, liven, train_without_chance
from torch import Tensor, nn

from resnestkit import UserError, create_segmenter
from resnestkit.segmentation.segmenter import Segmenter
from resnestkit.weights.segmenter_names import segmenter_to_ours
from resnestkit.weights.segmenters import PUBLISHED_SEGMENTERS

TOLERANCE = 1e-9
CLASSES = 5
SIZE = (49, 70)


def _features(net: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What the authors' stages put out."""
    found: dict[str, Tensor] = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        layer = net.get_submodule(name)
        layer.register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
    with torch.no_grad():
        net.eval()(images)
    return found


@pytest.mark.parametrize("name", ["resnest50", "resnest101"])
def test_features_at_stride_8_are_the_official_backbones(name: str) -> None:
    theirs = getattr(resnest.torch, name)(dilated=True).double()
    images = torch.randn(1, 3, *SIZE, dtype=torch.float64)
    liven(theirs, images)
    model = create_segmenter("deeplabv3", name, classes=CLASSES).double().eval()
    state = {n: t for n, t in theirs.state_dict().items() if not n.startswith("fc.")}
    model.body.load_state_dict(state, strict=True)
    with torch.no_grad():
        ours = model.body.forward_features(images)
    expected = _features(theirs, images)
    assert ours["layer4"].shape == (1, 2048, 7, 9)
    for stage, features in ours.items():
        assert difference(features, expected[stage]) < TOLERANCE, stage


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """The authors' ResNeSt of one block a stage, all its norms alive."""
    torch.manual_seed(0)
    found = files.build_backbone((1, 1, 1, 1))
    liven(found, torch.randn(2, 3, *SIZE))
    return found


@pytest.mark.parametrize("kind", ["deeplabv3", "fcn"])
def test_their_files_give_their_logits(kind, net: nn.Module, tmp_path: Path) -> None:
    head = {"deeplabv3": "deeplab", "fcn": "fcn"}[kind]
    state = files.segmenter(net.state_dict(), head, CLASSES)
    # As their training script leaves it, beside other things and wrapped.
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 120, "state_dict": wrapped, "best_pred": 0.6}, tmp_path / "theirs.pth")
    model = create_segmenter(kind, "resnest14", weights=tmp_path / "theirs.pth")
    assert (model.spec.classes, model.spec.output_stride) == (CLASSES, 8)
    assert model.spec.auxiliary
    assert not model.head_is_new
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    features = _features(net.double(), images)
    heads = files.Heads({name: tensor.double() for name, tensor in state.items()})
    expected = {
        "logits": getattr(heads, head)(features["layer4"], SIZE),
        "auxiliary": heads.fcn(features["layer3"], SIZE, "auxlayer"),
    }
    model = model.double().eval()
    with torch.no_grad():
        assert difference(model(images), expected["logits"]) < TOLERANCE
        found = train_without_chance(model)(images)
    assert found.keys() == expected.keys()
    for name, logits in found.items():
        assert difference(logits, expected[name]) < TOLERANCE, name
    net.float()


@pytest.mark.parametrize("head", ["deeplab", "fcn"])
def test_a_published_file_is_taken_whole(head: str, tmp_path: Path) -> None:
    """Under its published name, of the published size: every tensor has its place, none is left."""
    name, kind = {
        "deeplab": ("deeplab_resnest50_ade-2225f09d", "deeplabv3"),
        "fcn": ("fcn_resnest50_pcontext-77a2161d", "fcn"),
    }[head]
    classes = 150 if head == "deeplab" else 59
    state = files.segmenter(resnest.torch.resnest50().state_dict(), head, classes)
    path = tmp_path / f"{name}.pth"
    torch.save(state, path)
    model = create_segmenter(kind, "resnest50", weights=path)
    assert model.spec.classes == classes
    own = model.state_dict()
    assert len(own) == len(state)
    renamed = {"deeplab": "head.block.4.bias", "fcn": "head.conv5.4.bias"}[head]
    for ours, theirs in (
        ("body.layer4.2.conv2.fc2.bias", "pretrained.layer4.2.conv2.fc2.bias"),
        ("auxiliary.1.running_var", "auxlayer.conv5.1.running_var"),
        ("classifier.bias", renamed),
    ):
        assert torch.equal(own[ours], state[theirs])
    if head == "deeplab":
        with pytest.raises(UserError, match="has resnest50 as its backbone, not resnest101"):
            create_segmenter(kind, "resnest101", weights=path)


def test_every_published_name_and_shape_has_its_place() -> None:
    """Of all the authors' files, without their numbers."""
    theirs = [one for one in PUBLISHED_SEGMENTERS if "coco" not in one.file]
    assert len(theirs) == 11
    plain = {"radix": 0, "stem_width": 64, "avg_down": False, "avd": False}
    for kind, name in {(one.kind, one.net) for one in theirs}:
        with torch.device("meta"):
            build = getattr(resnest.torch, name, None)
            net = build() if build else files.build_backbone((3, 4, 6, 3), **plain)
            head = "deeplab" if kind == "deeplabv3" else kind
            state = files.segmenter(net.state_dict(), head, CLASSES)
            _check_names(state, create_segmenter(kind, name, CLASSES))


def _check_names(state: files.State, model: Segmenter) -> None:
    renamed = segmenter_to_ours(state, "encoding")
    assert {n: t.shape for n, t in renamed.items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }
