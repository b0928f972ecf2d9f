"""Published weights as data: where they lie, how they were evaluated, what they reached.

A file on a release page is known by the first eight digits of its SHA-256, which its publishers put
in its name. The same tensors often lie on the hub too, in another file: its SHA-256 is what the hub
states when it serves it. Either way the whole SHA-256 is noted when a file first arrives, and from
then on it must stay the same (`resnestkit.weights.download`). Accuracies are those that the source
states for its own evaluation, which is what `preprocessing` says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from resnestkit.errors import UserError
from resnestkit.preprocessing import INCEPTION_MEAN, INCEPTION_STD, Interpolation, Preprocessing

IMAGENET = "imagenet1k"
"""The word for a net's first entry below, whatever its source."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One address, and what to expect there."""

    address: str
    file: str
    """Name of the file in the cache."""
    digits: str
    """First digits of its SHA-256; none where the address itself must state the whole."""


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """One set of published weights."""

    net: str
    """Name in the table of nets."""
    source: str
    """Who published it; with the net's name this is unique."""
    file: str
    """Its name on the release pages, which ends in -<first digits of the SHA-256>.pth, or ""."""
    pages: tuple[str, ...]
    """Release pages that hold the file, the publisher's first."""
    hub: str
    """Repository on the Hugging Face hub that holds the tensors as model.safetensors, or ""."""
    licence: str
    preprocessing: Preprocessing
    top1: float
    """Percent on ImageNet-1k's validation set, one centre crop, as the source states it."""
    top5: float | None
    """Percent; None where the source does not state it."""
    stated_by: str
    """Where the accuracies are stated."""

    @property
    def copies(self) -> tuple[Copy, ...]:
        """Every address in the order in which to try them. $HF_ENDPOINT moves the hub."""
        digits = self.file.rsplit("-", 1)[-1].split(".")[0]
        found = [Copy(f"{page}/{self.file}", self.file, digits) for page in self.pages]
        if self.hub:
            host = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
            address = f"{host}/{self.hub}/resolve/main/model.safetensors"
            found.append(Copy(address, f"{self.hub.replace('/', '-')}.safetensors", ""))
        return tuple(found)


_AUTHORS = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1"
_TORCHVISION = "https://download.pytorch.org/models"
_GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download"
_RESNEST_COPIES = f"{_TIMM}/v0.1-resnest"
_TIMM_PORTS = f"{_TIMM}/v0.1-weights"
_CADENE = f"{_TIMM}/v0.1-cadene"
_STRIKES_BACK = f"{_TIMM}/v0.1-rsb-weights"
_TPU = f"{_TIMM}/v0.1-tpu-weights"

_TIMM_RESULTS = "timm results-imagenet.csv"


def _resnest(
    net: str, digits: str, top1: float, top5: float | None, size: int = 224, ratio: float = 0.875,
    interpolation: Interpolation = "bilinear", hub: str = "",
) -> PublishedWeights:  # fmt: skip
    """A file of the authors; timm keeps copies of those that it has on the hub."""
    pages = (_AUTHORS, _RESNEST_COPIES) if hub else (_AUTHORS,)
    stated_by = "ResNeSt ablation.md" if top5 is None else _TIMM_RESULTS
    return PublishedWeights(
        net, "authors", f"{net}-{digits}.pth", pages, hub and f"timm/{hub}", "Apache-2.0",
        Preprocessing(size, ratio, interpolation), top1, top5, stated_by,
    )  # fmt: skip


def _timm(
    net: str, source: str, page: str, name: str, top1: float, top5: float, *, size: int = 224,
    ratio: float = 0.875, interpolation: Interpolation = "bicubic", hub: str = "",
) -> PublishedWeights:  # fmt: skip
    """A file that timm trained or ported."""
    return PublishedWeights(
        net, source, f"{name}.pth", (page,), hub and f"timm/{hub}", "Apache-2.0",
        Preprocessing(size, ratio, interpolation), top1, top5, _TIMM_RESULTS,
    )  # fmt: skip


def _torchvision(
    net: str, version: int, digits: str, top1: float, top5: float, short_side: int = 0
) -> PublishedWeights:
    """Torchvision's weights; the newer ones resize to 232 before the crop of 224."""
    resized = short_side or (232 if version == 2 else 256)
    hub = f"timm/{net}.tv{2 if version == 2 else ''}_in1k"
    return PublishedWeights(
        net, f"torchvision_v{version}", f"{net}-{digits}.pth", (_TORCHVISION,), hub,
        "BSD-3-Clause", Preprocessing(crop_ratio=224 / resized), top1, top5, "torchvision.models",
    )  # fmt: skip


