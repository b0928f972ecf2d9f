"""Every kind of segmenter on several kinds of net: any size, trained, exported, refused."""

import subprocess
import sys

import pytest
import torch
from small_segmenters import CLASSES, NARROW, difference, make
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from resnestkit import UserError, create_model, create_segmenter
from resnestkit.models.layers import GroupedDilatedConv, SyncBatchNorm
from resnestkit.segmentation.segmenter import Segmenter, build_segmenter
from resnestkit.segmentation.spec import (
    KINDS,
    Kind,
    SegmenterSpec,
    own_output_stride,
    wants_auxiliary,
)

NETS = ("resnest14", "skresnet18", "bn_inception", "resnest23_small", "legacy_seresnext50_32x4d")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", ["resnest14", "resnet23_small"])
def test_any_size_and_gradients_everywhere(kind: Kind, net: str) -> None:
    model = make(kind, net)
    images, labels = torch.randn(2, 3, 33, 47), torch.randint(CLASSES, (2, 33, 47))
    found = model(images)
    assert list(found) == (["logits", "auxiliary"] if wants_auxiliary(kind) else ["logits"])
    losses = [nn.functional.cross_entropy(logits, labels) for logits in found.values()]
    torch.stack(losses).sum().backward()
    lacking = [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.isfinite().all()
    ]
    assert not lacking
    model.eval()
    for height, width in ((1, 1), (100, 3), (33, 47), (64, 32)):
        with torch.no_grad():
            logits = model(torch.randn(1, 3, height, width))
        assert logits.shape == (1, CLASSES, height, width)
        assert logits.isfinite().all()


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kind", ["deeplabv3plus", "fpn", "unet"])
def test_every_family_of_nets(kind: Kind, net: str) -> None:
    model = make(kind, net).eval()
    assert model.body.stages[-1].stride == min(own_output_stride(kind), model.body.output_stride)
    with torch.no_grad():
        for size in ((1, 2), (45, 30)):
            assert model(torch.randn(1, 3, *size)).shape == (1, CLASSES, *size)


def test_a_net_that_pads_little() -> None:
    """Its stages are smaller than their strides say: decoders that go by sizes take them."""
    model = make("upernet", "inception_resnet_v2").eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 20, 90)).shape == (1, CLASSES, 20, 90)
    with pytest.raises(UserError, match="take another backbone, or unet or upernet"):
        make("fpn", "inception_resnet_v2")


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fpn"])
def test_output_stride(kind: Kind, output_stride: int) -> None:
    with torch.device("meta"):
        model = make(kind, output_stride=output_stride).eval()
        assert model(torch.empty(1, 3, 50, 70)).shape == (1, CLASSES, 50, 70)
    assert model.body.output_stride == model.spec.output_stride == output_stride


def test_an_fpn_wants_its_stages_to_halve() -> None:
    with pytest.raises(UserError, match="at output stride 16 are not: take output stride 32"):
        make("fpn", output_stride=16)


def test_rates_span_the_same_part_of_an_image() -> None:
    with torch.device("meta"):
        for stride, rates in ((8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])):
            model = create_segmenter("deeplabv3", "resnest14", output_stride=stride)
            convs = [conv[0] for conv in model.decoder[0].convs[1:4]]
            assert [conv.dilation[0] for conv in convs] == rates


def test_the_papers_head() -> None:
    """Layers and sizes of PyTorch-Encoding's DeepLabV3Head and FCNHead."""
    with torch.device("meta"):
        model = create_segmenter("deeplabv3", "resnest50")
    assert (model.spec.classes, model.spec.output_stride) == (150, 8)
    aspp = model.decoder[0]
    assert isinstance(aspp.project[3], nn.Dropout2d)
    assert aspp.project[3].p == 0.5
    assert isinstance(model.decoder[4], nn.Dropout)
    assert model.decoder[4].p == model.auxiliary[3].p == 0.1
    assert model.decoder[1].weight.shape == (256, 256, 3, 3)
    assert model.auxiliary[0].weight.shape == (256, 1024, 3, 3)
    sizes = [sum(p.numel() for p in head.parameters()) for head in model.head_modules()]
    aspp_size = 2048 * 256 * (1 + 3 * 9 + 1) + 5 * 256 * 256 + 6 * 512
    assert sizes[0] == aspp_size + 256 * 256 * 9 + 512
    assert sizes[1] == 257 * 150
    assert sizes[2] == 1024 * 256 * 9 + 512 + 257 * 150


