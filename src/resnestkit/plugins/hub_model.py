"""A model on the Hugging Face hub. Imports huggingface_hub; see `hub`.

A repository holds the checkpoint as it is (`model.safetensors`, which `resnestkit predict` takes),
its card as `config.json` for people and for the hub's counters, and a README.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard as Readme
from huggingface_hub import ModelCardData, ModelHubMixin, hf_hub_download
from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.factory import load_model
from resnestkit.models.backbone import Backbone
from resnestkit.weights.checkpoint import ModelCard, save_tensors, write_whole

CHECKPOINT = "model.safetensors"
CONFIG = "config.json"
_CLASSES_NAMED = 50


class HubModel(nn.Module, ModelHubMixin):
    """A classifier with its card, which the hub's own methods save, push and load.

    ``save_pretrained(folder)``, ``push_to_hub(repo_id)`` and ``HubModel.from_pretrained(repo_id)``
    are huggingface_hub's. What is loaded is in evaluation mode.

    Args:
        model: the net.
        card: its classes, its preprocessing, and what it is.
        licence: of the weights, as the hub writes it; None says nothing about it.
    """

    def __init__(self, model: Backbone, card: ModelCard, licence: str | None = None) -> None:
        super().__init__()
        self.model, self.card, self.licence = model, card, licence

    @classmethod
    def from_checkpoint(cls, path: str | Path, licence: str | None = None) -> Self:
        """The model of a file that `resnestkit train` wrote, in evaluation mode.

        Raises UserError if it is no classifier's checkpoint.
        """
        return cls(*load_model(path), licence).eval()

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b classes"]:
        """Logits of images that were normalised as the card says."""
        logits: Tensor = self.model(x)
        return logits

    def generate_model_card(self, *_args: Any, **words: Any) -> Readme:
        """The README: licence, library, tags, what the model is, and how to load it.

        ``repo_id`` in ``words`` is the repository that it will tell people to load.
        """
        data = ModelCardData(
            license=self.licence,
            library_name="resnestkit",
            pipeline_tag="image-classification",
            tags=["resnestkit", "image-classification", "model_hub_mixin", self.card.net],
        )
        text = describe(_without_folders(self.card), words.get("repo_id", "owner/name"))
        return Readme(f"---\n{data.to_yaml()}\n---\n\n{text}")

    def _save_pretrained(self, save_directory: Path) -> None:
        card = _without_folders(self.card).to_dict()
        save_tensors(save_directory / CHECKPOINT, self.model.state_dict(), card)
        config = json.dumps({"licence": self.licence, **card}, indent=2)
        write_whole(save_directory / CONFIG, config.encode())

    @classmethod
    def _from_pretrained(cls, *, model_id: str, licence: str | None = None, **how: Any) -> Self:
        if Path(model_id).is_dir():
            return cls.from_checkpoint(Path(model_id) / CHECKPOINT, licence)
        return cls.from_checkpoint(download(model_id, **how), licence)


def download(repo_id: str, **how: Any) -> Path:
    """A repository's checkpoint, by the hub's client and its words."""
    return Path(hf_hub_download(repo_id, CHECKPOINT, **how))


def describe(card: ModelCard, repo_id: str) -> str:
    """The README's text, in Markdown."""
    images = card.preprocessing
    colours = images.channel_order if images.channels == 3 else f"{images.channels} channels"
    rows = [
        ("net", card.net),
        ("classes", _name_some(card.classes)),
        ("trained on", card.data.get("origin") or "not said"),
        ("image", f"{images.size}x{images.size}, {colours}"),
        ("short side", f"{images.short_side} pixels, {images.interpolation}, then centre crop"),
        ("mean, std (of 0 to 1)", f"{images.mean}, {images.std}"),
        *((name, f"{value:.4g}") for name, value in card.metrics.items()),
    ]
    table = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows)
    return f"""# {_cell(repo_id)}

A {card.net} that classifies images, saved with `resnestkit`.

| | |
|---|---|
{table}

```python
import resnestkit

model, card = resnestkit.from_hub("{repo_id}")  # a torch module; its classes and preprocessing

checkpoint = resnestkit.fetch_from_hub("{repo_id}")
resnestkit.Predictor(checkpoint).predict(["image.jpg"])[0].label
```

It needs `pip install 'resnestkit[hub]'`. `model.safetensors` is a checkpoint as `resnestkit train`
writes it: `resnestkit predict model.safetensors image.jpg` takes it as well.
"""


def _without_folders(card: ModelCard) -> ModelCard:
    """The card with the data's name alone: others need not know where it lay."""
    origin = Path(str(card.data.get("origin", ""))).name
    return replace(card, data={**card.data, "origin": origin})


def _name_some(classes: tuple[str, ...]) -> str:
    more = len(classes) - _CLASSES_NAMED
    named = ", ".join(classes[:_CLASSES_NAMED])
    return f"{len(classes)}: {named}" + (f" and {more} more" if more > 0 else "")


def _cell(value: object) -> str:
    """Text that stays in its cell: names of classes are names of folders, which hold anything."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(str(value).split()))
