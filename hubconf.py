"""Nets for ``torch.hub.load``: one entry for every net of the table, and for its other names.

>>> torch.hub.load("<this folder>", "resnest50", source="local", weights=None, classes=10)
"""

import sys as _sys
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

# torch.hub gives the repository as files: the package need not be installed. The table imports
# nothing else, so that torch.hub can say which dependencies are missing.
_SOURCE = str(_Path(__file__).parent / "src")
_sys.path.insert(0, _SOURCE)
try:
    from resnestkit.models.zoo import TABLE as _TABLE
    from resnestkit.models.zoo import Net as _Net
finally:
    _sys.path.remove(_SOURCE)

dependencies = ["torch", "torchvision", "jaxtyping", "numpy", "rich", "safetensors"]

_DOC = """{name}{same}: {params:.1f} M parameters, {gmacs:.3g} G multiply-adds at {size}x{size}.

Args:
    weights: "imagenet1k" for published weights, a file, or None for random ones.
    pretrained: True is the same as weights="imagenet1k".
    classes: number of logits; 0 leaves the classifier out.
    in_channels: channels of the image.
    output_stride: 8, 16 or 32.
    **options: norm, drop_path, drop_block, dropout and zero_gamma.

Returns:
    A module that turns images (b, in_channels, h, w) into logits (b, classes).
"""


def _entry(net: _Net, name: str) -> _Callable[..., _Any]:
    def create(weights: str | None = None, pretrained: bool = False, **options: _Any) -> _Any:
        from resnestkit.factory import create_model  # noqa: PLC0415  (needs the dependencies)

        wanted = weights or ("imagenet1k" if pretrained else None)
        return create_model(net.name, weights=wanted, **options)

    same = "" if name == net.name else f" ({net.name})"
    create.__name__ = create.__qualname__ = name
    create.__doc__ = _DOC.format(
        name=name, same=same, params=net.params / 1e6, gmacs=net.gmacs, size=net.size
    )
    return create


for _net in _TABLE:
    for _name in (_net.name, *_net.aliases):
        globals()[_name] = _entry(_net, _name)
