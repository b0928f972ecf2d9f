"""Attention in nets that are not ours: torchvision's MobileNet, ResNet and Inception."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from resnestkit.errors import UserError
from resnestkit.models.attention import SelectiveKernel, SplitAttention, SqueezeExcite
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.insert import Insertion, Kind, LayerWithAttention, insert_attention
from resnestkit.models.layers import norm_factory
from resnestkit.models.spec import SelectiveKernelSpec
from resnestkit.models.zoo import find_net

BATCH_NORM = norm_factory("batch")


def _resnet() -> nn.Module:
    return torchvision.models.resnet18(weights=None, num_classes=5)


def _mobilenet() -> nn.Module:
    return torchvision.models.mobilenet_v2(weights=None, num_classes=5, width_mult=0.5)


def _inception(**options: bool) -> nn.Module:
    return torchvision.models.inception_v3(
        weights=None, num_classes=5, init_weights=False, **options
    )


HOSTS: dict[str, tuple[Callable[[], nn.Module], str, str | tuple[str, ...], int, int]] = {
    "mobilenet-se": (_mobilenet, "se", "features.*.conv.1", 17, 64),
    "mobilenet-sk": (_mobilenet, "sk", ("features.1.conv.0.0", "features.*.conv.1.0"), 17, 64),
    "resnet-se": (_resnet, "se", "layer?.*", 8, 64),
    "resnet-sk": (_resnet, "sk", "layer*.*.conv2", 8, 64),
    "resnet-split": (_resnet, "split", "layer*.*.conv2", 8, 64),
    "inception-se": (_inception, "se", "Mixed_*", 11, 96),
    "inception-split": (
        _inception,
        "split",
        (
            "Conv2d_[24]a_3x3.conv",
            "Mixed_6a.branch3x3.conv",
            "Mixed_7a.branch3x3_2.conv",
            "Mixed_7a.branch7x7x3_4.conv",
            "Mixed_*.branch3x3dbl_[23].conv",
        ),
        2 + 3 + 10,
        96,
    ),
}
"""Host, kind, where, number of places, and side of the images to run."""


def _conv(*args: Any, **options: Any) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(*args, **options), act=nn.ReLU()))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def _assert_untouched(model: nn.Module, before: dict[str, Tensor], shown: str) -> None:
    assert repr(model) == shown
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


# --- What is put in -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", HOSTS)
def test_a_host_keeps_its_shapes_and_its_own_weights(case: str) -> None:
    """Every module that is still there puts out maps of the shape it did; its weights are bits."""
    build, kind, where, count, side = HOSTS[case]
    model = build().eval()
    images = torch.randn(2, 3, side, side)
    owned = {weight: weight.detach().clone() for weight in model.parameters()}
    shapes = _shapes(model, images)
    cost = count_cost(deepcopy(model).to("meta"), 3, side)

    done = insert_attention(model, kind, where, size=side)

    assert len(done.places) == count
    assert done.before == cost
    assert done.after == count_cost(deepcopy(model).to("meta"), 3, side)
    assert done.after.params == sum(weight.numel() for weight in model.parameters())
    out = model(images)
    assert out.shape == (2, 5)
    assert out.isfinite().all()
    assert _shapes(model, images).items() >= shapes.items()
    kept = [weight for weight in model.parameters() if weight in owned]
    assert all(torch.equal(weight, owned[weight]) for weight in kept)
    assert len(kept) == len(owned) - (count if kind != "se" else 0)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def _shapes(model: nn.Module, images: Tensor) -> dict[str, torch.Size]:
    """The shape that each module puts out, by the host's own name for it."""
    seen: dict[str, torch.Size] = {}
    hooks = [
        part.register_forward_hook(
            lambda _part, _in, out, n=name: seen.update({n.replace(".layer", ""): out.shape})
        )
        for name, part in model.named_modules()
        if name
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("kind", ["sk", "split"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (3, 2), (5, 1), (7, 1)])
def test_every_geometry_is_kept(kind: Kind, stride: int, kernel: int, dilation: int) -> None:
    named = {"valid": 0} | ({"same": dilation * (kernel - 1) // 2} if stride == 1 else {})
    for padding in (0, 1, 2, 5, *named):
        layer = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups=2)
        net = nn.Sequential(layer).eval()
        images = [torch.randn(1, 4, *side) for side in ((32, 32), (23, 18), (16, 21))]
        shapes = [net(image).shape for image in images]
        insert_attention(net, kind, "0", radix=1, size=32)
        assert [net(image).shape for image in images] == shapes
        new = [path.conv for path in net[0].paths] if kind == "sk" else [net[0].conv]
        assert new[0].dilation == layer.dilation
        assert new[-1].dilation[0] == dilation * len(new)
        assert new[0].padding == 2 * (named.get(padding, padding),)
        for conv in new:
            kept = (conv.kernel_size, conv.stride, conv.groups)
            assert kept == (layer.kernel_size, layer.stride, layer.groups)


def test_both_paths_of_a_selective_kernel_look_at_the_same_place() -> None:
    """Without padding too, the wide kernel is centred on the narrow one."""
    net = nn.Sequential(nn.Conv2d(1, 1, 3, 2)).double().eval()
    insert_attention(net, "sk", "0", size=16)
    image = torch.randn(1, 1, 15, 15, dtype=torch.float64)
    narrow, wide = (path.conv for path in net[0].paths)
    with torch.no_grad():
        for path in (narrow, wide):
            path.weight.zero_()[..., 1, 1] = 1
    torch.testing.assert_close(wide(image), narrow(image))
    torch.testing.assert_close(narrow(image), image[..., 1:-1:2, 1:-1:2])


@pytest.mark.parametrize("case", ["mobilenet-se", "resnet-se", "inception-se"])
def test_a_gate_that_is_open_changes_nothing(case: str) -> None:
    build, kind, where, _, side = HOSTS[case]
    model = build().eval()
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = model(images)
        insert_attention(model, kind, where)
        assert not torch.equal(model(images), expected)
        for part in model.modules():
            if isinstance(part, SqueezeExcite):
                nn.init.constant_(part.fc2.bias, 1e4)
        assert torch.equal(model(images), expected)


def test_a_place_inside_another_gets_its_own() -> None:
    model = _resnet().eval()
    images = torch.randn(1, 3, 64, 64)
    block, norm = model.layer1[0], model.layer1[0].bn2
    with torch.no_grad():
        expected = model(images)
    done = insert_attention(model, "se", ["layer1.0.bn2", "layer1.0"])
    assert done.places == ("layer1.0", "layer1.0.bn2")
    assert model.layer1[0].layer is block
    assert model.layer1[0].layer.bn2.layer is norm
    for part in model.modules():
        if isinstance(part, SqueezeExcite):
            nn.init.constant_(part.fc2.bias, 1e4)
    with torch.no_grad():
        assert torch.equal(model(images), expected)


def test_attention_may_stand_behind_attention() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3)).eval()
    insert_attention(net, "split", "0", radix=1, size=16)
    insert_attention(net, "se", "0", size=16)
    insert_attention(net, "se", "0", size=16)
    assert net(torch.randn(1, 3, 16, 16)).shape == (1, 8, 14, 14)
    assert isinstance(net[0].layer.layer, SplitAttention)


