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
from resnestkit.explain import explain_image, open_subject
from resnestkit.explain.activation import require_captum
from resnestkit.explain.picture import BlockView
from resnestkit.explain.picture import Effect as FoundEffect
from resnestkit.explain.words import no_attention
from resnestkit.models.backbone import Backbone
from resnestkit.runtime.card import DeployCard
from resnestkit.serve.models import Work
from resnestkit.serve.schemas import BlockSeen, Effect, Explained
from resnestkit.serve.uploads import decoding
from resnestkit.weights.checkpoint import ModelCard

_COLD, _WARM = np.array([40, 20, 90]), np.array([255, 196, 60])
_MOST_OPAQUE = 225


class Explainer:
    """Looks into a classifier that is served.

    Its forward passes run through the served net itself: not while another thread computes.

    Args:
        model: the net.
        card: its checkpoint's.
    """

    def __init__(self, model: Backbone, card: ModelCard | DeployCard) -> None:
        model.preprocessing = card.preprocessing
        self._subject = open_subject(model, card.classes)
        self._net = card.net
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
        found = explain_image(
            self._subject, look, target=work.options.target, activation=not self._lacking
        )
        notes = [self._lacking] if self._lacking else []
        if not found.blocks:
            notes.append(no_attention(self._net))
        return Explained(
            image=work.name,
            label=found.label,
            score=min(1.0, found.score),
            picture=_jpeg(found.picture),
            activation=None if found.activation is None else _heat(found.activation),
            blocks=[_see(view) for view in found.blocks],
            note=" ".join(notes),
        )


def _see(view: BlockView) -> BlockSeen:
    largest = float(view.energy.max()) or 1.0
    grid = view.attention.grid[0]
    return BlockSeen(
        block=view.attention.block,
        kind=view.attention.kind,
        entropy=float(view.attention.entropy),
        weights=[[float(split.mean()) for split in group] for group in grid],
        maps=[[_heat(split / largest) for split in group] for group in view.energy],
        effects=[_tell(effect) for effect in view.effects],
    )


def _tell(effect: FoundEffect) -> Effect:
    return Effect(split=effect.split, value=effect.value, change=effect.change, top=effect.top)


def _heat(values: Float[NDArray[np.floating], "h w"]) -> str:
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
