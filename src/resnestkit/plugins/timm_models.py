"""Every net of the table as a model of timm's registry. Imports timm; see `timm_registry`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.models import (
    DefaultCfg,
    PretrainedCfg,
    generate_default_cfgs,
    is_model,
    load_pretrained,
    register_model,
    resolve_pretrained_cfg,
)

from resnestkit.factory import create_model
from resnestkit.models.backbone import Backbone
from resnestkit.models.zoo import TABLE, Net
from resnestkit.plugins.timm_nets import TimmNet, check_pool, to_classifier, to_features
from resnestkit.plugins.timm_registry import PREFIX
from resnestkit.preprocessing import Preprocessing
from resnestkit.weights.download import fetch
from resnestkit.weights.loading import load_weights
from resnestkit.weights.manifest import IMAGENET, PublishedWeights, find_published, published

__all__ = ["register"]  # timm adds every model that is registered from here

_OPTIONS = {
    "in_chans": "in_channels",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    "drop_block_rate": "drop_block",
    "zero_init_last": "zero_gamma",
}
"""timm's words for `create_model`'s; output_stride and norm are the same."""

_OF_CLASSIFIERS = ("num_classes", "classifier", "global_pool")


def register() -> list[str]:
    """Register what is not registered yet, and name it all."""
    for net in TABLE:
        if not is_model(PREFIX + net.name):
            entry = _entry(net)
            globals()[entry.__name__] = entry  # where pickle and timm look for it
            register_model(entry)
    return [PREFIX + net.name for net in TABLE]


def _entry(net: Net) -> Callable[..., TimmNet]:
    """The function that timm calls to create a net."""

    def create(pretrained: bool = False, **options: Any) -> TimmNet:
        return build(net, pretrained, **options)

    create.__name__ = create.__qualname__ = PREFIX + net.name
    create.__doc__ = f"The {net.name} of resnestkit: {net.params / 1e6:.1f} M parameters."
    return create


def build(
    net: Net,
    pretrained: bool = False,
    *,
    pretrained_cfg: str | dict[str, Any] | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    features_only: bool = False,
    out_indices: int | tuple[int, ...] | None = None,
    num_classes: int | None = None,
    global_pool: str = "avg",
    pretrained_model_args: dict[str, Any] | None = None,  # noqa: ARG001  (timm's bookkeeping)
    **options: Any,
) -> TimmNet:
    """A net with timm's face.

    Args:
        net: which.
        pretrained: load the weights of ``pretrained_cfg``, or the net's best published ones.
        pretrained_cfg: a source of published weights ("authors"), or timm's whole description.
        pretrained_cfg_overlay: what to change in it, such as ``{"file": "mine.pth"}``.
        cache_dir: where downloads are kept, if not in our cache.
        features_only: leave the classifier out, and give maps.
        out_indices: levels whose maps are given; all by default.
        num_classes: number of logits; 0 leaves the classifier out.
        global_pool: "avg", or "" for the last map itself.
        pretrained_model_args: not used.
        **options: as `create_model` takes them, in timm's words or in ours.

    Raises:
        UserError: there are no such weights, levels or pooling.
    """
    cfg: Any = resolve_pretrained_cfg(PREFIX + net.name, pretrained_cfg, pretrained_cfg_overlay)
    described: dict[str, Any] = cfg.to_dict()
    classes = described["num_classes"] if num_classes is None else num_classes
    classes = 0 if features_only else classes
    check_pool(global_pool, classes)
    words = {_OPTIONS.get(name, name): value for name, value in options.items()}
    words.setdefault("in_channels", described["input_size"][0])
    model = create_model(net.name, classes=classes, **words)
    described["first_conv"] = model.first_weight.removesuffix(".weight")
    described["classifier"] = model.head
    if pretrained:
        _load(model, net, described, cache_dir)
    faced: TimmNet
    if features_only:
        faced = to_features(model, out_indices)
        described = {name: described[name] for name in described if name not in _OF_CLASSIFIERS}
    else:
        faced = to_classifier(model, words.get("dropout", model.spec.dropout), global_pool)
    faced.pretrained_cfg = faced.default_cfg = described
    return faced


def _load(
    model: Backbone, net: Net, described: dict[str, Any], cache_dir: str | Path | None
) -> None:
    """Our published weights by our downloader, which checks them; others as timm finds them."""
    source = described.get("tag") or IMAGENET
    theirs = any(described.get(key) for key in ("file", "state_dict", "hf_hub_id"))
    if not theirs and described.get("url") == _default_url(net, described.get("tag")):
        folder = Path(cache_dir) if cache_dir else None
        load_weights(model, fetch(find_published(net.name, source), folder=folder), net.name)
        return
    load_pretrained(
        model, described, model.classes, model.in_channels, strict=True, cache_dir=cache_dir
    )


def _default_url(net: Net, tag: str | None) -> str | None:
    """The address that the registry gives for a source of weights; None if there is none."""
    cfg = default_cfgs[PREFIX + net.name].cfgs.get(tag or "")
    return str(cfg.url) if cfg and cfg.url else None


def _describe(net: Net, weights: PublishedWeights | None) -> PretrainedCfg:
    """A net's weights and their preprocessing in timm's words."""
    images = weights.preprocessing if weights else Preprocessing(size=net.size)
    return PretrainedCfg(
        url=weights.copies[0].address if weights else None,
        num_classes=net.classes,
        input_size=(images.channels, images.size, images.size),
        interpolation=images.interpolation,
        crop_pct=images.crop_ratio,
        mean=images.mean,
        std=images.std,
        license=weights.licence.lower() if weights else None,
    )


def _describe_all() -> dict[str, DefaultCfg]:
    """By model: what each source of its weights published, the first by default."""
    described: dict[str, PretrainedCfg | dict[str, Any]] = {}
    for net in TABLE:
        for weights in published(net.name):
            described[f"{PREFIX}{net.name}.{weights.source}"] = _describe(net, weights)
        if not published(net.name):
            described[PREFIX + net.name] = _describe(net, None)
    return dict(generate_default_cfgs(described))


default_cfgs = _describe_all()
"""Where timm looks for it when a model of this file is registered."""
