"""Weights into a net: found, read, fitted, and noted on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone
from resnestkit.models.zoo import find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.adapt import adapt
from resnestkit.weights.checkpoint import ModelCard, read_card
from resnestkit.weights.download import Advance, fetch
from resnestkit.weights.foreign import read_weights
from resnestkit.weights.identify import Coverage, compare
from resnestkit.weights.manifest import find_published, recognise
from resnestkit.weights.names import to_ours
from resnestkit.weights.tensors import COUNTER, check_types, is_file


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file of weights: its tensors under our names, and its card if it is a checkpoint."""

    path: Path
    tensors: dict[str, Tensor]
    card: ModelCard | None


def open_weights(path: Path) -> WeightFile:
    """Read a file of weights.

    Raises UserError if it is missing, damaged, dangerous, a training state, or not of numbers.
    """
    card = read_card(path)
    tensors, _ = to_ours(read_weights(path))
    check_types(path, tensors)
    return WeightFile(path, tensors, card)


def names_file(weights: str | Path) -> bool:
    """Whether a user means a file: it has an ending, or it is there. Sources have no ending."""
    return bool(Path(weights).suffix) or is_file(Path(weights))


def find_weights(weights: str | Path, net: str, advance: Advance | None = None) -> Path:
    """The file that a user names: a path, or published weights, which are downloaded once.

    ``advance`` is told the bytes that there are and that there will be; without it a bar shows.
    Raises UserError if it is neither, or no address gives the file.
    """
    if not str(weights):
        raise UserError("The name of the weights is empty; give a file, or None for random ones.")
    if names_file(weights):
        return Path(weights)
    return fetch(find_published(net, str(weights)), advance=advance)


def load_weights(
    model: Backbone, path: Path, net: str = "net", *, partial: bool = False
) -> Coverage:
    """Load a file of weights into a model; only classes and input channels may differ.

    With ``partial``, take what fits and leave the rest. Returns how the file fits.
    Raises UserError, with what is missing and what is left over, if anything else differs, or
    (with ``partial``) if nothing fits.
    """
    return load_file(model, open_weights(path), net, partial=partial)


def load_file(model: Backbone, file: WeightFile, net: str, *, partial: bool) -> Coverage:
    """As `load_weights`, of a file that was read."""
    fitted, head_is_new = adapt(model, file.tensors)
    coverage = compare(model.state_dict(), fitted)
    found = [n for n in coverage.loaded if n in file.tensors and not n.endswith(COUNTER)]
    if not coverage.is_complete and not (partial and found):
        raise UserError(_explain_misfit(model, file.path, net, coverage, partial=partial))
    model.load_state_dict({name: fitted[name] for name in coverage.loaded}, strict=False)
    describe(model, file, head_is_new=head_is_new)
    return coverage


def describe(model: Backbone, file: WeightFile, *, head_is_new: bool) -> None:
    """Note on the model what is known of its weights: a head that was new in the file still is."""
    was_new = file.card is not None and file.card.head_is_new
    model.head_is_new = model.classes > 0 and (head_is_new or was_new)
    model.preprocessing = _find_preprocessing(model, file)


def freeze_loaded(model: Backbone, stages: int, coverage: Coverage, path: Path) -> None:
    """Freeze as `Backbone.freeze`. Raises UserError if a part of it was not loaded from the file.

    Raises ValueError if there are not so many stages.
    """
    parts = tuple(f"{part}." for level in model.levels[: stages + 1] for part in level.parts)
    drawn = [n for n in (*coverage.missing, *coverage.reshaped) if n.startswith(parts)]
    if drawn:
        raise UserError(
            f"{path} has no {drawn[0]} that fits, which would be frozen as it was drawn; freeze "
            "fewer stages, or none."
        )
    model.freeze(stages)


def _explain_misfit(
    model: Backbone, path: Path, net: str, coverage: Coverage, *, partial: bool
) -> str:
    if model.norm_policy == "group" and not (coverage.missing or coverage.reshaped):
        return (
            f"{path} holds batch statistics, for which norm 'group' has no use: it would compute "
            "something else. Say partial to start from the other weights all the same, or take "
            "norm 'batch', 'sync' or 'frozen'."
        )
    hint = "" if partial else " Say partial to take what fits."
    return f"{path} does not hold the weights of a {net}: {coverage}.{hint}"


def _find_preprocessing(model: Backbone, file: WeightFile) -> Preprocessing | None:
    """How a file's weights want their images: by its card, or by its published name."""
    known = recognise(file.path.name)
    if file.card:
        found = file.card.preprocessing
    elif known and find_net(known.net).spec == model.spec:
        found = known.preprocessing
    else:
        return None
    return found if found.channels == model.in_channels else None
