"""The card, and the three kinds of files that carry one."""

from __future__ import annotations

import json
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from resnestkit.errors import UserError
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.card import Check, DeployCard, InputForm, read_card, write_card
from resnestkit.runtime.containers import read_text, write_text
from resnestkit.runtime.openvino_core import openvino_core

CARD = DeployCard(
    kind="classifier",
    net="resnest14",
    classes=("é", '"quoted" & <angled>', "日本"),
    preprocessing=Preprocessing(64, mean=(0.5,), std=(0.25,)),
    input=InputForm(1, 64, 48, batch=None, least_side=33),
    outputs=("logits",),
    format="onnx",
    palette=((0, 1, 2), (3, 4, 5), (6, 7, 8)),
    quantised={"drop": 0.001},
    checked=(Check(1, 64, 48, 1e-6, 1.0, 2.0, 1.0),),
    versions={"torch": "2.15"},
)


def write_onnx(path: Path) -> Path:
    """A model of one Identity, with somebody else's metadata."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", *map(list, zip(value, strict=False))
    )
    model = helper.make_model(graph)
    helper.set_model_props(model, {"author": "somebody", "a": "b" * 300})
    onnx.save(model, path)
    return path


def write_openvino(path: Path) -> Path:
    x = openvino.opset8.parameter([2], np.float32, name="x")
    weights = openvino.opset8.constant(np.array([1.0, 2.0], np.float32))
    model = openvino.Model([openvino.opset8.add(x, weights)], [x], "sum")
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def write_program(path: Path) -> Path:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    return path


def test_json_there_and_back() -> None:
    assert DeployCard.from_json(CARD.to_json()) == CARD


def test_an_onnx_file_keeps_all_else(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx")
    before = onnx.load(path)
    assert read_text(path) is None
    for card in (CARD, replace(CARD, classes=("one",))):
        write_card(path, card)
        assert read_card(path) == card
    after = onnx.load(path)
    props = {prop.key: prop.value for prop in after.metadata_props}
    assert list(props) == ["author", "a", "resnestkit"]
    assert props["author"] == "somebody"
    del after.metadata_props[-1]
    assert after == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


def test_an_openvino_file_keeps_all_else(tmp_path: Path) -> None:
    path = write_openvino(tmp_path / "a.xml")
    assert read_text(path) is None
    for card in (CARD, replace(CARD, classes=("one",))):
        write_card(path, card)
        assert read_card(path) == card
    model = openvino_core().read_model(path)
    assert DeployCard.from_json(model.get_rt_info(["resnestkit"]).astype(str)).classes == ("one",)
    found = openvino_core().compile_model(model, "CPU")([np.array([3.0, 4.0], np.float32)])[0]
    assert found.tolist() == [4.0, 6.0]


def test_a_program_keeps_all_else(tmp_path: Path) -> None:
    path = write_program(tmp_path / "a.pt2")
    expected = torch.export.load(path).module()(torch.ones(1, 2))
    assert read_text(path) is None
    for card in (CARD, replace(CARD, classes=("one",))):
        write_card(path, card)
        assert read_card(path) == card
    extra = {"resnestkit": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert torch.equal(program(torch.ones(1, 2)), expected)
    assert DeployCard.from_json(extra["resnestkit"]).classes == ("one",)


def test_damaged_files_end_in_one_sentence(tmp_path: Path) -> None:
    writers = {".onnx": write_onnx, ".xml": write_openvino, ".pt2": write_program}
    for suffix, write in writers.items():
        path = tmp_path / f"a{suffix}"
        with pytest.raises(UserError, match="There is no file"):
            read_card(path)
        write(path)
        with pytest.raises(UserError, match="says nothing about itself"):
            read_card(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="is damaged"):
            read_card(path)
        with pytest.raises(UserError, match="is damaged"):
            write_card(path, CARD)
        assert path.read_bytes() == content[: len(content) // 2]
    with pytest.raises(UserError, match="no exported model"):
        read_card(tmp_path / "a.pth")


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader_of_onnx(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    with suppress(UserError):
        assert read_text(path) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"newer": 1}, "newer version"),
        ({"kind": "poet"}, "kind"),
        ({"classes": [1, 2]}, "classes"),
        ({"preprocessing": None}, "preprocessing"),
        ({"input": {"channels": 3}}, "lacks input.height"),
        ({"checked": [{"batch": 1}]}, "lacks checked"),
        ({"checked": 7}, ""),
    ],
)
def test_a_wrong_card_is_said_to_be_wrong(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = write_onnx(tmp_path / "a.onnx")
    write_text(path, json.dumps(json.loads(CARD.to_json()) | change))
    with pytest.raises(UserError, match=f"The card of .*{words}"):
        read_card(path)


def test_text_that_is_no_json_is_no_card(tmp_path: Path) -> None:
    path = write_program(tmp_path / "a.pt2")
    write_text(path, "[")
    with pytest.raises(UserError, match="The card of"):
        read_card(path)
    with zipfile.ZipFile(path) as archive:
        assert sum(name.endswith("extra/resnestkit") for name in archive.namelist()) == 1
