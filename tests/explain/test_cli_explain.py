"""The command as a user types it: one page, pictures, numbers, and one sentence where it fails."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from explained import CLASSES, draw_pictures, make_detector, make_segmenter, save_net
from PIL import Image

from resnestkit import save_detector, save_segmenter

Run = Callable[..., tuple[int, str, str]]


class Links(HTMLParser):
    """What a page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, and pictures in class folders."""
    root = tmp_path_factory.mktemp("made")
    save_net(root / "net.safetensors")
    draw_pictures(root / "pictures", 6)
    return root


def test_one_image_gives_one_self_contained_page(made: Path, run: Run, tmp_path: Path) -> None:
    image, out = made / "pictures/cat/0.png", tmp_path / "out"
    code, said, err = run("explain", made / "net.safetensors", image, "--out", out)
    assert code == 0, err
    for word in ("class  ", "attention   split attention in 7 blocks", "strongest", "weakest"):
        assert word in said
    page = (out / "report.html").read_text()
    links = Links(page)
    assert len(links.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in links.sources)
    assert not {"script", "link", "iframe"} & set(links.tags)
    assert not re.search(r"https?://", page)
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page
    names = {path.name for path in out.iterdir()}
    pictures = {f"0.{one}.png" for one in ("activation", "attention", "looks", "forced")}
    assert names == pictures | {"report.html", "explain.json"}
    for name in pictures:
        with Image.open(out / name) as drawn:
            assert np.asarray(drawn).std() > 5
    numbers = json.loads((out / "explain.json").read_text())
    assert (numbers["kind"], numbers["net"], numbers["folder"]) == (
        "classifier", "resnest23_small", None,
    )  # fmt: skip
    (one,) = numbers["images"]
    assert len(one["blocks"]) == 7
    assert len(one["blocks"][0]["effects"]) == len(one["all_blocks"]) == 3
    weights = np.array(one["blocks"][0]["weights"])
    assert np.allclose(weights.sum(1), 1, atol=1e-5)


def test_a_folder_gives_statistics_and_named_files_their_own_part(
    made: Path, run: Run, tmp_path: Path
) -> None:
    net, pictures = made / "net.safetensors", made / "pictures"
    code, said, err = run("explain", net, pictures, "--output", tmp_path / "a")
    assert code == 0, err
    assert "12, by the class of their folder" in said
    assert "switching" in said
    numbers = json.loads((tmp_path / "a/explain.json").read_text())
    assert numbers["images"] == []
    assert numbers["folder"]["counts"] == {"cat": 6, "dog": 6}
    named = [pictures / "cat/1.png", pictures / "dog/1.png"]
    words = ["--block", "layer3.1", "--class", "fish"]
    code, said, err = run("explain", net, *named, "--output", tmp_path / "b", *words)
    assert code == 0, err
    numbers = json.loads((tmp_path / "b/explain.json").read_text())
    assert [one["class"] for one in numbers["images"]] == ["fish", "fish"]
    assert [one["block"] for one in numbers["folder"]["blocks"]] == ["layer3.1"]
    written = {path.name for path in (tmp_path / "b").glob("*.png")}
    assert {"1.looks.png", "1-2.looks.png", "all.depth.png"} <= written
    page = (tmp_path / "b/report.html").read_text()
    assert page.count("1.png: What each split looks at") >= 2


def test_other_gates_and_plain_nets(made: Path, run: Run, tmp_path: Path) -> None:
    image = made / "pictures/cat/0.png"
    for name, said in (
        ("seresnet23_small", "squeeze-and-excitation"),
        ("sknet23_small", "selective"),
    ):
        net = save_net(tmp_path / f"{name}.safetensors", name)
        code, out, err = run("explain", net, image, made / "pictures", "--out", tmp_path / name)
        assert (code, said in out) == (0, True), err
    net = save_net(tmp_path / "plain.safetensors", "resnet23_small")
    code, out, err = run("explain", net, made / "pictures", "--out", tmp_path / "plain")
    assert (code, "A resnet23_small has no attention" in out) == (0, True), err
    assert len(list((tmp_path / "plain").glob("*.activation.png"))) == 8
    assert not list((tmp_path / "plain").glob("*.attention.png"))


def test_detectors_and_segmenters(made: Path, run: Run, tmp_path: Path) -> None:
    save_detector(make_detector(), tmp_path / "detector.safetensors", CLASSES)
    save_segmenter(make_segmenter(), tmp_path / "segmenter.safetensors", CLASSES)
    image = made / "pictures/cat/0.png"
    for kind in ("detector", "segmenter"):
        out, file = tmp_path / kind, tmp_path / f"{kind}.safetensors"
        code, said, err = run("explain", file, image, made / "pictures/dog", "--out", out)
        assert code == 0, err
        assert "split attention in 4 blocks" in said
        numbers = json.loads((out / "explain.json").read_text())
        assert (numbers["kind"], numbers["folder"]["images"]) == (kind, 7)
        assert (out / "0.activation.png").exists()
        assert "No activation map" not in (out / "report.html").read_text()


def test_what_is_wrong_is_one_sentence(made: Path, run: Run, tmp_path: Path) -> None:
    net, image = made / "net.safetensors", made / "pictures/cat/0.png"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "file").write_text("")
    out = ["--out", tmp_path / "out"]
    for words, said in (
        ([net], "Give the images"),
        ([net, tmp_path / "bad.jpg", *out], "bad.jpg: not an image"),
        ([net, tmp_path / "empty", *out], "no images in"),
        ([net, image, "--block", "layer3.7", *out], "no block with attention called 'layer3.7'"),
        ([net, image, "--class", "cow", *out], "no class 'cow'"),
        ([net, made / "pictures", "--class", "cat", *out], "--class is for images"),
        ([net, image, "--out", tmp_path / "file"], "Cannot make the folder"),
        ([net, made / "pictures", "--out", made], "give another --output"),
        ([tmp_path / "none.safetensors", image, *out], "There is no checkpoint"),
        ([image, image, *out], str(image)),
        ([made / "net.xml", image, *out], "give the checkpoint that it was made of"),
    ):
        code, _, err = run("explain", *words)
        assert (code, said in err, err.count("\n")) == (2, True, 1), err
        assert "should not happen" not in err
    folder = tmp_path / "some"
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    code, said, err = run("explain", net, folder, *out)
    assert (code, "bad.png" in err, "images      1," in said) == (1, True, True), err
    numbers = json.loads((tmp_path / "out/explain.json").read_text())
    assert sum(numbers["folder"]["counts"].values()) == 1
