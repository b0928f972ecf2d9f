"""Checkpoints to and from the Hugging Face hub, by huggingface_hub's own means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resnestkit.errors import UserError
from resnestkit.extras import require

if TYPE_CHECKING:
    from resnestkit.models.backbone import Backbone
    from resnestkit.plugins.hub_model import HubModel
    from resnestkit.weights.checkpoint import ModelCard

_SPEAKERS = {"huggingface_hub", "httpx", "httpx2", "requests"}
"""Libraries whose errors tell of a repository or of the network, and not of our mistakes."""


def push_to_hub(
    source: str | Path | HubModel,
    repo_id: str,
    *,
    licence: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    message: str = "Add a checkpoint of resnestkit",
) -> str:
    """Put a classifier into a repository of the hub, which is made if there is none.

    Args:
        source: a checkpoint that `resnestkit train` wrote, or a `HubModel`.
        repo_id: "owner/name".
        licence: of the weights, as the hub writes it; None says nothing about it.
        private: whether a new repository is; None is the owner's default.
        token: of the hub; None is what ``hf auth login`` kept.
        branch: None is the main one.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        UserError: huggingface_hub is not installed, the file is no classifier's checkpoint, or the
            hub refuses.
    """
    require("huggingface_hub", "hub")
    from resnestkit.plugins.hub_model import HubModel  # noqa: PLC0415  (the hub is optional)

    model = source if isinstance(source, HubModel) else HubModel.from_checkpoint(source)
    if licence is not None:
        model = HubModel(model.model, model.card, licence)
    with _explained(f"Pushing to {repo_id}"):
        return model.push_to_hub(
            repo_id,
            private=private,
            token=token,
            branch=branch,
            commit_message=message,
            model_card_kwargs={"repo_id": repo_id},
        )


def from_hub(
    repo_id: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> tuple[Backbone, ModelCard]:
    """The model of a repository in evaluation mode, and its card, as `load_model` gives them.

    Args:
        repo_id: "owner/name", or a folder that ``HubModel.save_pretrained`` wrote.
        revision: a branch, a tag or a commit; None is the newest of the main branch.
        token: of the hub; None is what ``hf auth login`` kept.
        cache_dir: where downloads are kept; None is the hub's own cache.

    Raises:
        UserError: huggingface_hub is not installed, or there is no such model.
    """
    require("huggingface_hub", "hub")
    from resnestkit.plugins.hub_model import HubModel  # noqa: PLC0415  (the hub is optional)

    with _explained(f"Loading {repo_id}"):
        model = HubModel.from_pretrained(
            repo_id, revision=revision, token=token, cache_dir=cache_dir
        )
    return model.model, model.card


def fetch_from_hub(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """A repository's checkpoint as a file, for `Predictor`, `evaluate` and ``weights=``.

    Arguments and errors are those of `from_hub`.
    """
    require("huggingface_hub", "hub")
    from resnestkit.plugins.hub_model import download  # noqa: PLC0415  (the hub is optional)

    with _explained(f"Fetching {repo_id}"):
        return download(repo_id, revision=revision, token=token, cache_dir=cache_dir)


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Say in one sentence what the hub or the network answered."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _SPEAKERS:
            raise
        reason = str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
        raise UserError(f"{doing} failed: {reason.rstrip('.')}.") from error
