"""Images to train on, made by the tests themselves."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


def draw_class_folders(folder: Path, per_class: int) -> Path:
    """Class folders of noisy pictures in one colour each: learnt in an epoch or two."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            noise = random.normal(0, 40, (16, 16, 3)) + np.array(colour)
            pixels = np.clip(noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder
