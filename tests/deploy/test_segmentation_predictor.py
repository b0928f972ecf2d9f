"""A segmenter's checkpoint that answers: whole, by tiles, by scales; and the files it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from resnestkit import create_segmenter, save_segmenter
from resnestkit.data.images import UnreadableImage, read_image
from resnestkit.data.pictures import Picture, open_picture
from resnestkit.data.transforms import normalise
from resnestkit.deploy.drawings import is_ours, leave_out_drawings
from resnestkit.deploy.overlays import MaskFolder, draw_overlay, mask_image
from resnestkit.deploy.segmentation_predictor import Segmentation, SegmentationPredictor
from resnestkit.deploy.tiles import Tiling, best_class, resize_labels
from resnestkit.errors import UserError
from resnestkit.segmentation.segmenter import Segmenter
from resnestkit.segmentation.spec import Kind, SegmentationSettings

CLASSES = ("road", "sky", "Bäume")
COLOURS = ((10, 20, 30), (200, 0, 0), (0, 0, 250))
NARROW = SegmentationSettings(channels=64, unet_channels=(16, 16, 8, 8, 8))
REACH = 48
"""Pixels that the U-Net below looks around at most."""


def make(kind: Kind, net: str) -> Segmenter:
    """Of random weights, with norms that let every layer be seen."""
    torch.manual_seed(0)
    model = create_segmenter(kind, net, len(CLASSES), settings=NARROW, auxiliary=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    model.head_is_new = False
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net on a net without attention: it sees nothing but its surroundings."""
    path = tmp_path_factory.mktemp("net") / "unet.safetensors"
    save_segmenter(make("unet", "resnet23_small"), path, CLASSES, palette=COLOURS)
    return path


def draw(path: Path, height: int, width: int) -> Path:
    """Clouds of colour."""
    small = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def score(model: Segmenter, image: Tensor) -> Tensor:
    with torch.inference_mode():
        scores: Tensor = model(normalise(image[None], model.preprocessing))[0].softmax(0)
    return scores


def test_a_small_image_is_seen_whole(checkpoint: Path, tmp_path: Path) -> None:
    predictor = SegmentationPredictor(checkpoint, "cpu")
    assert str(predictor.protocol) == "single scale"
    path = draw(tmp_path / "a.png", 37, 50)
    (found,) = predictor.predict([path])
    right = best_class(score(predictor.model, read_image(path)))
    assert np.array_equal(found.labels, right)
    assert (found.labels.dtype, found.seen, found.image) == (np.uint8, "whole", str(path))
    assert sum(found.shares.values()) == pytest.approx(1)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    most = next(iter(found.shares))
    assert found.shares[most] == pytest.approx(np.mean(right == CLASSES.index(most)))
    assert found.to_dict()["width"] == 50


def test_tiles_give_what_the_whole_gives_where_the_net_sees_no_farther(
    checkpoint: Path, tmp_path: Path
) -> None:
    predictor = SegmentationPredictor(checkpoint, "cpu")
    picture = open_picture(draw(tmp_path / "a.png", 160, 160))
    whole = score(predictor.model, picture.read(0, 0, 160, 160))
    # Away from a cut edge, a tile's probabilities are the whole image's ...
    tile = score(predictor.model, picture.read(0, 32, 128, 160))
    inside = tile[:, : 128 - REACH, REACH:]
    error = (inside - whole[:, : 128 - REACH, 32 + REACH :]).abs().max()
    assert error < 1e-5
    assert (tile - whole[:, :128, 32:]).abs().max() > 1e-3
    # ... and so are the labels of all of it, but where two classes are as good as equal.
    tiling = Tiling(128, 96, 0)
    assert (tiling.overlap - tiling.ramp) // 2 >= REACH
    labels = predictor.label_tiles(picture, tiling)
    best = whole.topk(2, dim=0).values
    sure = (best[0] - best[1] > 1e-4).numpy()
    assert sure.mean() > 0.99
    assert np.array_equal(labels[sure], best_class(whole)[sure])
    assert len(np.unique(labels)) > 1


def test_tiles_as_they_are_chosen_give_what_the_whole_gives(
    checkpoint: Path, tmp_path: Path
) -> None:
    picture = open_picture(draw(tmp_path / "a.png", 64, 736))
    predictor = SegmentationPredictor(checkpoint, "cpu", tile=512)
    labels, tiling = predictor.segment(picture)
    assert tiling is not None
    assert (tiling.overlap - tiling.ramp) // 2 >= REACH
    whole = score(predictor.model, picture.read(0, 0, 64, 736))
    best = whole.topk(2, dim=0).values
    sure = (best[0] - best[1] > 1e-4).numpy()
    assert sure.mean() > 0.99
    assert np.array_equal(labels[sure], best_class(whole)[sure])


