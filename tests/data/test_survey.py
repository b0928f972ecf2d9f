"""One pass over the images: sizes, colours, and which are the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnestkit.data.check import check_images
from resnestkit.data.images import FileImages
from resnestkit.data.survey import describe_shapes, find_twins, look_at, mean_and_std


def noise(seed: int, side: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)


def test_mean_and_deviation_are_those_of_the_pixels() -> None:
    images = [noise(seed) for seed in range(4)]
    images.append(torch.zeros(3, 24, 24, dtype=torch.uint8))
    whole = torch.stack(images).double().div(255).transpose(0, 1).flatten(1)
    mean, std = mean_and_std([look_at(image) for image in images])
    assert mean == pytest.approx(whole.mean(1).tolist(), abs=1e-6)
    assert std == pytest.approx(whole.std(1, correction=0).tolist(), abs=1e-6)


def test_shapes_and_grey() -> None:
    looks = [
        look_at(torch.zeros(3, h, w, dtype=torch.uint8)) for h, w in ((4, 8), (30, 10), (9, 9))
    ]
    shape = describe_shapes(looks)
    assert (shape.smallest, shape.median, shape.largest) == ((4, 8), (9, 9), (30, 10))
    assert shape.aspects == (pytest.approx(1 / 3), 1.0, 2.0)
    assert all(look.is_grey for look in looks)
    assert not look_at(noise(0)).is_grey


def test_layout_in_memory_does_not_matter() -> None:
    image = noise(0)
    turned = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert look_at(image).digest == look_at(turned).digest
    assert look_at(image).digest != look_at(image.transpose(1, 2)).digest


def test_copies_are_found_within_and_across_splits_and_under_two_labels() -> None:
    looks = {"train": [look_at(noise(n)) for n in (0, 1, 1)], "val": [look_at(noise(0))]}
    names = {"train": ["a", "b", "c"], "val": ["d"]}
    twins = find_twins(looks, names, {"train": [0, 1, 1], "val": [1]})
    assert [(twin.kind, twin.names, twin.splits) for twin in twins] == [
        ("same", ("b", "c"), ("train", "train")),
        ("same", ("a", "d"), ("train", "val")),
    ]
    assert twins[1].labels == (0, 1)


def test_nearly_the_same_is_said_only_of_two_labels(tmp_path: Path) -> None:
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (6, 6, 3)), np.ones((14, 14, 1)))
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for path, quality in zip(paths, (95, 80, 70), strict=True):
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=quality)
    checked = check_images(FileImages(paths, [0, 0, 1]), cache_bytes=0, survey=True)
    names, labels = {"train": checked.images.names}, {"train": checked.images.labels}
    twins = find_twins({"train": checked.looks}, names, labels)
    assert {twin.names for twin in twins} == {(str(paths[0]), str(paths[2])),
                                              (str(paths[1]), str(paths[2]))}  # fmt: skip
    assert {twin.kind for twin in twins} == {"alike"}


def test_different_noise_is_not_alike() -> None:
    looks = [look_at(noise(seed)) for seed in range(200)]
    names, labels = [str(n) for n in range(200)], [n % 2 for n in range(200)]
    assert find_twins({"train": looks}, {"train": names}, {"train": labels}) == []


def test_the_survey_follows_what_can_be_read(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8 + number, 8), "red").save(path)
    paths[1].write_bytes(b"")
    checked = check_images(FileImages(paths, [0, 1, 2]), cache_bytes=0, survey=True)
    assert [look.width for look in checked.looks] == [8, 10]
    assert check_images(FileImages(paths, [0, 1, 2]), cache_bytes=0).looks == ()
