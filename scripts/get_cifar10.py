"""Make the CIFAR-10 folders that the recipe trains on, from the data set's public archive.

Command: .venv/bin/python scripts/get_cifar10.py DATA/cifar10
Downloads 170 MB through torchvision (its address and checksum) and writes 60,000 PNG files to
train/<class>/ and test/<class>/.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.progress import track
from torchvision.datasets import CIFAR10


def main() -> None:
    """Download, then write every image once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        for split in ("train", "test"):
            write(CIFAR10(temporary, train=split == "train", download=True), folder / split)


def write(images: CIFAR10, folder: Path) -> None:
    """One PNG per image, numbered in the order of the archive."""
    for name in images.classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in track(range(len(images)), description=f"writing {folder.name}"):
        picture, label = images[number]
        picture.save(folder / images.classes[label] / f"{number:05}.png")


if __name__ == "__main__":
    main()