def _inception(source: str, top1: float, top5: float) -> PublishedWeights:
    """Inception-ResNet-v2 as TensorFlow trained it, ported by timm; on the hub alone."""
    preprocessing = Preprocessing(299, 0.8975, "bicubic", INCEPTION_MEAN, INCEPTION_STD)
    return PublishedWeights(
        "inception_resnet_v2", source, "", (), f"timm/inception_resnet_v2.{source}_in1k",
        "Apache-2.0", preprocessing, top1, top5, _TIMM_RESULTS,
    )  # fmt: skip


# The first of a net is its "imagenet1k": the authors' own, or else the most accurate.
MANIFEST: tuple[PublishedWeights, ...] = (
    _resnest("resnest50", "528c19ca", 80.958, 95.372, hub="resnest50d.in1k"),
    _resnest("resnest101", "22405ba7", 82.916, 96.310, 256, hub="resnest101e.in1k"),
    _resnest("resnest200", "75117900", 83.880, 96.880, 320, 0.909, "bicubic", hub="resnest200e.in1k"),
    _resnest("resnest269", "0cc87c48", 84.542, 96.988, 416, 0.928, "bicubic", hub="resnest269e.in1k"),
    _resnest("resnest50_fast_4s2x40d", "41d14ed0", 81.146, 95.566, 224, 0.875, "bicubic", hub="resnest50d_4s2x40d.in1k"),
    _resnest("resnest50_fast_1s4x24d", "d4a4f76f", 81.024, 95.338, 224, 0.875, "bicubic", hub="resnest50d_1s4x24d.in1k"),
    _resnest("resnest50_fast_1s1x64d", "d8fbf808", 80.33, None, interpolation="bicubic"),
    _resnest("resnest50_fast_2s1x64d", "44938639", 80.53, None, interpolation="bicubic"),
    _resnest("resnest50_fast_4s1x64d", "f74f3fc3", 80.76, None, interpolation="bicubic"),
    _resnest("resnest50_fast_1s2x40d", "32830b84", 80.59, None, interpolation="bicubic"),
    _resnest("resnest50_fast_2s2x40d", "9d126481", 80.61, None, interpolation="bicubic"),
    _timm("resnest14", "gluon", _TIMM_PORTS, "gluon_resnest14-9c8fe254", 75.516, 92.512, interpolation="bilinear", hub="resnest14d.gluon_in1k"),
    _timm("resnest26", "gluon", _TIMM_PORTS, "gluon_resnest26-50eb607c", 78.476, 94.300, interpolation="bilinear", hub="resnest26d.gluon_in1k"),
    _timm("resnet18", "a1", _STRIKES_BACK, "resnet18_a1_0-d63eafa0", 71.504, 90.086, ratio=0.95, hub="resnet18.a1_in1k"),
    _timm("resnet18", "gluon", _GLUON, "gluon_resnet18_v1b-0757602b", 70.844, 89.75, hub="resnet18.gluon_in1k"),
    _torchvision("resnet18", 1, "f37072fd", 69.758, 89.078),
    _timm("resnet34", "a1", _STRIKES_BACK, "resnet34_a1_0-46f8f793", 76.42, 92.896, ratio=0.95, hub="resnet34.a1_in1k"),
    _timm("resnet34", "gluon", _GLUON, "gluon_resnet34_v1b-c6d82d59", 74.574, 91.988, hub="resnet34.gluon_in1k"),
    _torchvision("resnet34", 1, "b627a593", 73.314, 91.420),
    _torchvision("resnet50", 2, "11ad3fa6", 80.858, 95.434),
    _timm("resnet50", "a1", _STRIKES_BACK, "resnet50_a1_0-14fe96d1", 80.382, 94.598, ratio=0.95, hub="resnet50.a1_in1k"),
    _timm("resnet50", "c1", _STRIKES_BACK, "resnet50_c1-5ba5e060", 79.766, 94.954, ratio=0.95, hub="resnet50.c1_in1k"),
    _timm("resnet50", "ra", _TIMM_PORTS, "resnet50_ra-85ebb6e5", 78.82, 94.314, hub="resnet50.ra_in1k"),
    _timm("resnet50", "gluon", _GLUON, "gluon_resnet50_v1b-0ebe02e2", 77.58, 93.704, hub="resnet50.gluon_in1k"),
    _torchvision("resnet50", 1, "0676ba61", 76.130, 92.862),
    _torchvision("resnet101", 2, "cd907fc2", 81.886, 95.780),
    _timm("resnet101", "a1", _STRIKES_BACK, "resnet101_a1_0-cdcb52a9", 81.494, 95.164, ratio=0.95, hub="resnet101.a1_in1k"),
    _timm("resnet101", "gluon", _GLUON, "gluon_resnet101_v1b-3b017079", 79.306, 94.538, hub="resnet101.gluon_in1k"),
    _torchvision("resnet101", 1, "63fe2227", 77.374, 93.546),
    _torchvision("resnet152", 2, "f82ba261", 82.284, 96.002),
    _timm("resnet152", "a1", _STRIKES_BACK, "resnet152_a1_0-2eee8a7a", 81.998, 95.294, ratio=0.95, hub="resnet152.a1_in1k"),
    _timm("resnet152", "gluon", _GLUON, "gluon_resnet152_v1b-c1edb0dd", 79.712, 94.72, hub="resnet152.gluon_in1k"),
    _torchvision("resnet152", 1, "394f9c45", 78.312, 94.046),
    _torchvision("resnext50_32x4d", 2, "1a0047aa", 81.198, 95.340),
    _timm("resnext50_32x4d", "a1", _STRIKES_BACK, "resnext50_32x4d_a1_0-b5a91a1d", 80.526, 94.458, ratio=0.95, hub="resnext50_32x4d.a1_in1k"),
    _timm("resnext50_32x4d", "ra", _TIMM_PORTS, "resnext50_32x4d_ra-d733960d", 79.8, 94.608, hub="resnext50_32x4d.ra_in1k"),
    _timm("resnext50_32x4d", "gluon", _GLUON, "gluon_resnext50_32x4d-e6a097c1", 79.354, 94.424, hub="resnext50_32x4d.gluon_in1k"),
    _torchvision("resnext50_32x4d", 1, "7cdf4587", 77.618, 93.698),
    _torchvision("resnext101_64x4d", 1, "173b62eb", 83.246, 96.454, short_side=232),
    _timm("resnext101_64x4d", "c1", _TPU, "resnext101_64x4d_c-0d0e0cc0", 82.446, 95.92, ratio=0.95, hub="resnext101_64x4d.c1_in1k"),
    _timm("resnext101_64x4d", "gluon", _GLUON, "gluon_resnext101_64x4d-f9a8e184", 80.64, 95, hub="resnext101_64x4d.gluon_in1k"),
    _torchvision("wide_resnet50_2", 2, "9ba9bcbe", 81.602, 95.758),
    _timm("wide_resnet50_2", "racm", _TIMM_PORTS, "wide_resnet50_racm-8234f177", 81.466, 95.544, hub="wide_resnet50_2.racm_in1k"),
    _torchvision("wide_resnet50_2", 1, "95faca4d", 78.468, 94.086),
    _torchvision("wide_resnet101_2", 2, "d733dc28", 82.510, 96.020),
    _torchvision("wide_resnet101_2", 1, "32ee1156", 78.848, 94.284),
    _timm("resnet50c", "gluon", _GLUON, "gluon_resnet50_v1c-48092f55", 78.016, 93.994, hub="resnet50c.gluon_in1k"),
    _timm("resnet101c", "gluon", _GLUON, "gluon_resnet101_v1c-1f26822a", 79.542, 94.588, hub="resnet101c.gluon_in1k"),
    _timm("resnet26", "bt", _TIMM_PORTS, "resnet26-9aa10e23", 75.298, 92.578, hub="resnet26.bt_in1k"),
    _timm("resnet26d", "bt", _TIMM_PORTS, "resnet26d-69e92c46", 76.698, 93.156, hub="resnet26d.bt_in1k"),
    _timm("resnet50d", "a1", _STRIKES_BACK, "resnet50d_a1_0-e20cff14", 80.73, 94.678, ratio=0.95, hub="resnet50d.a1_in1k"),
    _timm("resnet50d", "ra2", _TIMM_PORTS, "resnet50d_ra2-464e36ba", 80.546, 95.16, hub="resnet50d.ra2_in1k"),
    _timm("resnet50d", "gluon", _GLUON, "gluon_resnet50_v1d-818a1b1b", 79.08, 94.458, hub="resnet50d.gluon_in1k"),
    _timm("resnet101d", "ra2", _TIMM_PORTS, "resnet101d_ra2-2803ffab", 82.254, 96.07, ratio=0.95, size=256, hub="resnet101d.ra2_in1k"),
    _timm("resnet101d", "gluon", _GLUON, "gluon_resnet101_v1d-0f9c8644", 80.466, 95.034, hub="resnet101d.gluon_in1k"),
    _timm("resnet50s", "gluon", _GLUON, "gluon_resnet50_v1s-1762acc0", 78.71, 94.248, hub="resnet50s.gluon_in1k"),
    _timm("resnext101_32x4d", "gluon", _GLUON, "gluon_resnext101_32x4d-b253c8c4", 80.336, 94.908, hub="resnext101_32x4d.gluon_in1k"),
    _timm("seresnet50", "ra2", _TIMM_PORTS, "seresnet50_ra_224-8efdb4bb", 80.26, 95.068, hub="seresnet50.ra2_in1k"),
    _timm("seresnet50", "a1", _STRIKES_BACK, "seresnet50_a1_0-ffa00869", 80.012, 94.704, ratio=0.95, hub="seresnet50.a1_in1k"),
    _timm("seresnext50_32x4d", "racm", _TIMM_PORTS, "seresnext50_32x4d_racm-a304a460", 81.268, 95.624, hub="seresnext50_32x4d.racm_in1k"),
    _timm("seresnext50_32x4d", "gluon", _GLUON, "gluon_seresnext50_32x4d-90cf2d6e", 79.916, 94.816, hub="seresnext50_32x4d.gluon_in1k"),
    _timm("seresnext101_32x4d", "gluon", _GLUON, "gluon_seresnext101_32x4d-cf52900d", 80.886, 95.268, hub="seresnext101_32x4d.gluon_in1k"),
    _timm("senet154", "gluon", _GLUON, "gluon_senet154-70a1a3c0", 81.258, 95.358, hub="senet154.gluon_in1k"),
    _timm("seresnet50a", "caffe", _CADENE, "se_resnet50-ce0d4300", 77.65, 93.732, interpolation="bilinear"),
    _timm("seresnet101a", "caffe", _CADENE, "se_resnet101-7e38fcc6", 78.37, 94.264, interpolation="bilinear"),
    _timm("seresnet152a", "caffe", _CADENE, "se_resnet152-d17c99b7", 78.662, 94.37, interpolation="bilinear"),
    _timm("legacy_seresnext50_32x4d", "caffe", _TIMM_PORTS, "legacy_se_resnext50_32x4d-f3651bad", 79.08, 94.428, interpolation="bilinear"),
    _timm("legacy_seresnext101_32x4d", "caffe", _TIMM_PORTS, "legacy_se_resnext101_32x4d-37725eac", 80.274, 95.032, interpolation="bilinear"),
    _timm("legacy_senet154", "caffe", _TIMM_PORTS, "legacy_senet154-e9eb9fe6", 81.32, 95.502, interpolation="bilinear"),
    _timm("skresnet18", "ra", _TIMM_PORTS, "skresnet18_ra-4eec2804", 73.02, 91.172, hub="skresnet18.ra_in1k"),
    _timm("skresnet34", "ra", _TIMM_PORTS, "skresnet34_ra-bdc0ccde", 76.956, 93.32, hub="skresnet34.ra_in1k"),
    _timm("sknet50", "ra", _TIMM_PORTS, "skresnext50_ra-f40e40bf", 80.168, 94.644, hub="skresnext50_32x4d.ra_in1k"),
    _inception("tf", 80.434, 95.312),
    _inception("tf_ens_adv", 79.998, 94.940),
)  # fmt: skip


def published(net: str) -> list[PublishedWeights]:
    """The published weights of a net, the best first."""
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


def recognise(file: str) -> PublishedWeights | None:
    """The published weights that a file of this name is, if it has kept its published name."""
    return next((w for w in MANIFEST if file in {copy.file for copy in w.copies}), None)
