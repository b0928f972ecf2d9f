"""What `resnestkit.explain` finds on an image, as the page shows it: small maps and numbers."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image

from resnestkit.data.images import decode_image
from resnestkit.errors import UserError
from resnestkit.explain import Subject, explain_image
from resnestkit.explain.activation import require_captum
from resnestkit.explain.picture import BlockView, ImageExplanation
from resnestkit.explain.picture import Effect as FoundEffect
from resnestkit.explain.subject import spread
from resnestkit.explain.words import no_activation, no_attention
from resnestkit.serve.models import Options, Work
from resnestkit.serve.schemas import BlockSeen, Effect, Explained
from resnestkit.serve.uploads import decoding

_COLD, _WARM = np.array([40, 20, 90]), np.array([255, 196, 60])
_MOST_OPAQUE = 225
_MAP_SIDE = 128
"""Pixels of the longer side of a map: the browser lays it over the picture."""

Values = Float[NDArray[np.floating], "h w"]


class Explainer:
    """Looks into a model that is served.

    Its forward passes run through the served net itself: not while another thread computes.

    Args:
        subject: the model.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._lacking = ""
        try:
            require_captum()
        except UserError as error:
            self._lacking = f"There is no activation map: {error}"

    def explain(self, work: Work) -> Explained:
        """Raises UserError for an unreadable image or an unknown class."""
        channels = self._subject.preprocessing.channels
        with decoding(work.image):
            pixels = decode_image(work.image.content, work.name, channels)
        look = self._subject.look(pixels, work.name)
        del pixels
        options = work.options
        found = explain_image(
            self._subject,
            look,
            target=options.target,
            activation=not self._lacking,
            seconds=options.seconds,
        )
        notes = [self._lacking or no_activation(found), _say_left(found, options)]
        if not found.blocks:
            notes.append(no_attention(found.net))
        mapped = found.activation
        return Explained(
            image=work.name,
            label=found.label,
            score=min(1.0, found.score),
            picture=_jpeg(found.picture),
            activation=None if mapped is None else _heat(_lay(mapped, found)),
            blocks=[_see(view, found) for view in found.blocks],
            everywhere=[_tell(effect) for effect in found.everywhere],
            note=" ".join(filter(None, notes)),
        )


def _say_left(found: ImageExplanation, options: Options) -> str:
    """Whether the time was too short to force everything."""
    if not found.blocks or found.everywhere or options.seconds is None:
        return ""
    left = len(found.blocks) - len(found.forced)
    blocks = f"{left} of {len(found.blocks)} blocks, and all at once" if left else "all at once"
    return (
        f"What forcing does was left out for {blocks}, as {options.seconds:g} seconds were over; "
        "`resnestkit explain` takes its time."
    )


def _see(view: BlockView, found: ImageExplanation) -> BlockSeen:
    maps = _lay(view.energy / (float(view.energy.max()) or 1.0), found)
    return BlockSeen(
        block=view.attention.block,
        kind=view.attention.kind,
        branch=view.attention.branch,
        entropy=float(view.attention.entropy),
        weights=[[float(split.mean()) for split in group] for group in view.attention.grid[0]],
        maps=[[_heat(split) for split in group] for group in maps],
        effects=[_tell(effect) for effect in view.effects],
    )


def _lay(
    values: Float[NDArray[np.float32], "*n h w"], found: ImageExplanation
) -> Float[NDArray[np.float32], "*n h2 w2"]:
    """Maps as they lie over the picture, without what was padded beside it."""
    height, width = found.picture.shape[:2]
    share = min(1.0, _MAP_SIDE / max(height, width))
    size = max(1, round(share * height)), max(1, round(share * width))
    return spread(values, size, found.seen)


def _tell(effect: FoundEffect) -> Effect:
    return Effect(split=effect.split, value=effect.value, change=effect.change, top=effect.top)


def _heat(values: Values) -> str:
    """A map of values from 0 to 1 as a PNG that lies over the picture: the warmer, the more."""
    shares = np.clip(values, 0, 1)[..., None]
    colour = _COLD + shares * (_WARM - _COLD)
    opacity = _MOST_OPAQUE * np.sqrt(shares)
    return _encode(np.concatenate([colour, opacity], 2).astype(np.uint8), "PNG")


def _jpeg(pixels: UInt8[NDArray[np.uint8], "h w 3"]) -> str:
    return _encode(pixels, "JPEG")


def _encode(pixels: UInt8[NDArray[np.uint8], "h w c"], form: str) -> str:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, form, **({"quality": 90} if form == "JPEG" else {}))
    return base64.b64encode(written.getvalue()).decode()
