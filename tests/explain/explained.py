"""Nets alive in every norm, and pictures, for the tests of explanations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from resnestkit import create_detector, create_model, create_segmenter, save_model
from resnestkit.detection.detector import Detector
from resnestkit.detection.spec import Kind as DetectorKind
from resnestkit.detection.spec import light_settings as light_detector
from resnestkit.explain import find_sites, watch
from resnestkit.explain.page import Part
from resnestkit.explain.sites import Attention
from resnestkit.models.backbone import Backbone
from resnestkit.models.layers import is_norm
from resnestkit.models.resnet import ResNet
from resnestkit.models.spec import NetSpec
from resnestkit.preprocessing import Preprocessing
from resnestkit.report.page import Figure, Table, Text
from resnestkit.segmentation.segmenter import Segmenter
from resnestkit.segmentation.spec import light_settings as light_segmenter

NETS = ("resnest23_small", "seresnet23_small", "sknet23_small")
CLASSES = ("cat", "dog", "fish")
IMAGES = Preprocessing(size=32, crop_ratio=1.0)


@torch.no_grad()
def make_net(name: str = "resnest23_small", **options: object) -> Backbone:
    """A net whose attention chooses: gates that draw large logits, and no silent branch."""
    torch.manual_seed(3)
    net = create_model(name, classes=len(CLASSES), zero_gamma=False, **options)
    for part, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and part.rpartition(".")[2] in {"fc2", "fc_select"}:
            module.weight.normal_(0.0, 1.0)
    net.head_is_new, net.preprocessing = False, IMAGES
    return net.eval()


def make_heads(radix: int, cardinality: int = 2) -> ResNet:
    """A net of several heads."""
    torch.manual_seed(1)
    spec = NetSpec((1, 1), widths=(24, 48), stem_width=16, radix=radix, cardinality=cardinality)
    net = ResNet(spec, classes=len(CLASSES), zero_gamma=False)
    net.head_is_new, net.preprocessing = False, IMAGES
    return net.eval()


def see(net: Backbone, images: Tensor) -> dict[str, Attention]:
    """The attention of every block on a batch."""
    sites = find_sites(net)
    with torch.no_grad(), watch(sites) as seen:
        net(images)
    return {site.block: seen.attention(site.block) for site in sites}


@torch.no_grad()
def _liven(model: nn.Module) -> None:
    """Weights in every norm: under zero-gamma no branch, and so no attention, would matter."""
    for part in model.modules():
        if is_norm(part):
            part.weight.uniform_(0.5, 1.0)


def make_detector(kind: DetectorKind = "faster_rcnn", **options: Any) -> Detector:
    """A small detector that says it was trained."""
    torch.manual_seed(2)
    defaults = {"min_size": 64, "max_size": 96, "settings": light_detector(kind)}
    model = create_detector(
        kind, "resnest14", classes=3, norm="group", fpn_channels=16, **{**defaults, **options}
    )
    _liven(model)
    model.head_is_new = False
    return model


def make_segmenter() -> Segmenter:
    """A small segmenter that says it was trained."""
    torch.manual_seed(2)
    model = create_segmenter(
        "fcn", "resnest14", classes=3, norm="group", settings=light_segmenter()
    )
    _liven(model)
    model.head_is_new = False
    return model


def make_pixels(height: int = 40, width: int = 50) -> Tensor:
    """A decoded picture."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def save_net(path: Path, name: str = "resnest23_small") -> Path:
    """A checkpoint of such a net."""
    save_model(make_net(name), path, CLASSES, IMAGES)
    return path


def draw_pictures(folder: Path, count: int) -> Path:
    """Noisy pictures in folders of two of the classes."""
    random = np.random.default_rng(0)
    for name in CLASSES[:2]:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def read_words(part: Part) -> str:
    """All that a part says, beside its pictures."""
    words: list[str] = []
    for one in part.sections:
        words.append(one.title)
        words += [one.caption] if isinstance(one, Figure) else []
        words += [one.body] if isinstance(one, Text) else []
        if isinstance(one, Table):
            words += [str(cell) for row in (one.header, *one.rows) for cell in row]
    return " ".join(words)
