"""Resizing, augmentation keyed by image, normalisation."""

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from resnestkit.data.augmentation import Augmentation, Lighting, TrainingTransform
from resnestkit.data.seeding import mix_seed, seeded
from resnestkit.data.transforms import EvaluationTransform, normalise
from resnestkit.errors import UserError
from resnestkit.preprocessing import ChannelOrder, Interpolation, Preprocessing


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


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(81, 100), (300, 40), (20, 31), (57, 57)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_evaluation_is_torchvisions_resize_and_centre_crop(
    size: tuple[int, int], kind: Interpolation, channels_last: bool
) -> None:
    image = picture(*size)
    if channels_last:
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    mode = v2.InterpolationMode(kind)
    resized = v2.functional.resize(image, [57], interpolation=mode, antialias=True)
    theirs = v2.functional.center_crop(resized, [50, 50])
    ours = EvaluationTransform(Preprocessing(50, 50 / 57, interpolation=kind))(image)
    assert torch.equal(ours, theirs)
    assert ours.stride() == theirs.stride()


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


# Every random change by itself (none of them crops or flips), and all at once.
ALONE = Augmentation("none", flip=False)
CHANGES = {
    "autoaugment": replace(ALONE, auto_augment="autoaugment"),
    "randaugment": replace(ALONE, auto_augment="randaugment"),
    "jitter": replace(ALONE, jitter=0.4),
    "lighting": replace(ALONE, lighting=0.1),
    "erase": replace(ALONE, erase=0.5),
    "all": Augmentation(auto_augment="autoaugment", jitter=0.4, lighting=0.1, erase=0.5),
}
COLOUR_ONLY = {"lighting", "all"}


def seen(transform: TrainingTransform, image: torch.Tensor, index: int) -> torch.Tensor:
    """An image under its key, whatever Python's and NumPy's generators are at."""
    random.seed()
    np.random.seed(random.randrange(2**32))
    states = random.getstate(), np.random.get_state()[1].tolist()
    with seeded(7, 0, index):
        out = transform(image)
    assert states == (random.getstate(), np.random.get_state()[1].tolist())
    return out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_drawn_from_its_key_alone(change: str, channels: int) -> None:
    if channels == 1 and change in COLOUR_ONLY:
        pytest.skip("colours of a grey image")
    preprocessing = Preprocessing(32, 1.0, mean=(0.5,) * channels, std=(0.25,) * channels)
    transform = TrainingTransform(preprocessing, CHANGES[change])
    image = picture(32, 32)[:channels]
    first = [seen(transform, image, index) for index in range(30)]
    elsewhere = pickle.loads(pickle.dumps(transform))  # as a reading process may get it
    assert all(torch.equal(seen(elsewhere, image, i), out) for i, out in enumerate(first))
    assert all((out.shape, out.dtype) == ((channels, 32, 32), torch.uint8) for out in first)
    assert len({out.numpy().tobytes() for out in first}) > 8
    assert torch.equal(image, picture(32, 32)[:channels]), "the cached image was written to"


def test_nothing_is_drawn_for_a_change_that_is_off() -> None:
    with seeded(1):
        TrainingTransform(Preprocessing(24, 1.0), ALONE)(picture(30, 40))
        after = torch.rand(1)
    with seeded(1):
        assert torch.equal(after, torch.rand(1))


def test_randaugment_is_stronger_at_higher_magnitude() -> None:
    image = picture(32, 32)

    def change(magnitude: int) -> float:
        augmentation = replace(CHANGES["randaugment"], rand_magnitude=magnitude)
        transform = TrainingTransform(Preprocessing(32, 1.0), augmentation)
        outs = torch.stack([seen(transform, image, index) for index in range(60)])
        return float((outs.float() - image).abs().mean())

    assert change(2) < change(12) < change(30)


def test_jitter_scales_within_its_bounds() -> None:
    # Of one grey, contrast and saturation leave it as it is: what is left is brightness.
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    transform = TrainingTransform(Preprocessing(8, 1.0), CHANGES["jitter"])
    levels = [seen(transform, image, index).unique() for index in range(200)]
    assert all(len(level) == 1 for level in levels)
    values = torch.cat(levels)
    assert values.min() in range(58, 64)
    assert values.max() in range(136, 141)


def test_lighting_is_alexnets_rounded_and_clipped() -> None:
    image = picture(16, 16)
    image[:, 0, 0], image[:, 0, 1] = 0, 255
    vectors = torch.tensor(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    for seed in range(20):
        with seeded(seed):
            ours = Lighting(0.5)(image)
        with seeded(seed):
            alpha = 0.5 * torch.randn(3)
        shift = (vectors * alpha * torch.tensor([0.2175, 0.0188, 0.0045])).sum(1)
        exact = (image.double() / 255 + shift.view(3, 1, 1)).clamp(0, 1) * 255
        assert ours.dtype == torch.uint8
        assert (ours - exact).abs().max() <= 0.501, "rounded, and clipped instead of wrapped"


def test_lighting_moves_colours_about_as_far_as_alexnets() -> None:
    image = torch.full((3, 4, 4), 128, dtype=torch.uint8)
    shifts = []
    for seed in range(2000):
        with seeded(seed):
            shifts.append(Lighting(0.1)(image)[:, 0, 0].float() - 128)
    deviation = torch.stack(shifts).std(0)
    expected = 25.5 * torch.tensor([0.1242, 0.1264, 0.1276])  # |eigenvalues x a row of vectors|
    torch.testing.assert_close(deviation, expected, atol=0.2, rtol=0)


def test_lighting_on_grey_images_is_refused() -> None:
    with pytest.raises(UserError, match="--lighting"):
        TrainingTransform(Preprocessing(8, 1.0, mean=(0.5,), std=(0.25,)), CHANGES["lighting"])


@pytest.mark.parametrize(
    ("mean", "order"), [((0.485, 0.456, 0.406), "RGB"), ((0.406, 0.456, 0.485), "BGR")]
)
def test_erasing_leaves_a_rectangle_of_the_mean_colour(
    mean: tuple[float, ...], order: ChannelOrder
) -> None:
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    preprocessing = Preprocessing(32, 1.0, mean=mean, channel_order=order)
    transform = TrainingTransform(preprocessing, replace(ALONE, erase=1.0))
    out = seen(transform, image, 0)
    blank = (out == torch.tensor([124, 116, 104]).view(3, 1, 1)).all(0)
    rows, columns = blank.any(1).nonzero().flatten(), blank.any(0).nonzero().flatten()
    assert 0 < int(blank.sum()) == len(rows) * len(columns) < 32 * 32
    assert not out[:, ~blank].any()


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