def test_bfloat16_is_near(checkpoint: Path, tmp_path: Path) -> None:
    picture = open_picture(draw(tmp_path / "a.png", 96, 128))
    exact, near = (
        SegmentationPredictor(checkpoint, "cpu", precision=precision).segment(picture)[0]
        for precision in ("float32", "bfloat16")
    )
    assert 0.9 < np.mean(exact == near) < 1


def test_a_net_that_pools_over_all_it_sees_is_near_the_whole_at_best() -> None:
    model = make("deeplabv3", "resnest14")
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    whole = score(model, image)
    tile = score(model, image[:, :, :64])
    difference = (tile - whole[:, :, :64]).abs()
    assert difference.max() > 1e-3
    assert difference[:, :, :32].mean() < difference[:, :, 32:].mean()


def test_a_side_of_tiles_is_obeyed_and_said(checkpoint: Path, tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png", 40, 100)
    (tiled,) = SegmentationPredictor(checkpoint, "cpu", tile=64).predict([path])
    (whole,) = SegmentationPredictor(checkpoint, "cpu", tile=0).predict([path])
    assert (tiled.seen, whole.seen) == ("tiles of 64", "whole")
    assert tiled.tiling == Tiling(64, 32, 8)
    assert 0.8 < np.mean(tiled.labels == whole.labels) <= 1


def test_scales_mirroring_and_windows_are_those_of_an_evaluation(
    checkpoint: Path, tmp_path: Path
) -> None:
    picture = open_picture(draw(tmp_path / "a.png", 40, 72))
    predictor = SegmentationPredictor(checkpoint, "cpu", (0.5, 1.0), flip=True, windows=48)
    assert str(predictor.protocol) == ("2 scales from 0.5 to 1, mirrored, windows of 48 pixels")
    labels, tiling = predictor.segment(picture)
    assert (labels.shape, tiling) == ((40, 72), None)
    single, _ = SegmentationPredictor(checkpoint, "cpu").segment(picture)
    assert 0.5 < np.mean(labels == single) < 1


def test_an_image_that_was_measured_resized_is_resized_once_for_all_tiles(
    checkpoint: Path, tmp_path: Path
) -> None:
    predictor = SegmentationPredictor(checkpoint, "cpu", tile=64)
    predictor.protocol = type(predictor.protocol)(side=50)
    picture = open_picture(draw(tmp_path / "a.png", 160, 200))
    labels, tiling = predictor.segment(picture)
    assert tiling is None, "it fits into one then"
    small = picture.resize(40, 50)
    right = best_class(score(predictor.model, small.read(0, 0, 40, 50)))
    assert np.array_equal(labels, resize_labels(right, 160, 200))


def test_a_predictor_refuses_what_makes_no_sense(checkpoint: Path, tmp_path: Path) -> None:
    for options, words in (
        ({"tile": 20}, "--tile is 20"),
        ({"max_megapixels": 0}, "--max-megapixels is 0; it must be above 0"),
        ({"max_megapixels": float("inf")}, "--max-megapixels is inf"),
        ({"scales": (0.0,)}, "--scales is 0"),
    ):
        with pytest.raises(UserError, match=words):
            SegmentationPredictor(checkpoint, "cpu", **options)
    untrained = make("fcn", "resnet23_small")
    untrained.head_is_new = True
    save_segmenter(untrained, tmp_path / "new.safetensors")
    with pytest.raises(UserError, match="never trained"):
        SegmentationPredictor(tmp_path / "new.safetensors", "cpu")


def test_images_that_cannot_be_read_are_left_out_or_raised(
    checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "words.jpg").write_text("no image")
    paths = [draw(tmp_path / "a.png", 9, 8), tmp_path / "words.jpg", draw(tmp_path / "b.png", 1, 1)]
    predictor = SegmentationPredictor(checkpoint, "cpu", max_megapixels=0.000072)
    unreadable: list[UnreadableImage] = []
    found = [one.image for one, _ in predictor.iterate(paths, unreadable)]
    assert found == [str(paths[0]), str(paths[2])]
    assert [error.reason for error in unreadable] == ["not an image"]
    with pytest.raises(UnreadableImage, match="not an image"):
        predictor.predict(paths)
    large = draw(tmp_path / "c.png", 9, 9)
    with pytest.raises(UnreadableImage, match="too many pixels to be safe"):
        predictor.predict([large])


def test_mask_overlay_and_legend_are_written(checkpoint: Path, tmp_path: Path) -> None:
    predictor = SegmentationPredictor(checkpoint, "cpu")
    path = draw(tmp_path / "a.jpg", 37, 50)
    folder = MaskFolder(tmp_path / "out", [path], predictor.card.classes, predictor.colours)
    ((found, picture),) = predictor.iterate([path])
    written = folder.write(found.image, found.labels, picture)
    assert written.mask == tmp_path / "out/a.png"
    assert {one.name for one in (tmp_path / "out").iterdir()} == {
        *("a.png", "a.overlay.png", "legend.png", "legend.json")
    }
    with Image.open(written.mask) as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), found.labels)
        coloured = np.asarray(mask.convert("RGB"))
    assert np.array_equal(coloured, np.array(COLOURS, np.uint8)[found.labels])
    legend = json.loads((tmp_path / "out/legend.json").read_text(encoding="utf-8"))
    assert [(row["index"], row["name"], tuple(row["colour"])) for row in legend["classes"]] == [
        (index, *row) for index, row in enumerate(zip(CLASSES, COLOURS, strict=True))
    ]
    with Image.open(tmp_path / "out/legend.png") as drawn:
        there = {colour for _, colour in drawn.getcolors(drawn.width * drawn.height) or []}
    assert set(COLOURS) <= there


