"""Tar shards: every sample once, whatever reads them; what is wrong in one is named."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from packing import picture, samples, write_tar

from resnestkit.data import shards as shards_module
from resnestkit.data.augmentation import Augmentation, TrainingTransform
from resnestkit.data.check import check_images, refuse_unreadable
from resnestkit.data.loaders import Batches, EpochSampler, InOrder, TransformedImages
from resnestkit.data.packed import load_packed
from resnestkit.data.shards import index_shard
from resnestkit.data.sources import TrainedOn, load_for_evaluation, load_source
from resnestkit.data.transforms import EvaluationTransform
from resnestkit.errors import UserError
from resnestkit.preprocessing import Preprocessing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three training shards of 8 images, whose keys start over in each, and one of 4 for val."""
    for number in range(3):
        write_tar(tmp_path / "s" / f"train-{number:06}.tar", samples(range(8)))
    write_tar(tmp_path / "s" / "val-000000.tar", samples(range(4)))
    return tmp_path / "s"


def test_shards_are_splits_with_classes(folder: Path) -> None:
    source = load_source(str(folder))
    assert {split: len(images) for split, images in source.splits.items()} == {
        "train": 24,
        "val": 4,
    }
    train = source.splits["train"]
    assert source.classes == ("0", "1")
    assert train.labels == [0, 1] * 12
    assert len(set(train.names)) == 24
    assert [int(train.read(i).float().mean()) // 3 for i in range(8)] == list(range(8))
    assert train.names[9] == str(folder / "train-000001.tar" / "0001.jpg")


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_sample_once_an_epoch(folder: Path, ranks: int) -> None:
    images = load_source(str(folder)).splits["train"]
    transform = TrainingTransform(Preprocessing(8, 1.0), Augmentation())
    seen: list[int] = []
    for rank in range(ranks):
        dataset = TransformedImages(images, transform, seed=1)
        sampler = EpochSampler(len(images), 4, 1, rank=rank, ranks=ranks)
        for batch in Batches(dataset, sampler, workers=2):
            assert batch.labels.tolist() == [images.labels[i] for i in batch.indices]
            seen += batch.indices
    assert sorted(seen) == list(range(24))


def test_an_epoch_goes_on_midway(folder: Path) -> None:
    images = load_source(str(folder)).splits["train"]
    transform = TrainingTransform(Preprocessing(8, 1.0), Augmentation())
    sampler = EpochSampler(len(images), 4, 1)
    batches = Batches(TransformedImages(images, transform, seed=1), sampler, workers=0)
    whole = list(batches)
    sampler.set_position(0, 4)
    for one, other in zip(batches, whole[4:], strict=True):
        assert torch.equal(one.images, other.images)
        assert one.indices == other.indices


def test_corrupt_members_are_counted_and_named(folder: Path) -> None:
    broken = [("0008.jpg", picture(8)[:200]), ("0008.cls", b"1")]
    write_tar(folder / "train-000003.tar", [*samples(range(4)), *broken])
    images = load_source(str(folder)).splits["train"]
    checked = check_images(images, cache_bytes=0)
    with pytest.raises(UserError, match=r"1 of 29 .*train-000003\.tar/0008\.jpg: damaged or trunc"):
        refuse_unreadable([checked])
    assert len(checked.images) == 28
    dataset = TransformedImages(checked.images, EvaluationTransform(Preprocessing(8, 1.0)), None)
    assert sum(len(batch.indices) for batch in Batches(dataset, InOrder(28, 5), workers=1)) == 28


def test_a_shard_cut_short_is_refused_by_name(folder: Path) -> None:
    shard = folder / "train-000001.tar"
    whole = shard.read_bytes()
    # In a header, in an image, after a member, and before the end marker.
    for length in (700, 512 + 100, 1536, 512 * (len(whole) // 1024), 1000, 0):
        shard.write_bytes(whole[:length])
        with pytest.raises(
            UserError, match=r"train-000001\.tar (is cut short|is damaged|has an im)"
        ):
            load_source(str(folder))
    shard.write_bytes(whole + whole)
    with pytest.raises(UserError, match="several tar files in one"):
        load_source(str(folder))


def test_a_shard_that_shrank_since_is_named(folder: Path) -> None:
    images = load_source(str(folder)).splits["val"]
    os.truncate(folder / "val-000000.tar", 1024)
    with pytest.raises(UserError, match=r"val-000000\.tar/0003\.jpg: the shard ends before it"):
        images.read(3)


def test_the_index_is_kept_and_follows_the_shard(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = folder / "val-000000.tar"
    first = index_shard(shard)
    with monkeypatch.context() as patched:
        patched.setattr(shards_module, "_collect", lambda _shard: pytest.fail("read again"))
        assert index_shard(shard) == first
    write_tar(shard, samples(range(6)))
    assert len(index_shard(shard)) == 6
    (folder / f".{shard.name}.index.json").write_text("{")
    assert len(index_shard(shard)) == 6
    assert sorted(folder.glob(".*.index.json.*")) == []


def test_a_folder_that_cannot_be_written_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert len(index_shard(folder / "val-000000.tar")) == 4


def test_grey_and_other_kinds_and_labels_in_json(tmp_path: Path) -> None:
    members = [
        ("a.b/1.png", picture(1, "PNG", grey=True)),
        ("a.b/1.json", b'{"label": "cat", "more": 1}'),
        ("a.b/2.JPG", picture(2, grey=True)),
        ("a.b/2.json", b'{"label": "dog"}'),
        ("a.b/2.txt", b"a caption"),
        ("__info__", b""),
    ]
    write_tar(tmp_path / "x.tar", members)
    packed = load_packed(str(tmp_path), 1)
    assert packed is not None
    assert packed.classes == ("cat", "dog")
    images = packed.splits["all"]
    assert [images.read(i).shape for i in range(2)] == [(1, 20, 30)] * 2
    packed = load_packed(str(tmp_path), 3)
    assert packed is not None
    assert packed.splits["all"].read(1).shape == (3, 20, 30)


def test_names_of_classes_beside_the_shards(folder: Path) -> None:
    (folder / "classes.txt").write_text("cat\ndog\n")
    assert load_source(str(folder)).classes == ("cat", "dog")
    write_tar(folder / "val-000001.tar", [("1.jpg", picture(1)), ("1.cls", b"dog")])
    assert load_source(str(folder)).splits["val"].labels[-1] == 1
    write_tar(folder / "val-000001.tar", [("1.jpg", picture(1)), ("1.cls", b"2")])
    with pytest.raises(
        UserError, match=r"val-000001\.tar/1\.jpg is of class '2', which is none of"
    ):
        load_source(str(folder))


def test_layouts(tmp_path: Path, folder: Path) -> None:
    write_tar(tmp_path / "f" / "train" / "0.tar", samples(range(6)))
    write_tar(tmp_path / "f" / "validation" / "0.tar", samples(range(2)))
    assert set(load_source(str(tmp_path / "f")).splits) == {"train", "val"}
    lone = load_source(str(folder / "train-*.tar"), seed=2)
    assert lone.held_out == 0.2
    assert len(lone.splits["train"]) + len(lone.splits["val"]) == 24
    with pytest.raises(UserError, match=r"No \.tar file matches"):
        load_source(str(folder / "nothing-*.tar"))
    with pytest.raises(UserError, match="no train split"):
        load_source(str(folder / "val-*.tar"))
    write_tar(folder / "more.tar", samples(range(2)))
    with pytest.raises(UserError, match=r"more\.tar names no split"):
        load_source(str(folder))


def test_class_folders_beside_the_archives_they_came_from_stay_folders(colours: Path) -> None:
    write_tar(colours / "red.tar", [("1.png", picture(1, "PNG"))])
    assert load_source(str(colours)).classes == ("blue", "green", "red")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("1.jpg", picture(1))], "an image 1 without its class"),
        ([("1.jpg", b"x"), ("1.png", b"x"), ("1.cls", b"0")], "two images of key 1"),
        ([("1.jpg", b"x"), ("1.json", b"{")], r"no readable label in 1\.json"),
        ([("1.cls", b"0")], "hold no images"),
        (samples([0, 2]), "one class"),
    ],
)
def test_what_is_wrong_with_a_shard_is_said(
    tmp_path: Path, members: list[tuple[str, bytes]], words: str
) -> None:
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(UserError, match=words):
        load_source(str(tmp_path))


def test_evaluation_takes_shards(folder: Path) -> None:
    source = load_source(str(folder))
    trained = TrainedOn(source.origin, source.fingerprint, source.held_out, 0)
    images, words = load_for_evaluation(str(folder), 3, ("1", "0"), trained)
    assert images.labels == [1, 0] * 2
    assert words == f"val split of {folder}"
    lone = load_source(str(folder / "train-*.tar"), seed=2)
    trained = TrainedOn(lone.origin, lone.fingerprint, lone.held_out, 2)
    images, words = load_for_evaluation(lone.origin, 3, lone.classes, trained)
    assert images.names == lone.splits["val"].names
    assert "held-out" in words
    with pytest.raises(UserError, match="does not know: '1'"):
        load_for_evaluation(str(folder), 3, ("0", "2"), trained)


def test_shards_travel_to_processes_that_do_not_fork(folder: Path) -> None:
    images = load_source(str(folder)).splits["val"]
    assert torch.equal(pickle.loads(pickle.dumps(images)).read(2), images.read(2))
