"""Reading for training beside torchvision's ImageFolder with Pillow: images per second per core.

Both take the same JPEG files through a random-resized crop of 224 pixels, a flip, and batches of
64, in the same number of reading processes. ImageFolder's way also normalises each image; ours
leaves that to the device, so it is measured without it and with the batch normalised on arrival.
Rounds are interleaved, with one thread of torch, and every round makes its loader anew. With no
reading process all work is in one process; with one, it reads and the other only receives.

Command: .venv/bin/python scripts/measure_loader.py [FOLDER] [--rounds 10] [--images 512]
FOLDER has a folder of JPEGs per class; without it, photo-like images of 500x375 are made.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from resnestkit.data.augmentation import Augmentation, TrainingTransform
from resnestkit.data.files import find_images
from resnestkit.data.images import FileImages
from resnestkit.data.loaders import Batches, EpochSampler, TransformedImages
from resnestkit.data.transforms import normalise
from resnestkit.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

BATCH = 64
WHO = ("torchvision", "ours", "ours, normalised")
WORKERS = (0, 1)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--images", type=int, default=512)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or draw_photos(Path(made), given.images)
        speeds = measure_in_turn(folder, given.rounds, given.images)
    show(speeds, given.rounds, given.images)


def measure_in_turn(folder: Path, rounds: int, images: int) -> dict[tuple[str, int], list[float]]:
    """Images per second of everyone, round by round."""
    speeds: dict[tuple[str, int], list[float]] = {(who, n): [] for n in WORKERS for who in WHO}
    for number in range(rounds):
        for (who, workers), found in speeds.items():
            found.append(measure(who, folder, workers, images))
        words = ", ".join(f"{found[-1]:.0f}" for found in speeds.values())
        print(f"round {number + 1} of {rounds}: {words} images/s", file=sys.stderr, flush=True)
    return speeds


def measure(who: str, folder: Path, workers: int, images: int) -> float:
    """Images per second over one pass, after a first batch that is not counted."""
    torch.manual_seed(0)
    batches = (
        torchvision_batches(folder, workers) if who == "torchvision" else ours(folder, workers)
    )
    preprocessing = Preprocessing()
    started, seen = 0.0, 0
    for number, batch in enumerate(batches):
        if who == "ours, normalised":
            batch = normalise(batch, preprocessing)  # noqa: PLW2901  (its time counts)
        if number == 0:
            started = time.perf_counter()
            continue
        seen += len(batch)
        if seen + BATCH >= images:
            break
    return seen / (time.perf_counter() - started)


def torchvision_batches(folder: Path, workers: int) -> Iterator[Tensor]:
    """The usual loader: Pillow, float32, normalised image by image."""
    steps = [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    images = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, drop_last=True)
    return (batch for batch, _labels in loader)


def ours(folder: Path, workers: int) -> Iterator[Tensor]:
    """This package's loader: uint8, keyed by (seed, epoch, image)."""
    paths = find_images(folder)
    transform = TrainingTransform(Preprocessing(), Augmentation())
    images = TransformedImages(FileImages(paths, [0] * len(paths)), transform, seed=0)
    batches = Batches(images, EpochSampler(len(paths), BATCH, 0), workers)
    return (batch.images for batch in batches)


def draw_photos(folder: Path, count: int) -> Path:
    """JPEGs of smooth shapes in many sizes under a grain, about 70 kB each, in two classes."""
    random = np.random.default_rng(0)
    for number in range(count):
        into = folder / "ab"[number % 2]
        into.mkdir(exist_ok=True)
        pixels = draw_shapes(random) + random.normal(0, 6, (375, 500, 1))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(into / f"{number:05}.jpg", quality=92)
    return folder


def draw_shapes(random: np.random.Generator) -> np.ndarray:
    """Noise at seven scales, the coarse ones strongest, and its colours alike."""
    pixels = np.full((375, 500, 3), 120.0)
    for side in (4, 8, 16, 32, 64, 128, 256):
        coarse = random.normal(size=(max(2, side * 3 // 4), side, 4)) * 60 * (4 / side) ** 0.75
        planes = [Image.fromarray(coarse[..., i].astype(np.float32)) for i in range(4)]
        grey, *colours = (np.asarray(plane.resize((500, 375))) for plane in planes)
        pixels += grey[..., None] + 0.4 * np.stack(colours, axis=2)
    return pixels


def show(speeds: dict[tuple[str, int], list[float]], rounds: int, images: int) -> None:
    """Medians and ranges, and the ratios of the same round."""
    print(f"{rounds} rounds of {images} images, images per second\n")
    print("| reading processes | who | median | range | over torchvision, by round |")
    print("|---|---|---|---|---|")
    for (who, workers), found in speeds.items():
        beside = speeds["torchvision", workers]
        ratios = [ours / theirs for ours, theirs in zip(found, beside, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        middle, low, high = statistics.median(found), min(found), max(found)
        print(f"| {workers} | {who} | {middle:.0f} | {low:.0f} to {high:.0f} | {ratio} |")


if __name__ == "__main__":
    main()
