"""What a panoptic net learns of a picture, and which data it is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from masked_pictures import draw_masked_scenes
from segment_files import draw_panoptic_scenes

from resnestkit import UserError
from resnestkit.data.detection.transforms import DetectionAugmentation, DetectionTransform
from resnestkit.data.loaders import Key
from resnestkit.data.panoptic.batches import (
    MOST_SEGMENTS,
    PanopticDataset,
    PanopticSample,
    change_together,
    find_things,
    make_target,
    place_segments,
)
from resnestkit.data.panoptic.sources import inspect_panoptic_source, load_panoptic_source
from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.data.segmentation.scenes import THINGS, make_scenes
from resnestkit.data.segmentation.table import Segment, Segments

LABELS = [0, 1, 2, 2, 3]
"""Of five classes, of which the second, third and last are things."""


def small() -> Segments:
    """A thing of two parts, stuff, a crowd, and void; the numbers in no order."""
    numbers = torch.tensor([[900, 900, 7, 7, 30, 0], [7, 900, 7, 7, 30, 30]], dtype=torch.int32)
    listed = (
        Segment(900, 4, True),
        Segment(7, 3, False),
        Segment(30, 1, True, is_crowd=True),
    )
    return Segments(numbers, listed)


def test_places_follow_the_list() -> None:
    wanted = [[1, 1, 2, 2, 3, 0], [2, 1, 2, 2, 3, 3]]
    assert place_segments(small()).tolist() == wanted
    nothing = Segments(torch.full((2, 3), 5, dtype=torch.int32), ())
    assert not place_segments(nothing).any()


def test_beyond_what_bytes_can_tell_is_void() -> None:
    numbers = torch.arange(1, 301, dtype=torch.int32).view(10, 30)
    listed = tuple(Segment(number, 1, True) for number in range(1, 301))
    places = place_segments(Segments(numbers, listed))
    assert places.flatten()[:MOST_SEGMENTS].tolist() == list(range(1, 256))
    assert not places.flatten()[MOST_SEGMENTS:].any()
    target = make_target(places, listed, [0, 1])
    assert len(target.things.labels) == MOST_SEGMENTS


def test_things_have_boxes_and_masks_and_everything_has_its_class() -> None:
    target = make_target(place_segments(small()), small().segments, LABELS)
    assert target.things.labels.tolist() == [3]
    assert target.things.boxes.tolist() == [[0, 0, 2, 2]]
    assert target.things.masks is not None
    assert target.things.masks[0].tolist() == [[1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]
    assert target.semantic.tolist() == [[4, 4, 3, 3, 1, IGNORE], [3, 4, 3, 3, 1, 1]]
    moved = target.to_dict(torch.device("cpu"))
    assert set(moved) == {"boxes", "labels", "masks", "semantic"}


def test_a_picture_without_things() -> None:
    bare = Segments(torch.ones(4, 5, dtype=torch.int32), (Segment(1, 3, False),))
    target = make_target(place_segments(bare), bare.segments, LABELS)
    assert target.things.boxes.shape == (0, 4)
    assert target.things.masks is not None
    assert target.things.masks.shape == (0, 4, 5)
    assert (target.semantic == 3).all()


@pytest.mark.parametrize("crop", [0.0, 0.5])
def test_the_map_follows_the_picture(crop: float) -> None:
    # Each pixel of the picture says which segment is there: where it is not blurred, they agree.
    numbers = torch.zeros(40, 60, dtype=torch.uint8)
    numbers[5:30, 10:50] = 1
    numbers[20:, 30:] = 2
    picture = (100 * numbers)[None].repeat(3, 1, 1)
    augmentation = DetectionAugmentation(crop=crop, short_sides=(20, 60), max_side=200)
    transform = DetectionTransform(augmentation)
    for seed in range(8):
        torch.manual_seed(seed)
        image, places = change_together(transform, picture, numbers)
        assert image.shape[1:] == places.shape
        clear = torch.tensor([0, 100, 200], dtype=torch.uint8)
        sharp = (image[0][..., None] == clear).any(-1)
        assert sharp.float().mean() > 0.7
        # A blend of 0 and 200 may be 100 by chance.
        assert (image[0][sharp] == (100 * places)[sharp]).float().mean() > 0.98


def test_a_crop_without_any_segment_is_all_void() -> None:
    empty = torch.zeros(30, 30, dtype=torch.uint8)
    transform = DetectionTransform(DetectionAugmentation(crop=0.5, short_sides=(30,)))
    image, places = change_together(transform, torch.zeros(3, 30, 30, dtype=torch.uint8), empty)
    assert places.shape == image.shape[1:]
    assert not places.any()


def test_a_crop_is_drawn_around_a_thing() -> None:
    places = torch.zeros(100, 100, dtype=torch.uint8)
    places[:10, :10], places[20:, 20:] = 2, 1
    segments = (Segment(7, 0, False), Segment(5, 1, True), Segment(6, 1, True))
    things = find_things(places, segments)
    assert things == [2]  # the last one is nowhere
    transform = DetectionTransform(DetectionAugmentation(crop=0.2, short_sides=(50,), flip=False))
    picture = torch.zeros(3, 100, 100, dtype=torch.uint8)
    for seed in range(20):
        torch.manual_seed(seed)
        _, changed = change_together(transform, picture, places, things)
        assert (changed == 2).any()
    centres = set()
    for seed in range(20):  # of stuff alone: anywhere
        torch.manual_seed(seed)
        _, changed = change_together(transform, picture, (places == 2).byte())
        centres.add(bool((changed == 1).any()))
    assert centres == {True, False}


def test_a_training_crops_around_its_things() -> None:
    images = make_scenes(counts={"train": 6}).splits["train"]
    transform = DetectionTransform(DetectionAugmentation(crop=0.1, short_sides=(48,)))
    changed = PanopticDataset(images, THINGS, transform, seed=1)
    for index in range(6):
        sample = changed[Key(0, index)]
        assert isinstance(sample, PanopticSample)
        assert sample.target is not None
        assert len(sample.target.things.labels)


def test_samples_to_learn_and_to_measure() -> None:
    images = make_scenes(counts={"train": 3}).splits["train"]
    plain = PanopticDataset(images, THINGS)[Key(0, 1)]
    assert isinstance(plain, PanopticSample)
    assert plain.target is None
    assert plain.segments is not None
    transform = DetectionTransform(DetectionAugmentation(short_sides=(48, 64), max_side=100))
    changed = PanopticDataset(images, THINGS, transform, seed=1)
    sample, again = changed[Key(0, 1)], changed[Key(0, 1)]
    assert isinstance(sample, PanopticSample)
    assert isinstance(again, PanopticSample)
    assert torch.equal(sample.image, again.image)
    assert sample.segments is None
    assert sample.target is not None
    things = [one for one in plain.segments.segments if one.is_thing]
    assert sample.target.things.labels.tolist() == [one.label for one in things]
    assert sample.target.semantic.shape == sample.image.shape[1:]
    batch = changed.collate([sample, again])
    assert (len(batch), len(batch.targets), batch.indices) == (2, 2, [1, 1])


def test_cocos_form_is_read_as_the_scenes_it_was_written_from(tmp_path: Path) -> None:
    root = draw_panoptic_scenes(tmp_path / "scenes", {"train": 3, "val": 2})
    source = load_panoptic_source(str(root))
    assert source.things == THINGS
    drawn = make_scenes(counts={"train": 3, "val": 2}).splits["train"]
    for index in range(3):
        read, known = source.splits["train"].segments(index), drawn.segments(index)
        assert np.array_equal(read.numbers, known.numbers)
        assert set(read.segments) == set(known.segments)


@pytest.mark.parametrize(
    ("things", "said"),
    [
        ((1, 1, 1, 1), "are things; a mask_rcnn finds them"),
        ((0, 0, 0, 0), "are stuff; train a segmenter"),
    ],
    ids=["no_stuff", "no_things"],
)
def test_data_that_a_detector_or_a_segmenter_is_for(
    things: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    root = draw_panoptic_scenes(tmp_path / "scenes", {"train": 2, "val": 1}, things)
    with pytest.raises(UserError, match=said):
        load_panoptic_source(str(root))
    source = inspect_panoptic_source(str(root))
    assert [str(one) for one in source.findings if one.refused]


def test_masks_that_tell_nothing_apart(tmp_path: Path) -> None:
    root = draw_masked_scenes(tmp_path / "scenes", {"train": 2, "val": 1})
    with pytest.raises(UserError, match="and not one thing from the next"):
        load_panoptic_source(str(root))
