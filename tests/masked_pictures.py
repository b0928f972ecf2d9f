"""Images with masks to train on, written as a folder by the tests themselves."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from resnestkit import SegmentationRecipe
from resnestkit.data.segmentation.scenes import CLASSES, make_scenes

TINY = SegmentationRecipe(
    model="resnest23_small",
    settings="light",
    epochs=2,
    batch_size=4,
    lr=6.4,
    head_lr=2,
    class_weights="balanced",
    precise_norm=2,
    base_side=64,
    scale=(0.75, 1.5),
    crop_size=48,
    test_side=64,
    precision="float32",
    device="cpu",
)


def draw_masked_scenes(root: Path, counts: Mapping[str, int]) -> Path:
    """A folder of images and index masks with so many pictures of scenes in each split."""
    for split, images in make_scenes(counts=counts).splits.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(len(images)):
            pixels = images.read(index).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
            mask = Image.fromarray(images.mask(index).numpy())
            mask.save(root / "labels" / split / f"{index}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root
