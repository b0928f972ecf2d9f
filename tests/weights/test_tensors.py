"""Tensors of every odd kind: loaded into memory of their own, or refused in a sentence."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from resnestkit import UserError, create_model, load_model, save_model
from resnestkit.weights.checkpoint import load_tensors, save_tensors
from resnestkit.weights.convert import inspect
from resnestkit.weights.foreign import read_weights

SMALL = "resnest23_small"


def test_aliases_strides_and_gradients_stay_in_the_file(tmp_path: Path) -> None:
    state = create_model(SMALL, classes=5).state_dict()
    shared = torch.ones(64)
    state |= {name: shared for name, t in state.items() if t.shape == shared.shape}
    state["fc.weight"] = torch.zeros(1).expand(state["fc.weight"].shape)
    state["fc.bias"] = nn.Parameter(torch.arange(10.0)[::2], requires_grad=False)
    torch.save(state, tmp_path / "a.pth")
    model = create_model(SMALL, classes=5, weights=tmp_path / "a.pth")
    tensors = list(model.state_dict().values())
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)
    assert all(t.is_contiguous() for t in tensors)
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    assert model.fc.bias.tolist() == [0, 2, 4, 6, 8]


def test_shared_memory_is_written(tmp_path: Path) -> None:
    one = torch.arange(6.0)
    save_tensors(tmp_path / "a.safetensors", {"a": one, "b": one, "c": one[2:]}, {"kind": "x"})
    loaded = load_tensors(tmp_path / "a.safetensors")[1]
    assert torch.equal(loaded["a"], one)
    assert torch.equal(loaded["b"], one)
    assert torch.equal(loaded["c"], one[2:])


ODD = {
    "meta": lambda: torch.zeros(2, device="meta"),
    "sparse": lambda: torch.zeros(2, 2).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
    "vast": lambda: torch.zeros(1).expand(60_000, 60_000),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_without_values_of_their_own(tmp_path: Path, kind: str) -> None:
    torch.save({"a": ODD[kind]()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"quantised, sparse|shapes without|unpacks to more"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("channels", [1, 3])
def test_weights_that_are_no_floating_point_numbers(
    tmp_path: Path, kind: torch.dtype, channels: int
) -> None:
    state = create_model(SMALL, classes=5).state_dict()
    state["conv1.weight"] = torch.ones(state["conv1.weight"].shape, dtype=kind)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"holds conv1.weight as \w+; weights are floating-point"):
        create_model(SMALL, classes=5, in_channels=channels, weights=tmp_path / "a.pth")
    with pytest.raises(UserError, match="weights are floating-point"):
        inspect(tmp_path / "a.pth")


@pytest.mark.parametrize("classes", [5, 7])
@pytest.mark.parametrize("shape", [(1,), (3,)])
def test_counters_of_any_kind_are_no_reason(
    tmp_path: Path, shape: tuple[int, ...], classes: int
) -> None:
    state = create_model(SMALL, classes=5).state_dict()
    state |= {n: torch.ones(shape) for n in state if n.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "a.safetensors")
    model = create_model(SMALL, classes=classes, weights=tmp_path / "a.safetensors")
    assert model.bn1.num_batches_tracked.shape == ()
    assert model.bn1.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("shape", [(), (4,), (4, 0, 3, 3), (4, 3)])
def test_a_stem_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    state = create_model(SMALL, classes=5).state_dict()
    save_file(state | {"conv1.weight": torch.zeros(shape)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"1 reshaped \(conv1.weight\)"):
        create_model(SMALL, classes=5, weights=tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="not those of a residual net"):
        inspect(tmp_path / "a.safetensors")


def test_half_precision_predicts(tmp_path: Path) -> None:
    model = create_model(SMALL, classes=5).eval()
    images = torch.randn(1, 3, 32, 32)
    expected = model(images)
    save_model(model.half(), tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")[0]
    assert {t.dtype for t in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded(images), expected, rtol=0.01, atol=0.01)


def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Cannot look at"):
        read_weights(tmp_path / ("a" * 300))
    (tmp_path / "a.pth").write_bytes(b"")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"Cannot read .*a\.pth: Permission denied"):
        read_weights(tmp_path / "a.pth")