def test_padding_changes_nothing_where_none_is_needed() -> None:
    """A size that an FPN must pad gives the logits of the image with zeros around it."""
    model = make("fpn", "resnet23_small").eval()
    image = torch.randn(1, 3, 20, 27)
    padded = nn.functional.pad(image, (0, 5, 0, 4))
    with torch.no_grad():
        assert torch.equal(model(image), model(padded)[:, :, :20, :27])
    assert make("fpn").multiple == 32
    assert all(make(kind, "resnet23_small").multiple == 1 for kind in KINDS if kind != "fpn")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("norm", "layer"),
    [("batch", nn.BatchNorm2d), ("sync", SyncBatchNorm), ("group", nn.GroupNorm)],
)
def test_norms_are_everywhere_as_asked(kind: Kind, norm: str, layer: type[nn.Module]) -> None:
    with torch.device("meta"):
        model = make(kind, norm=norm, auxiliary=True)
    for place in (model.body, model.decoder, model.auxiliary):
        norms = [p for p in place.modules() if isinstance(p, nn.BatchNorm2d | nn.GroupNorm)]
        assert norms
        wanted = nn.GroupNorm if kind == "fpn" and place is model.decoder else layer
        assert {type(part) for part in norms} == {wanted}


def test_a_new_head_has_no_statistics_to_freeze(tmp_path) -> None:
    torch.save(create_model("resnest23_small", 2).state_dict(), tmp_path / "net.pth")
    options = {"norm": "frozen", "weights": tmp_path / "net.pth", "frozen_stages": 1}
    model = make("pspnet", "resnest23_small", **options)
    assert model.spec.head_norm == "group"
    assert any(isinstance(part, FrozenBatchNorm2d) for part in model.body.modules())
    assert not any(isinstance(part, FrozenBatchNorm2d) for part in model.decoder.modules())
    model(torch.randn(1, 3, 16, 16))["logits"].sum().backward()  # a batch of one trains
    with pytest.raises(UserError, match="a new head has no statistics"):
        make("pspnet", "resnest23_small", head_norm="frozen")


@pytest.mark.parametrize("kind", ["deeplabv3", "deeplabv3plus", "upernet"])
def test_a_batch_of_one_is_too_small_for_batch_norm(kind: Kind) -> None:
    model = make(kind, "resnet23_small", norm="batch")
    with pytest.raises(UserError, match=r"A batch of 1 image leaves a norm of this segmenter one"):
        model(torch.randn(1, 3, 32, 32))
    model(torch.randn(2, 3, 32, 32))
    make(kind, "resnet23_small", norm="batch", head_norm="group")(torch.randn(1, 3, 32, 32))


def test_separable_convolutions_learn_in_bfloat16() -> None:
    """oneDNN's gradients of grouped dilated convolutions are noise there (GroupedDilatedConv)."""
    model = make("deeplabv3plus", "resnet23_small", norm="batch")
    separable = [part for part in model.decoder.modules() if isinstance(part, GroupedDilatedConv)]
    assert len(separable) == 3
    layer = separable[0].to(memory_format=torch.channels_last)
    x = torch.randn(2, layer.in_channels, 32, 32).to(memory_format=torch.channels_last)
    probe = torch.randn(2, layer.out_channels, 32, 32)
    gradients = []
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = layer(x)
        gradients.append(torch.autograd.grad((out.float() * probe).sum(), layer.weight)[0])
    assert difference(gradients[1], gradients[0]) < 0.05


def test_logits_keep_32_bits_under_autocast_and_64_where_asked() -> None:
    model, images = make("fcn", "resnet23_small"), torch.randn(1, 3, 20, 20)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(images)
    assert {logits.dtype for logits in found.values()} == {torch.float32}
    assert model.double().eval()(images.double()).dtype == torch.float64


