"""Typed checkpoints: whole or not at all, and never taken for something else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resnestkit.errors import UserError
from resnestkit.models.zoo import TABLE, find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.checkpoint import (
    CLASSIFIER,
    TRAINING_STATE,
    ModelCard,
    load_checkpoint,
    load_tensors,
    save_tensors,
    write_whole,
)

CARD = ModelCard(
    kind=CLASSIFIER,
    net="sknet50",
    spec=find_net("sknet50").spec,
    classes=("cat", "naïve dog", "猫"),
    preprocessing=Preprocessing(size=64, mean=(0.5,), std=(0.25,)),
    metrics={"top1": 0.5},
    data={"origin": "x", "fingerprint": "y", "held_out": None, "seed": 0},
)


def test_card_and_tensors_come_back(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(2, 3),
        "b": torch.arange(3),
        "c": torch.randn(1, 2, 4, 4).to(memory_format=torch.channels_last),
        "d": torch.randn(3).bfloat16(),
    }
    save_tensors(tmp_path / "x.safetensors", tensors, CARD.to_dict())
    card, loaded = load_checkpoint(tmp_path / "x.safetensors")
    assert card == CARD
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("net", [net.name for net in TABLE])
def test_every_spec_survives_json(net: str) -> None:
    card = replace(CARD, net=net, spec=find_net(net).spec)
    assert ModelCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    def refused(path: Path, words: str) -> None:
        with pytest.raises(UserError, match=words):
            load_checkpoint(path)

    refused(tmp_path / "missing.safetensors", "no checkpoint")
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\xff" * 100)
    refused(garbage, "not a checkpoint")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    refused(foreign, "nothing that says what they are")
    state = tmp_path / "state.safetensors"
    save_tensors(state, {"a": torch.zeros(1)}, {"kind": TRAINING_STATE})
    refused(state, "holds a training-state; a classifier is needed.*best.safetensors")
    partial = tmp_path / "partial.safetensors"
    save_tensors(partial, {"a": torch.zeros(1)}, {"kind": CLASSIFIER, "net": "x"})
    refused(partial, "incomplete")
    whole = tmp_path / "whole.safetensors"
    save_tensors(whole, {"a": torch.zeros(100)}, CARD.to_dict())
    whole.write_bytes(whole.read_bytes()[:-50])
    refused(whole, "not a whole safetensors file")


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_whole(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("resnestkit.weights.checkpoint.os.fsync", full)
    with pytest.raises(UserError, match=r"Cannot write .*No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_alone_can_be_read(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, CARD.to_dict())
    assert load_tensors(tmp_path / "x.safetensors")[0]["net"] == "sknet50"
