"""The door to timm: cheap to import, and nothing happens until it is opened."""

from __future__ import annotations

from resnestkit.extras import require

PREFIX = "resnestkit_"
"""timm has nets of its own under our names."""


def register_with_timm() -> list[str]:
    """Make every net of the table known to timm, and so to what is built on timm.

    ``timm.create_model("resnestkit_resnest50", pretrained=True, features_only=True)`` works then,
    and so does segmentation-models-pytorch's ``Unet("tu-resnestkit_resnest50")``. Calling it again
    changes nothing.

    Returns:
        The names under which timm knows them.

    Raises:
        UserError: timm is not installed.
    """
    require("timm", "timm")
    from resnestkit.plugins.timm_models import register  # noqa: PLC0415  (timm is optional)

    return register()
