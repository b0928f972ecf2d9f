"""Published weights as data: where they lie, how they were evaluated, what they reached.

A file is known by the first eight digits of its SHA-256, which its authors put in its name. Where
several addresses hold the same file they are tried in turn. Accuracies are those that the source
states for its own evaluation, which is what `preprocessing` says.
"""

from __future__ import annotations

from dataclasses import dataclass

from resnestkit.errors import UserError
from resnestkit.preprocessing import Interpolation, Preprocessing

IMAGENET = "imagenet1k"
"""The word for a net's first entry below, whatever its source."""

_AUTHORS = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1"
_TIMM_COPIES = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-resnest"
_TIMM_PORTS = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights"
_TORCHVISION = "https://download.pytorch.org/models"


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """One published file."""

    net: str
    """Name in the table of nets."""
    source: str
    """Who published it; with the net's name this is unique."""
    file: str
    """Its name, which ends in -<first eight digits of the SHA-256>.pth."""
    addresses: tuple[str, ...]
    licence: str
    preprocessing: Preprocessing
    top1: float
    """Percent on ImageNet-1k's validation set, as the source states it."""
    top5: float
    """Percent."""
    stated_by: str
    """Where the accuracies are stated."""

    @property
    def hash_prefix(self) -> str:
        """First eight digits of the file's SHA-256."""
        return self.file.rsplit("-", 1)[1].split(".")[0]


def _resnest(
    name: str, digits: str, top1: float, top5: float, size: int = 224, ratio: float = 0.875,
    interpolation: Interpolation = "bilinear", *, copied: bool = True,
) -> PublishedWeights:  # fmt: skip
    """A file of the authors, of which timm keeps copies of some."""
    file = f"{name}-{digits}.pth"
    hosts = (_AUTHORS, _TIMM_COPIES) if copied else (_AUTHORS,)
    return PublishedWeights(
        name,
        "authors",
        file,
        tuple(f"{host}/{file}" for host in hosts),
        "Apache-2.0",
        Preprocessing(size, ratio, interpolation),
        top1,
        top5,
        "timm results-imagenet.csv" if top5 else "ResNeSt ablation.md",
    )


def _gluon(name: str, digits: str, top1: float, top5: float) -> PublishedWeights:
    """GluonCV's weights, as timm ported them."""
    file = f"gluon_{name}-{digits}.pth"
    addresses = (f"{_TIMM_PORTS}/{file}",)
    source = "timm results-imagenet.csv"
    return PublishedWeights(
        name, "gluon", file, addresses, "Apache-2.0", Preprocessing(), top1, top5, source
    )


def _torchvision(
    name: str, version: int, digits: str, top1: float, top5: float
) -> PublishedWeights:
    """Torchvision's weights; the second versions resize to 232 before the crop of 224."""
    file = f"{name}-{digits}.pth"
    ratio = 224 / 232 if version == 2 else 0.875
    return PublishedWeights(
        name,
        f"torchvision_v{version}",
        file,
        (f"{_TORCHVISION}/{file}",),
        "BSD-3-Clause",
        Preprocessing(crop_ratio=ratio),
        top1,
        top5,
        "torchvision.models",
    )


MANIFEST: tuple[PublishedWeights, ...] = (
    _resnest("resnest50", "528c19ca", 80.958, 95.372),
    _resnest("resnest101", "22405ba7", 82.916, 96.310, 256),
    _resnest("resnest200", "75117900", 83.880, 96.880, 320, 0.909, "bicubic"),
    _resnest("resnest269", "0cc87c48", 84.542, 96.988, 416, 0.928, "bicubic"),
    _resnest("resnest50_fast_4s2x40d", "41d14ed0", 81.146, 95.566, 224, 0.875, "bicubic"),
    _resnest("resnest50_fast_1s4x24d", "d4a4f76f", 81.024, 95.338, 224, 0.875, "bicubic"),
    _resnest("resnest50_fast_1s1x64d", "d8fbf808", 80.33, 0, copied=False),
    _resnest("resnest50_fast_2s1x64d", "44938639", 80.53, 0, copied=False),
    _resnest("resnest50_fast_4s1x64d", "f74f3fc3", 80.76, 0, copied=False),
    _resnest("resnest50_fast_1s2x40d", "32830b84", 80.59, 0, copied=False),
    _resnest("resnest50_fast_2s2x40d", "9d126481", 80.61, 0, copied=False),
    _gluon("resnest14", "9c8fe254", 75.516, 92.512),
    _gluon("resnest26", "50eb607c", 78.476, 94.300),
    _torchvision("resnet18", 1, "f37072fd", 69.758, 89.078),
    _torchvision("resnet34", 1, "b627a593", 73.314, 91.420),
    _torchvision("resnet50", 2, "11ad3fa6", 80.858, 95.434),
    _torchvision("resnet50", 1, "0676ba61", 76.130, 92.862),
    _torchvision("resnet101", 2, "cd907fc2", 81.886, 95.780),
    _torchvision("resnet101", 1, "63fe2227", 77.374, 93.546),
    _torchvision("resnet152", 2, "f82ba261", 82.284, 96.002),
    _torchvision("resnet152", 1, "394f9c45", 78.312, 94.046),
    _torchvision("resnext50_32x4d", 2, "1a0047aa", 81.198, 95.340),
    _torchvision("resnext50_32x4d", 1, "7cdf4587", 77.618, 93.698),
    _torchvision("wide_resnet50_2", 2, "9ba9bcbe", 81.602, 95.758),
    _torchvision("wide_resnet50_2", 1, "95faca4d", 78.468, 94.086),
    _torchvision("wide_resnet101_2", 2, "d733dc28", 82.510, 96.020),
    _torchvision("wide_resnet101_2", 1, "32ee1156", 78.848, 94.284),
)


def published(net: str) -> list[PublishedWeights]:
    """The published files of a net, the best first."""
    return [weights for weights in MANIFEST if weights.net == net]


def find_published(net: str, source: str = IMAGENET) -> PublishedWeights:
    """A net's published weights by source, or its first by "imagenet1k".

    Raises UserError, with the sources that there are, if there is none.
    """
    known = published(net)
    for weights in known:
        if source in {IMAGENET, weights.source}:
            return weights
    named = f"Known: {', '.join([IMAGENET, *(w.source for w in known)])}." if known else ""
    raise UserError(
        f"There is no file {source}, and no weights of that name are published for {net}. {named}"
        " Give a file of weights, or None for random ones.".replace("  ", " ")
    )
