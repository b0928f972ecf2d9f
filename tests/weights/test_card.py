"""A card that was made up builds nothing and breaks nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from resnestkit import UserError, create_model, load_model, save_model
from resnestkit.weights.checkpoint import ModelCard, read_card, save_tensors

SMALL = "resnest23_small"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("card") / "a.safetensors"
    return json.dumps(save_model(create_model(SMALL, classes=2), path).to_dict())


FORGED: list[tuple[str, Any]] = [
    ("output_stride", 7),
    ("output_stride", True),
    ("spec.layers", [1, 2, 2, -1]),
    ("spec.layers", [10**9, 1, 1, 1]),
    ("spec.layers", "abcd"),
    ("spec.block", "huge"),
    ("spec.cardinality", 0),
    ("spec.sk", 3),
    ("spec.later", 1),
    ("spec", 3),
    ("classes", [1, 2]),
    ("preprocessing", None),
    ("preprocessing.mean", ["a", "b", "c"]),
    ("preprocessing.mean", []),
    ("preprocessing.std", [0, 1, 1]),
    ("preprocessing.size", 0),
    ("preprocessing.crop_ratio", 0),
    ("preprocessing.interpolation", "cubist"),
    ("preprocessing.channel_order", "GBR"),
    ("preprocessing.later", 1),
    ("head_is_new", "no"),
    ("norm", "layer"),
    ("norm", []),
    ("kind", "backbone"),
    ("metrics", {"top1": "good"}),
    ("data", 3),
    ("later", 1),
]


@pytest.mark.parametrize(("field", "value"), FORGED)
def test_a_forged_card_is_refused(card: str, field: str, value: Any) -> None:
    forged = json.loads(card)
    *way, last = field.split(".")
    place = forged
    for name in way:
        place = place[name]
    place[last] = value
    said = {"later": "newer version", "layers": "spec"}
    with pytest.raises(ValueError, match=said.get(last, last)):
        ModelCard.from_dict(forged)


@pytest.mark.parametrize("field", ["kind", "net", "spec", "classes", "preprocessing"])
def test_a_card_that_lacks_something(card: str, field: str) -> None:
    forged = json.loads(card)
    del forged[field]
    with pytest.raises(ValueError, match=f"incomplete: it lacks {field}"):
        ModelCard.from_dict(forged)


def test_a_forged_file_is_refused_in_one_sentence(card: str, tmp_path: Path) -> None:
    state = create_model(SMALL, classes=2).state_dict()
    path = tmp_path / "a.safetensors"
    save_tensors(path, state, {**json.loads(card), "output_stride": 7})
    for read in (load_model, read_card, lambda path: create_model(SMALL, 2, weights=path)):
        with pytest.raises(UserError, match=r"The card of .* has a output_stride of 7"):
            read(path)  # type: ignore[operator]
    spec = {**json.loads(card)["spec"], "attention_reduction": 0}
    save_tensors(path, state, {**json.loads(card), "spec": spec})
    with pytest.raises(UserError, match="can be built as its card says"):
        load_model(path)


def test_a_checkpoint_whose_values_are_no_numbers(card: str, tmp_path: Path) -> None:
    state = create_model(SMALL, classes=2).state_dict()
    state["fc.bias"] = torch.full((2,), float("nan"))
    save_tensors(tmp_path / "a.safetensors", state, json.loads(card))
    with pytest.raises(UserError, match=r"no numbers, in fc\.bias"):
        load_model(tmp_path / "a.safetensors")
