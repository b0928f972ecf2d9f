"""The scenes that are made on the fly: the shapes of detection, as masks."""

import torch

from resnestkit.data.detection.shapes import make_shapes
from resnestkit.data.segmentation.scenes import CLASSES, THINGS, make_scenes
from resnestkit.data.segmentation.sources import load_segmentation_source

COUNTS = {"train": 6, "val": 4}


def test_scenes_are_the_shapes_of_detection() -> None:
    scenes, shapes = make_scenes(counts=COUNTS), make_shapes(counts=COUNTS)
    assert scenes.classes[1:] == shapes.classes
    for split, count in COUNTS.items():
        ours, theirs = scenes.splits[split], shapes.splits[split]
        assert len(ours) == len(theirs) == count
        for index in range(count):
            assert torch.equal(ours.read(index), theirs.read(index))
            target = theirs.annotations(index).target(masks=True)
            mask, segments = ours.mask(index), ours.segments(index)
            assert target.masks is not None
            for number, (label, shape) in enumerate(zip(target.labels, target.masks, strict=True)):
                assert (mask[shape.bool()] == label).all()
                assert torch.equal(segments.numbers == number + 1, shape.bool())
            assert torch.equal(mask == 0, target.masks.sum(0) == 0)


def test_every_pixel_has_a_segment_of_its_class() -> None:
    images = make_scenes(counts=COUNTS).splits["train"]
    for index in range(len(images)):
        mask, segments = images.mask(index), images.segments(index)
        numbers = [one.number for one in segments.segments]
        assert sorted(segments.numbers.unique().tolist()) == sorted(numbers)
        assert segments.numbers.dtype == torch.int32
        for one in segments.segments:
            assert (mask[segments.numbers == one.number] == one.label).all()
            assert one.is_thing == THINGS[one.label]
            assert not one.is_crowd


def test_pictures_may_be_grey_and_follow_the_seed() -> None:
    grey = make_scenes(1, {"val": 1}).splits["val"]
    assert grey.read(0).shape[0] == 1
    other = make_scenes(1, {"val": 1}, seed=1).splits["val"]
    assert grey.read(0).shape != other.read(0).shape or not torch.equal(grey.read(0), other.read(0))


def test_the_source_is_as_any_other() -> None:
    source = load_segmentation_source("scenes")
    assert source.classes == CLASSES
    assert source.things == THINGS
    assert source.findings == ()
    assert source.held_out is None
    assert source.palette[0] == (0, 0, 0)
    images = source.splits["val"]
    assert images.has_segments
    assert images.subset([5, 3]).mask(1).tolist() == images.mask(3).tolist()
