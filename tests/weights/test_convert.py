"""A file's net is told from its tensors; it converts whole or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from resnestkit import UserError, cli, create_model, load_model
from resnestkit.models.zoo import TABLE, find_net
from resnestkit.weights.convert import convert, inspect
from resnestkit.weights.identify import identify
from resnestkit.weights.names import Dialect, from_ours

SMALL = "resnest23_small"


@pytest.mark.parametrize("name", [net.name for net in TABLE if net.params < 30e6])
def test_every_net_is_told_from_its_tensors(name: str) -> None:
    with torch.device("meta"):
        tensors = create_model(name, classes=7, in_channels=4).state_dict()
    identity = identify(tensors)
    assert identity is not None
    assert find_net(name) in identity.nets
    assert identity.coverage.is_complete
    assert (identity.classes, identity.in_channels) == (7, 4)


def test_nets_that_differ_in_no_tensor_are_all_named() -> None:
    with torch.device("meta"):
        tensors = create_model("resnest50").state_dict()
    identity = identify(tensors)
    assert identity is not None
    assert [net.name for net in identity.nets] == ["resnest50", "resnest50_fast_2s1x64d"]


def test_what_is_no_residual_net() -> None:
    assert identify({"a.weight": torch.zeros(3)}) is None
    assert identify({"layer1.0.conv1.weight": torch.zeros(3)}) is None


@pytest.mark.parametrize(
    ("name", "dialect"),
    [(SMALL, "resnestkit"), ("seresnet23_small", "openmmlab"), ("resnest14", "detectron2")],
)
def test_a_converted_file_is_the_same_net(tmp_path: Path, name: str, dialect: Dialect) -> None:
    torch.manual_seed(0)
    model = create_model(name, classes=5, zero_gamma=False).eval()
    names = from_ours(model.state_dict(), dialect)
    wrapped = {f"module.{name}": t for name, t in names.items() if "num_batches" not in name}
    torch.save({"state_dict": wrapped}, tmp_path / "theirs.pth")
    assert convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors").name == name
    loaded, card = load_model(tmp_path / "ours.safetensors")
    assert card.classes == tuple(f"class {number}" for number in range(5))
    images = torch.randn(2, 3, 32, 32)
    # Not to the bit: where in memory weights lie decides which kernels read them.
    torch.testing.assert_close(loaded(images), model(images))
    state = model.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in loaded.state_dict().items())


def test_to_other_names_and_back(tmp_path: Path) -> None:
    state = create_model("resnest14", classes=5).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="detectron2")
    assert "res2.0.conv1.weight" in load_file(tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    back = load_model(tmp_path / "c.safetensors")[0].state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_half_a_net_is_not_converted(tmp_path: Path) -> None:
    state = create_model(SMALL, classes=5).state_dict()
    del state["layer4.1.conv3.weight"]
    save_file(state | {"extra": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"1 missing \(layer4.1.conv3.weight\), 1 unexpected"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_an_unclear_net_must_be_named(tmp_path: Path) -> None:
    state = create_model("resnet50", classes=5).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"resnet50 and resnet50a.*--net"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="holds no resnet18, but resnet50 or resnet50a"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", net="resnet18")
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "resnet50a")
    assert load_model(tmp_path / "b.safetensors")[1].spec.stride_in == "1x1"
    with pytest.raises(UserError, match="exists already"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "resnet50a")


def test_features_alone_convert_and_do_not_predict(tmp_path: Path) -> None:
    save_file(create_model(SMALL, classes=0).state_dict(), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="holds a backbone; a classifier is needed"):
        load_model(tmp_path / "b.safetensors")
    with pytest.warns(UserWarning, match="holds no classifier: that of 3 classes starts anew"):
        model = create_model(SMALL, classes=3, weights=tmp_path / "b.safetensors")
    assert model.head_is_new


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_channels_keep_the_response_to_channels_that_are_alike(
    tmp_path: Path, channels: int
) -> None:
    model = create_model(SMALL, classes=5, zero_gamma=False).eval()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    other = create_model(SMALL, 5, in_channels=channels, weights=tmp_path / "a.safetensors").eval()
    grey = torch.randn(2, 1, 16, 16)
    expected = model(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(other(grey.expand(-1, channels, -1, -1)), expected)
    assert not other.head_is_new
    if channels > 3:
        stem = other.conv1.weight[:, :3] * channels / 3
        torch.testing.assert_close(stem, model.conv1.weight)


def test_another_number_of_classes_starts_a_new_head(tmp_path: Path) -> None:
    model = create_model(SMALL, classes=5)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    same = create_model(SMALL, classes=5, weights=tmp_path / "a.safetensors")
    other = create_model(SMALL, classes=9, weights=tmp_path / "a.safetensors")
    headless = create_model(SMALL, classes=0, weights=tmp_path / "a.safetensors")
    assert [same.head_is_new, other.head_is_new, headless.head_is_new] == [False, True, False]
    assert torch.equal(other.layer4[1].conv3.weight, model.layer4[1].conv3.weight)
    with pytest.raises(UserError, match="does not hold the weights of a resnet23_small"):
        create_model("resnet23_small", weights=tmp_path / "a.safetensors")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(create_model(SMALL, classes=5).state_dict(), tmp_path / "a.safetensors")

    def typed(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(["weights", *words])
        return int(left.value.code or 0), *capsys.readouterr()

    assert "convert" in typed()[1]
    code, out, _ = typed("inspect", str(tmp_path / "a.safetensors"))
    assert code == 0
    assert SMALL in out
    assert "classes     5" in out
    code, out, _ = typed(
        "convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    )
    assert (code, inspect(tmp_path / "b.safetensors").nets[0].name) == (0, SMALL)
    code, _, err = typed("inspct")
    assert code == 2
    assert "Did you mean inspect" in err
    (tmp_path / "c.pth").write_bytes(b"no weights")
    code, _, err = typed("inspect", str(tmp_path / "c.pth"))
    assert code == 2
    assert "damaged or foreign" in err
