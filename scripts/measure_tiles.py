"""Labelling large images tile by tile on a CPU: memory and time against the size of the image.

Each size is a process of its own that reads a PNG, labels it and writes mask and overlay, with a
segmenter of random weights: what it costs is what a trained one does. Memory is the most that the
process held (VmHWM: getrusage's ru_maxrss also counts what the process that started it held). Of
it, four bytes a pixel are the image as Pillow holds it, and one is the mask; the rest is what the
tiles cost, with torch itself, and should not grow. Then a line is fitted to the processor's
seconds, of all threads, which others on a shared machine disturb least.

With --checkpoint and --images, labels by tiles are compared with those of the whole image instead:
the share of pixels that are alike, for tiles and overlaps of several sizes. The images must be
small enough to be seen whole.

Command: .venv/bin/python scripts/measure_tiles.py [--kind deeplabv3] [--net resnest14]
             [--classes 11] [--sides 2000 4000 6000 8000 10000] [--tile N] [--precision bfloat16]
             [--plot FILE.png]
         .venv/bin/python scripts/measure_tiles.py --checkpoint FILE --images FOLDER    (Linux)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

from resnestkit.segmentation.spec import KINDS, Kind
from resnestkit.training.recipe import Precision

SIDES = (2000, 4000, 6000, 8000, 10_000)
BYTES = 5
"""A pixel's, of image and mask."""
BAR = 3.0
"""GB that labelling 10,000 x 10,000 pixels may take."""


def main() -> None:
    """Measure every size, print a table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="deeplabv3")
    parser.add_argument("--net", default="resnest14")
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare:
        prepare(given.prepare, given.kind, given.net, given.classes, given.sides)
    elif given.measure:
        print(json.dumps(measure(given.checkpoint, given.measure, given.tile, given.precision)))
    elif given.images:
        compare(given.checkpoint, given.images)
    else:
        rows = measure_all(given)
        show(rows, f"{given.kind} on {given.net}, {given.classes} classes, {given.precision}")
        if given.plot:
            draw(rows, given.plot)


def measure_all(given: argparse.Namespace) -> list[dict[str, float]]:
    """A row for each side, the smallest first."""
    sides = [str(side) for side in sorted(given.sides)]
    asked = ["--precision", given.precision]
    asked += ["--tile", str(given.tile)] if given.tile is not None else []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        net = ["--kind", given.kind, "--net", given.net, "--classes", str(given.classes)]
        run("--prepare", folder, *net, "--sides", *sides)
        for side in sides:
            image, net_file = f"{folder}/{side}.png", f"{folder}/net.safetensors"
            printed = run("--measure", image, "--checkpoint", net_file, *asked)
            rows.append(json.loads(printed))
            print(f"{side}: {printed.strip()}", file=sys.stderr)
    return rows


def run(*words: str) -> str:
    """What this script prints in a process of its own."""
    return subprocess.check_output([sys.executable, __file__, *words], text=True)


def prepare(folder: Path, kind: Kind, net: str, classes: int, sides: list[int]) -> None:
    """A checkpoint and the images: clouds of colour under noise, which a PNG cannot make small."""
    import numpy as np  # noqa: PLC0415  (whoever starts the processes imports less)
    import torch  # noqa: PLC0415  (only who needs it)
    from PIL import Image  # noqa: PLC0415  (only who needs it)

    from resnestkit import create_segmenter, save_segmenter  # noqa: PLC0415  (only who needs it)

    torch.manual_seed(0)
    model = create_segmenter(kind, net, classes)
    model.head_is_new = False
    save_segmenter(model, folder / "net.safetensors")
    random = np.random.default_rng(0)
    clouds = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    noise = random.integers(0, 24, (512, 512, 3), dtype=np.uint8)
    for side in sides:
        image = clouds.resize((side, side), Image.Resampling.BICUBIC)
        for top in range(0, side, 512):
            strip = np.asarray(image.crop((0, top, side, min(side, top + 512))))
            spread = np.tile(noise[: len(strip)], (1, -(-side // 512), 1))[:, :side]
            image.paste(Image.fromarray(strip // 2 + spread), (0, top))
        image.save(folder / f"{side}.png", compress_level=1)


def measure(
    checkpoint: Path, image: Path, tile: int | None, precision: Precision
) -> dict[str, float]:
    """Seconds and memory of one image, in a process that does nothing else."""
    from resnestkit.data.pictures import open_picture  # noqa: PLC0415  (only who needs it)
    from resnestkit.deploy.overlays import MaskFolder  # noqa: PLC0415  (only who needs it)
    from resnestkit.deploy.segmentation_predictor import (  # noqa: PLC0415  (only who needs it)
        SegmentationPredictor,
    )
    from resnestkit.deploy.tiles import count_tiles  # noqa: PLC0415  (only who needs it)

    predictor = SegmentationPredictor(checkpoint, "cpu", tile=tile, precision=precision)
    folder = MaskFolder(image.parent / "found", [image], predictor.card.classes, predictor.colours)
    before = read_status("VmRSS")
    started = time.perf_counter()
    picture = open_picture(image)
    opened = time.perf_counter()
    worked = time.process_time()
    labels, tiling = predictor.segment(picture)
    labelled, worked = time.perf_counter(), time.process_time() - worked
    folder.write(image.name, labels, picture)
    written = time.perf_counter()
    size = picture.height, picture.width
    return {
        "pixels": labels.size,
        "tiles": count_tiles(size, tiling) if tiling else 1,
        "before": before,
        "peak": read_status("VmHWM"),
        "read": opened - started,
        "label": labelled - opened,
        "work": worked,
        "write": written - labelled,
    }


def read_status(line: str) -> float:
    """A line of this process's status, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * float(status.split(f"{line}:")[1].split()[0])