def test_files_replace_their_like_alone(tmp_path: Path) -> None:
    labels = np.zeros((4, 5), np.uint8)
    image = tmp_path / "a.png"
    Image.new("RGB", (5, 4), "red").save(image)
    (tmp_path / "b.overlay.png").write_bytes(b"somebody's")
    (tmp_path / "legend.json").write_text("{}")
    picture = open_picture(image)
    for _ in range(2):
        folder = MaskFolder(tmp_path, [image], CLASSES, COLOURS)
        names = [
            folder.write(name, labels, picture) for name in ("a.png", "x/b.png", "y/legend.jpg")
        ]
        assert [(one.mask.name, one.overlay.name) for one in names] == [
            ("a-2.png", "a-2.overlay.png"),
            ("b-2.png", "b-2.overlay.png"),
            ("legend.png", "legend.overlay.png"),
        ]
    assert open_picture(image).read(0, 0, 1, 1).flatten().tolist() == [255, 0, 0]
    assert (tmp_path / "legend.json").read_text() == "{}"
    assert is_ours(tmp_path / "legend-2.json")
    made = [path for path in sorted(tmp_path.iterdir()) if is_ours(path)]
    assert leave_out_drawings([*made, image]) == [image]
    with pytest.raises(UserError, match="is a drawing"):
        leave_out_drawings(made)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot make the folder"):
        MaskFolder(tmp_path / "file" / "out", [], CLASSES, COLOURS)


def test_a_large_overlay_is_made_smaller_and_the_mask_is_not(tmp_path: Path) -> None:
    picture = Picture(Image.new("RGB", (6000, 900), "white"))
    labels = np.zeros((900, 6000), np.uint8)
    labels[:, 3000:] = 1
    overlay = draw_overlay(picture, labels, COLOURS)
    assert overlay.shape == (614, 4096, 3)
    assert len(np.unique(overlay[:, :2000].reshape(-1, 3), axis=0)) == 1
    left, right = overlay[0, 0].astype(int), overlay[0, -1].astype(int)
    assert right[0] > left[0] + 50
    labels = np.zeros((2100, 2000), np.uint8)
    folder = MaskFolder(tmp_path, [], CLASSES, COLOURS)
    written = folder.write("wide.tif", labels, Picture(Image.new("L", (2000, 2100))))
    assert (written.mask.name, written.overlay.name) == ("wide.png", "wide.overlay.jpg")
    assert is_ours(written.overlay)
    with Image.open(written.mask) as mask:
        assert mask.size == (2000, 2100)


def test_more_classes_than_a_byte_counts_are_sixteen_bits(tmp_path: Path) -> None:
    labels = np.array([[0, 299]], np.uint16)
    mask_image(labels, ()).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as mask:
        assert np.array_equal(np.asarray(mask), labels)
    shares = Segmentation("a", labels, tuple(map(str, range(300)))).shares
    assert shares == {"0": 0.5, "299": 0.5}