def test_a_seed_decides_the_new_weights_alone() -> None:
    """The trial run on a copy draws no number."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3))
    torch.manual_seed(7)
    insert_attention(net, "se", "0", size=16)
    torch.manual_seed(7)
    expected = SqueezeExcite(8).state_dict()
    found = net[0].attention.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


# --- Costs --------------------------------------------------------------------------------------


def test_se_at_the_last_norms_of_a_resnet_is_the_published_se_resnet() -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet50(weights=None)
    done = insert_attention(model, "se", "layer*.*.bn3")
    assert len(done.places) == 16
    assert done.after.params == find_net("seresnet50").params == 28_088_024
    assert round(done.after.macs / 1e9, 3) == find_net("seresnet50").gmacs


def test_costs_of_squeeze_and_excitation_are_those_of_two_small_layers() -> None:
    done = insert_attention(_resnet(), "se", ("layer1.0", "layer4.1"), reduction=8, size=64)
    gates = 2 * 64 * 8 + 2 * 512 * 64
    assert done.after.params - done.before.params == gates + (64 + 8) + (512 + 64)
    assert done.after.macs - done.before.macs == gates


def test_costs_of_selective_kernels() -> None:
    """A second convolution, a norm for each, and the gate with its own norm."""
    done = insert_attention(_resnet(), "sk", "layer2.1.conv2", size=64)
    gate = 128 * 32 + 32 * 2 * 128
    conv = 9 * 128 * 128
    assert done.after.params - done.before.params == conv + 2 * 2 * 128 + gate + 2 * 32
    assert done.after.macs - done.before.macs == conv * 8 * 8 + gate


@pytest.mark.parametrize("radix", [1, 2, 4])
def test_costs_of_split_attention(radix: int) -> None:
    """The convolution costs what it did; the norm of the splits, and the gate, come on top."""
    done = insert_attention(_resnet(), "split", "layer2.1.conv2", radix=radix, size=64)
    hidden = 128 * radix // 4
    gate = 128 * hidden + hidden * 128 * radix
    rest = 2 * 128 * radix + hidden + 2 * hidden + 128 * radix
    assert done.after.params - done.before.params == gate + rest
    assert done.after.macs - done.before.macs == gate


def test_a_bias_before_a_norm_is_left_out() -> None:
    done = insert_attention(nn.Sequential(nn.Conv2d(8, 8, 3)), "split", "0", radix=1, size=8)
    assert done.before.params == 9 * 64 + 8
    assert done.after.params == 9 * 64 + 2 * 8 + (8 * 32 + 32) + 2 * 32 + (32 * 8 + 8)


def test_what_is_done_is_told_in_three_lines() -> None:
    done = Insertion("se", ("a", "b", "c", "d", "e"), Cost(10**6, 10**9), Cost(1_250_000, 10**9))
    assert str(done) == (
        "se             at a, b, ..., e (5 in all)\n"
        "parameters     1.00 M -> 1.25 M (+25.0%)\n"
        "multiply-adds  1000.00 M -> 1000.00 M (+0.0%)"
    )
    with pytest.raises(FrozenInstanceError):
        done.places = ()


@pytest.mark.parametrize("form", [{"aux_logits": False}, {"transform_input": True}], ids=str)
def test_inception_is_counted_in_every_form(form: dict[str, bool]) -> None:
    with torch.device("meta"):
        model = _inception(**form).train()
    done = insert_attention(model, "se", "Mixed_7c")
    assert done.after.macs - done.before.macs == 2 * 2048 * 128
    assert model.training


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
def test_images_have_the_channels_of_the_first_convolution_that_runs(channels: int) -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(6, 7, 1)
            self.first = nn.Conv2d(channels, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    done = insert_attention(Reversed(), "se", "second", size=8)
    assert done.before.macs == 64 * (channels * 6 + 6 * 7)


def test_a_host_may_rearrange_the_image_before_its_first_convolution() -> None:
    net = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 1))
    assert insert_attention(net, "se", "1", size=8).before.macs == 16 * 12 * 8


# --- Training, saving, copying ------------------------------------------------------------------


@pytest.mark.parametrize("case", ["mobilenet-se", "mobilenet-sk", "resnet-split"])
def test_gradients_reach_everything(case: str) -> None:
    build, kind, where, _, side = HOSTS[case]
    model = build().train()
    done = insert_attention(model, kind, where)
    model(torch.randn(4, 3, side, side)).square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    # Before the bias, all of the eight units of an untrained gate may be silent by chance.
    end = ".attn.fc_select.weight" if kind == "sk" else ".fc2.bias"
    new = [weight for name, weight in model.named_parameters() if name.endswith(end)]
    assert len(new) == len(done.places)
    assert all((weight.grad != 0).any() for weight in new)


def test_inception_trains_with_its_auxiliary_head() -> None:
    with torch.device("meta"):
        model = _inception(aux_logits=True).train()
        insert_attention(model, "se", ["Mixed_6b", "Mixed_7c"])
        insert_attention(model, "split", "AuxLogits.conv1.conv", size=299)
        out = model(torch.randn(2, 3, 299, 299))
    (out.logits.sum() + out.aux_logits.sum()).backward()
    assert model.AuxLogits.conv1.conv.conv.padding == (0, 0)
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("case", ["mobilenet-se", "resnet-split"])
def test_weights_and_copies_of_the_new_net(case: str) -> None:
    build, kind, where, _, side = HOSTS[case]
    images = torch.randn(2, 3, side, side)
    model, other = build().eval(), build().eval()
    for net in (model, other):
        insert_attention(net, kind, where)
    copy = deepcopy(model)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(copy(images), expected)
        assert torch.equal(other(images), expected)


@pytest.mark.parametrize(
    ("case", "dtype", "training"),
    [
        ("mobilenet-sk", torch.float64, True),
        ("resnet-se", torch.float64, False),
        ("resnet-se", torch.bfloat16, True),
        ("resnet-split", torch.float64, True),
    ],
)
def test_type_and_mode_are_the_models(case: str, dtype: torch.dtype, training: bool) -> None:
    build, kind, where, _, _ = HOSTS[case]
    model = build().to(dtype).train(training)
    insert_attention(model, kind, where)
    assert {part.training for part in model.modules()} == {training}
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    out = model.eval()(torch.randn(1, 3, 64, 64, dtype=dtype))
    assert out.dtype == dtype


def test_what_was_frozen_stays_frozen() -> None:
    model = _resnet().train()
    model.layer1.eval().requires_grad_(False)
    insert_attention(model, "se", "layer?.0")
    assert not any(part.training for part in model.layer1.modules())
    assert all(part.training for part in model.layer2.modules())
    frozen = {name for name, w in model.layer1.named_parameters() if not w.requires_grad}
    assert frozen
    assert not any("attention" in name for name in frozen)


def test_a_place_without_weights_takes_the_type_of_those_around_it() -> None:
    net = nn.Sequential(_conv(3, 8, 3), nn.MaxPool2d(2)).double()
    insert_attention(net, "se", ["0.act", "1"], size=16)
    assert net(torch.randn(1, 3, 16, 16, dtype=torch.float64)).dtype == torch.float64


def test_a_module_of_many_arguments_keeps_them() -> None:
    class Add(nn.Module):
        def forward(self, x: Tensor, *, other: Tensor) -> Tensor:
            return x + other

    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.add = nn.Conv2d(3, 8, 1), Add()

        def forward(self, x: Tensor) -> Tensor:
            return self.add(self.conv(x), other=self.conv(x))

    net = Host()
    insert_attention(net, "se", "add", size=8)
    assert isinstance(net.add, LayerWithAttention)
    assert net(torch.randn(1, 3, 8, 8)).shape == (1, 8, 8, 8)


def test_options_reach_the_parts() -> None:
    model = _resnet()
    insert_attention(model, "se", "layer1.0", reduction=4)
    insert_attention(model, "split", "layer4.0.conv2", reduction=8, radix=4, norm="group")
    insert_attention(model, "sk", "layer4.1.conv2", reduction=2, norm="frozen")
    assert model.layer1[0].attention.fc1.out_channels == 16
    split = model.layer4[0].conv2
    assert (split.radix, split.fc1.out_channels) == (4, 512 * 4 // 8)
    assert isinstance(split.bn0, nn.GroupNorm)
    assert isinstance(model.layer4[1].conv2.paths[0].bn, torchvision.ops.FrozenBatchNorm2d)
    assert model.layer4[1].conv2.attn.fc_reduce.out_channels == 256


def test_the_modules_do_as_they_did_for_those_who_give_no_kernel() -> None:
    """Defaults and the geometry they stand for are one, to the bit."""
    x = torch.randn(2, 8, 9, 9)
    for make in (
        lambda **o: SplitAttention(8, 8, BATCH_NORM, dilation=2, stride=2, **o),
        lambda **o: SelectiveKernel(8, 8, SelectiveKernelSpec(), BATCH_NORM, dilation=2, **o),
    ):
        outs = []
        for options in ({}, {"kernel": 3, "padding": 2}):
            torch.manual_seed(0)
            outs.append(make(**options).eval()(x))
        assert torch.equal(*outs)


# --- Where --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("layer1.0", 1),
        ("layer*.*", 8),
        ("layer*.*.bn2", 8),
        ("layer[12].*.bn?", 8),
        (["layer1.*", "layer1.0", "conv1"], 3),
        (("*1",), 3),
    ],
)
def test_a_pattern_matches_names_of_its_own_depth(where: Any, count: int) -> None:
    with torch.device("meta"):
        done = insert_attention(_resnet(), "se", where)
    assert len(done.places) == count


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"kind": "cbam", "where": "conv1"}, "kind is 'cbam'; it must be one of se, sk, split"),
    "norm": ({"kind": "sk", "where": "conv1", "norm": "layer"}, "norm is 'layer'; it must be one"),
    "radix": ({"kind": "split", "where": "conv1", "radix": 0}, "radix is 0"),
    "reduction": ({"kind": "se", "where": "conv1", "reduction": 0}, "reduction is 0"),
    "no pattern": ({"kind": "se", "where": []}, "where is empty"),
    "no match": (
        {"kind": "se", "where": ["conv1", "layer1.0.cnov2"]},
        r"no module's name matches 'layer1.0.cnov2'. Did you mean layer1.0.conv2",
    ),
    "the whole": ({"kind": "se", "where": ""}, "no module's name matches ''"),
    "no convolution": ({"kind": "sk", "where": ["conv1", "layer1.0"]}, "layer1.0 is a BasicBlock"),
    "1x1": ({"kind": "split", "where": "layer2.0.downsample.0"}, r"kernel_size=\(1, 1\)"),
    "channels": (
        {"kind": "split", "where": ["layer1.0.conv2", "conv1"]},
        "conv1 has 3 input channels and 1 group.* radix x groups = 2 input channels",
    ),
    "not a map": ({"kind": "se", "where": ["conv1", "fc"]}, "fc puts out a tensor of 2 dimensions"),
    "image": ({"kind": "se", "where": "conv1", "size": 0}, "does not run on an image of 0x0"),
}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """One for all faults, which must leave it as it was."""
    return _resnet().train()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_and_leaves_the_model_as_it_was(fault: str, resnet: nn.Module) -> None:
    arguments, message = FAULTS[fault]
    model, before, shown = resnet, _weights(resnet), repr(resnet)
    with pytest.raises(UserError, match=message) as caught:
        insert_attention(model, **arguments)
    assert "\n" not in str(caught.value)
    assert model.training
    _assert_untouched(model, before, shown)


def test_depthwise_convolutions_take_sk_but_no_split_attention() -> None:
    model = _mobilenet()
    before, shown = _weights(model), repr(model)
    message = r"features.2.conv.1.0 has 48 input channels and 48 group.* = 96 .* kind 'sk'"
    with pytest.raises(UserError, match=message):
        insert_attention(model, "split", "features.2.conv.1.0")
    with pytest.raises(UserError, match=r"in the units of its gate"):
        insert_attention(model, "split", "features.2.conv.1.0", radix=1)
    _assert_untouched(model, before, shown)


def test_grouped_convolutions_take_split_attention() -> None:
    with torch.device("meta"):
        model = torchvision.models.resnext50_32x4d(weights=None)
    insert_attention(model, "split", "layer*.*.conv2")
    assert model.layer1[0].conv2.cardinality == 32
    assert model.layer1[0].conv2.conv.groups == 64


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, (1, 7), padding=(0, 3)),
        nn.Conv2d(4, 4, 2),
        nn.Conv2d(4, 4, 3, stride=(2, 1)),
        nn.Conv2d(4, 4, 3, padding=(0, 1)),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        type("OwnConv", (nn.Conv2d,), {})(4, 4, 3),
    ],
    ids=str,
)
def test_other_convolutions_are_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(UserError, match=r"^1 is (Own)?Conv2?d?\(4, 4, .*replaces a plain"):
        insert_attention(nn.Sequential(nn.Conv2d(3, 4, 1), layer), "split", "1", size=16)


def test_a_module_of_two_names_is_refused() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    with pytest.raises(UserError, match="0 and 2 are one and the same module"):
        insert_attention(net, "se", "0", size=8)
    with pytest.raises(UserError, match=r"1\.0 and 0\.0 are one and the same module"):
        insert_attention(nn.Sequential(*[nn.Sequential(shared)] * 2), "sk", "1.0", size=8)


def test_a_module_that_is_used_at_several_widths_is_refused() -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet50(weights=None)
    with pytest.raises(UserError, match="relu puts out 256 channels and 64 channels"):
        insert_attention(model, "se", "layer1.0.relu")


def test_a_module_that_does_not_run_is_refused() -> None:
    with torch.device("meta"):
        model = _inception()
    with pytest.raises(UserError, match="AuxLogits puts out nothing"):
        insert_attention(model, "se", "AuxLogits")


def test_a_net_without_convolutions_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(UserError, match=r"runs no nn\.Conv2d"):
        insert_attention(net, "se", "0", size=8)


def test_a_host_that_cannot_live_with_a_pair_is_told_so() -> None:
    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * math.sqrt(self.conv.out_channels)

    net = Host()
    before, shown = _weights(net), repr(net)
    with pytest.raises(UserError, match=r"does not run with se at conv \(.*out_channels"):
        insert_attention(net, "se", "conv", size=8)
    _assert_untouched(net, before, shown)