def show(rows: list[dict[str, float]], what: str) -> None:
    """A table, and how straight the line is."""
    print(f"\n## {what}\n")
    print("| side | megapixels | tiles | peak GB | of it image and mask | the rest | read s | "
          "label s | its CPU s | CPU s per megapixel | write s |")  # fmt: skip
    print("|---" * 11 + "|")
    for row in rows:
        held, pixels = BYTES * row["pixels"], row["pixels"] / 1e6
        print(
            f"| {row['pixels'] ** 0.5:,.0f} | {pixels:.0f} | {row['tiles']} | "
            f"{row['peak'] / 1e9:.2f} | {held / 1e9:.2f} | {(row['peak'] - held) / 1e9:.2f} | "
            f"{row['read']:.1f} | {row['label']:.0f} | {row['work']:.0f} | "
            f"{row['work'] / pixels:.2f} | {row['write']:.1f} |"
        )
    if len(rows) > 2:
        slope, start, straight = fit_line(rows)
        print(
            f"\nCPU seconds of labelling = {slope:.2f} per megapixel {start:+.1f}; "
            f"R^2 = {straight:.4f}"
        )
    print(f"highest peak: {max(row['peak'] for row in rows) / 1e9:.2f} GB; the bar is {BAR:.0f} GB")


def fit_line(rows: list[dict[str, float]]) -> tuple[float, float, float]:
    """CPU seconds per megapixel, those at none, and the share of variance that the line tells."""
    import numpy as np  # noqa: PLC0415  (only who needs it)

    x = np.array([row["pixels"] / 1e6 for row in rows])
    y = np.array([row["work"] for row in rows])
    slope, start = np.polyfit(x, y, 1)
    rest = y - (slope * x + start)
    return float(slope), float(start), float(1 - (rest**2).sum() / ((y - y.mean()) ** 2).sum())


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Memory at the left, time at the right, against megapixels."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  (only here)

    pixels = [row["pixels"] / 1e6 for row in rows]
    held = [BYTES * row["pixels"] / 1e9 for row in rows]
    peaks = [row["peak"] / 1e9 for row in rows]
    rest = [peak - part for peak, part in zip(peaks, held, strict=True)]
    figure, (memory, seconds) = plt.subplots(1, 2, figsize=(9, 3.4))
    memory.plot(pixels, peaks, "o-", color="#2563eb", label="peak of the process")
    memory.plot(pixels, rest, "o-", color="#0f766e", label="beyond image and mask")
    memory.plot(pixels, held, "--", color="#94a3b8", label="image and mask")
    memory.axhline(BAR, color="#dc2626", lw=1, ls=":", label=f"bar, {BAR:.0f} GB")
    memory.set(title="Memory, GB", xlabel="megapixels", ylim=(0, None), xlim=(0, None))
    memory.legend(fontsize=7)
    seconds.plot(pixels, [row["work"] for row in rows], "o", color="#2563eb", label="labelling")
    if len(rows) > 2:
        slope, start, straight = fit_line(rows)
        ends = [0.0, max(pixels)]
        line = f"{slope:.2f} s per megapixel, R² = {straight:.4f}"
        seconds.plot(ends, [start + slope * x for x in ends], color="#94a3b8", lw=1, label=line)
    others = [row["read"] + row["write"] for row in rows]
    seconds.plot(pixels, others, "o-", color="#0f766e", label="reading and writing (by the clock)")
    seconds.set(title="Time, CPU s", xlabel="megapixels", ylim=(0, None), xlim=(0, None))
    seconds.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def compare(checkpoint: Path, folder: Path) -> None:
    """A table of the shares of pixels that tiles label as the whole image is."""
    import numpy as np  # noqa: PLC0415  (only who needs it)

    from resnestkit.data.files import find_images  # noqa: PLC0415  (only who needs it)
    from resnestkit.data.pictures import open_picture  # noqa: PLC0415  (only who needs it)
    from resnestkit.deploy.segmentation_predictor import (  # noqa: PLC0415  (only who needs it)
        SegmentationPredictor,
    )
    from resnestkit.deploy.tiles import Tiling  # noqa: PLC0415  (only who needs it)

    predictor = SegmentationPredictor(checkpoint, "cpu", side=0, tile=0)
    pictures = [open_picture(path) for path in find_images(folder)]
    whole = [predictor.segment(picture)[0] for picture in pictures]
    print("| tile | overlap | ramp | pixels as in the whole | worst image |")
    print("|---|---|---|---|---|")
    for side, overlap in ((128, 32), (192, 32), (192, 64), (256, 64), (256, 128), (320, 128)):
        tiling = Tiling(side, overlap, overlap // 4)
        alike = [
            float(np.mean(predictor.label_tiles(picture, tiling) == labels))
            for picture, labels in zip(pictures, whole, strict=True)
        ]
        print(
            f"| {side} | {overlap} | {tiling.ramp} | {np.mean(alike):.2%} | {min(alike):.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