def test_it_learns_a_picture() -> None:
    model = make("deeplabv3", "resnet23_small")
    labels = torch.zeros(2, 24, 24, dtype=torch.int64)
    labels[:, :12], labels[:, :, 16:] = 1, 2
    images = labels[:, None].expand(-1, 3, -1, -1) + 0.1 * torch.randn(2, 3, 24, 24)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    totals = []
    for _ in range(12):
        found = model(images)
        loss = nn.functional.cross_entropy(found["logits"], labels)
        loss = loss + 0.2 * nn.functional.cross_entropy(found["auxiliary"], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert min(totals[-3:]) < 0.8 * totals[0]


def test_its_evaluation_is_a_graph() -> None:
    model = make("deeplabv3plus", "resnet23_small", norm="batch").eval()
    # The averaging shortcut rounds up, which torch.export follows for whole strides alone.
    high, wide = (torch.export.Dim(name, min=2, max=64) for name in ("h", "w"))
    sides = {2: 8 * high, 3: 8 * wide}
    program = torch.export.export(model, (torch.randn(1, 3, 40, 48),), dynamic_shapes=(sides,))
    for size in ((40, 48), (16, 64)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(images), model(images))


def test_training_compiles() -> None:
    torch._dynamo.reset()
    model = make("fcn", "resnet23_small")
    compiled = torch.compile(model, backend="eager")
    images = torch.randn(2, 3, 24, 24)
    found = compiled(images)
    found["logits"].sum().backward()
    assert list(found) == ["logits", "auxiliary"]
    assert model.classifier.weight.grad is not None


def test_all_but_the_backbone_are_heads() -> None:
    model = make("pspnet", "resnet23_small")
    heads = {p for head in model.head_modules() for p in head.parameters()}
    assert heads | set(model.body.parameters()) == set(model.parameters())
    assert not heads & set(model.body.parameters())
    assert len(make("pspnet", "resnet23_small", auxiliary=False).head_modules()) == 2


def test_what_is_no_batch_of_images() -> None:
    model = make("fcn", "resnet23_small").eval()
    for wrong in (torch.randn(3, 8, 8), torch.randn(1, 4, 8, 8), torch.randn(1, 3, 0, 8)):
        with pytest.raises(UserError, match=r"must be \(images, 3, height, width\)"):
            model(wrong)
    with pytest.raises(UserError, match=r"whole numbers \(torch\.uint8\)"):
        model(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_a_spec_is_plain_values_and_comes_back() -> None:
    for kind in KINDS:
        with torch.device("meta"):
            spec = make(kind).spec
            again = build_segmenter(SegmenterSpec.from_dict(spec.to_dict()))
            names = make(kind).state_dict().keys()
        assert again.spec == spec
        assert again.state_dict().keys() == names


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "segformer"}, "kind is 'segformer'"),
        ({"classes": 1}, "classes is 1; it must be 2 or more"),
        ({"output_stride": 4}, "output_stride is 4"),
        ({"norm": "layer"}, "norm is 'layer'"),
        ({"head_norm": "none"}, "head_norm is 'none'"),
        ({"settings": {"aspp_rates": (6, 12)}}, "aspp_rates are not three"),
        ({"settings": {"unet_channels": ()}}, "unet_channels are 0"),
        ({"settings": {"channels": 0}}, "channels are none"),
        ({"settings": {"dropout": 1.0}}, "dropout is 1.0"),
        ({"settings": {"aspp_dropout": -0.5}}, "aspp_dropout is -0.5"),
    ],
)
def test_a_spec_that_cannot_be(wrong: dict, said: str) -> None:
    plain = make("deeplabv3", "resnet23_small").spec.to_dict()
    settings = {**plain["settings"], **wrong.get("settings", {})}
    with pytest.raises(ValueError, match=said):
        SegmenterSpec.from_dict({**plain, **wrong, "settings": settings})


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("segmentation_models_pytorch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "resnestkit.segmentation.library", raising=False)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match=r"pip install 'resnestkit\[segmentation\]'"):
        make("unet", "resnet23_small")
    assert isinstance(make("deeplabv3", "resnet23_small", settings=NARROW), Segmenter)


def test_the_spec_imports_without_torch() -> None:
    code = "import sys, resnestkit.segmentation.spec; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
