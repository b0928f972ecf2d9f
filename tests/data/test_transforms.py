"""Resizing, augmentation keyed by image, normalisation."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from resnestkit.data.seeding import mix_seed, seeded
from resnestkit.data.transforms import (
    Augmentation,
    EvaluationTransform,
    TrainingTransform,
    normalise,
)
from resnestkit.preprocessing import Preprocessing


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (3, 6, 6), generator=generator, dtype=torch.uint8)
    if (height, width) == (1, 1):  # torch resizes from one pixel, but not to one
        return small[:, :1, :1].contiguous()
    return v2.functional.resize(small, [height, width], antialias=True)


@pytest.mark.parametrize("size", [(50, 70), (70, 50), (32, 32), (9, 200), (1, 1), (1, 5), (5, 1)])
def test_evaluation_gives_the_square_asked_for(size: tuple[int, int]) -> None:
    transform = EvaluationTransform(Preprocessing(size=32, crop_ratio=0.875))
    out = transform(picture(*size))
    assert out.shape == (3, 32, 32)
    assert out.dtype == torch.uint8


def test_evaluation_is_pillows_resize_and_centre_crop() -> None:
    image = picture(80, 100)
    ours = EvaluationTransform(Preprocessing(size=56, crop_ratio=0.875))(image)
    pil = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
        (80, 64), Image.Resampling.BILINEAR
    )
    theirs = np.asarray(pil)[4:60, 12:68].transpose(2, 0, 1)
    difference = np.abs(ours.numpy().astype(int) - theirs.astype(int))
    # Both resize in two passes and round after each, but not alike.
    assert difference.max() <= 2
    assert (difference > 1).mean() < 0.01


@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (300, 2)])
def test_augmentation_takes_the_smallest_and_the_longest(crop: str, size: tuple[int, int]) -> None:
    transform = TrainingTransform(Preprocessing(16, 1.0), Augmentation(crop))  # type: ignore[arg-type]
    assert transform(picture(*size)).shape == (3, 16, 16)


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = picture(32, 32)
    assert torch.equal(EvaluationTransform(Preprocessing(32, 1.0))(image), image)


@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
def test_augmentation_follows_its_key_alone(crop: str) -> None:
    transform = TrainingTransform(Preprocessing(24, 1.0), Augmentation(crop))  # type: ignore[arg-type]
    image = picture(30, 40)

    def augmented(epoch: int, index: int) -> torch.Tensor:
        with seeded(7, epoch, index):
            return transform(image)

    first = augmented(0, 0)
    others = [augmented(epoch, index) for epoch in range(3) for index in range(4)]
    assert torch.equal(augmented(0, 0), first)
    assert torch.equal(others[0], first)
    assert any(not torch.equal(other, first) for other in others)
    assert all(other.shape == (3, 24, 24) for other in others)


def test_without_crop_and_flip_training_sees_what_evaluation_sees() -> None:
    preprocessing = Preprocessing(24, 1.0)
    transform = TrainingTransform(preprocessing, Augmentation("none", flip=False))
    image = picture(30, 40)
    assert torch.equal(transform(image), EvaluationTransform(preprocessing)(image))


def test_seeded_leaves_the_generator_as_it_was() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeded(5):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(inside, expected)


def test_mixed_seeds_differ_for_neighbouring_keys() -> None:
    seeds = {mix_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_normalise_is_torchvisions() -> None:
    preprocessing = Preprocessing()
    image = picture(16, 16).unsqueeze(0)
    theirs = v2.functional.normalize(
        image.double() / 255, list(preprocessing.mean), list(preprocessing.std)
    )
    ours = normalise(image, preprocessing)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=0)
