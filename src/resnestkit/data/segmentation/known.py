"""Data sets that are known by name: their classes, their numbers and their colours.

Imports without torch. Sources of the lists:

* CamVid: Brostow et al., *Semantic object classes in video*, 2009, in the eleven classes of
  Badrinarayanan et al., *SegNet*, 2015.
* Cityscapes: Cordts et al., *The Cityscapes dataset*, 2016; ids by its own helpers/labels.py.
* ADE20K: Zhou et al., *Scene parsing through ADE20K*, 2017; names from its objectInfo150.txt.
* Pascal-Context: Mottaghi et al., *The role of context*, 2014. Its 59 classes are the most frequent
  of 459, whose numbers follow the alphabet; the usual masks keep that order.
* Pascal VOC: Everingham et al., 2010.
"""

from __future__ import annotations

from pathlib import Path

from resnestkit.data.segmentation.legend import Colour, Legend
from resnestkit.errors import UserError

_CAMVID: tuple[tuple[str, Colour], ...] = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)
CAMVID = Legend(
    tuple(name for name, _ in _CAMVID),
    tuple(range(11)),
    ignored=(11,),
    palette=tuple(colour for _, colour in _CAMVID),
)

_CITYSCAPES: tuple[tuple[int, str, Colour], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
_CITYSCAPES_NAMES = tuple(name for _, name, _ in _CITYSCAPES)
_CITYSCAPES_COLOURS = tuple(colour for *_, colour in _CITYSCAPES)
_CITYSCAPES_IDS = tuple(number for number, *_ in _CITYSCAPES)
_CITYSCAPES_OTHERS = tuple(number for number in range(34) if number not in _CITYSCAPES_IDS)
CITYSCAPES_IDS = Legend(_CITYSCAPES_NAMES, _CITYSCAPES_IDS, _CITYSCAPES_OTHERS, _CITYSCAPES_COLOURS)
"""Of the files ..._labelIds.png."""
CITYSCAPES_TRAIN_IDS = Legend(_CITYSCAPES_NAMES, tuple(range(19)), palette=_CITYSCAPES_COLOURS)
"""Of the files ..._labelTrainIds.png."""

_PASCAL_CONTEXT = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book"),
    *("bottle", "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth"),
    *("computer", "cow", "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food"),
    *("grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse", "person"),
    *("plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign"),
    *("sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall"),
    *("water", "window", "wood"),
)
PASCAL_CONTEXT = Legend(_PASCAL_CONTEXT, tuple(range(1, 60)), ignored=(0,))
"""0 is what belongs to none of the 59, which the common protocol leaves out."""

_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)

ADE20K_CLASSES = 150
ADE20K_INFO = "objectInfo150.txt"


def voc_palette(count: int) -> tuple[Colour, ...]:
    """Pascal VOC's colours: the bits of a class's number, spread over the three channels."""

    def spread(number: int, channel: int) -> int:
        bits = ((number >> (3 * place + channel)) & 1 for place in range(8))
        return sum(bit << (7 - place) for place, bit in enumerate(bits))

    return tuple((spread(i, 0), spread(i, 1), spread(i, 2)) for i in range(count))


VOC = Legend(_VOC, tuple(range(21)), palette=voc_palette(21))

# What these sets paint besides their classes: CamVid's 32 of 2009, Cityscapes' ignored labels.
_CAMVID_OTHERS = (
    *((0, 0, 0), (64, 128, 64), (192, 0, 128), (0, 128, 64), (64, 0, 192), (192, 128, 64)),
    *((128, 0, 192), (192, 0, 64), (128, 128, 64), (192, 0, 192), (128, 64, 64), (64, 192, 128)),
    *((128, 128, 192), (0, 0, 192), (64, 128, 192), (0, 0, 64), (0, 64, 64), (192, 64, 128)),
    *((192, 128, 192), (64, 0, 64), (192, 192, 0), (64, 192, 0)),
)
_CITYSCAPES_PAINTED = (
    *((0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180)),
    *((150, 100, 100), (150, 120, 90), (0, 0, 90), (0, 0, 110)),
)
PALETTES: dict[str, frozenset[Colour]] = {
    "CamVid": frozenset((*CAMVID.palette, *_CAMVID_OTHERS)),
    "Cityscapes": frozenset((*_CITYSCAPES_COLOURS, *_CITYSCAPES_PAINTED)),
    "Pascal VOC": frozenset((*VOC.palette, (224, 224, 192))),
}
"""All colours that masks of a known set are painted in."""


def read_ade20k(root: Path) -> Legend:
    """ADE20K's 150 classes, by the first of the names that its own list gives each.

    The list comes with the images; where somebody left it out, the classes are counted. In its
    masks 0 is all else. Raises UserError if the list cannot be read.
    """
    numbers = tuple(range(1, ADE20K_CLASSES + 1))
    path = root / ADE20K_INFO
    if not path.is_file():
        return Legend(tuple(f"class {i}" for i in range(ADE20K_CLASSES)), numbers, ignored=(0,))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from error
    # The names come last; a column before them is in some copies alone.
    names = [line.split("\t")[-1].strip() for line in lines[1:] if line.strip()]
    if len(names) != ADE20K_CLASSES:
        raise UserError(f"{path} names {len(names)} classes; ADE20K has {ADE20K_CLASSES}.")
    first = [name.split(",")[0].strip() for name in names]
    unique = tuple(
        short if first.count(short) == 1 else name for short, name in zip(first, names, strict=True)
    )
    return Legend(unique, numbers, ignored=(0,))
