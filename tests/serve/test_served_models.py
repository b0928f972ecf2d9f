"""What is served answers as the predictors do, whatever the file; and goes on without it."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from exported_files import save_tiny_net, write_colour_net
from pictures import COLOURS, draw_class_folders
from PIL import Image
from running_services import Running, picture, serving, to_base64, to_form

from resnestkit import Predictor, create_detector, create_segmenter, save_detector, save_segmenter
from resnestkit.data.detection.rle import decode_rle
from resnestkit.deploy.detection_predictor import DetectionPredictor
from resnestkit.deploy.segmentation_predictor import SegmentationPredictor
from resnestkit.errors import UserError
from resnestkit.preprocessing import Preprocessing
from resnestkit.serve.batching import Batcher
from resnestkit.serve.models import Options, Work, open_model
from resnestkit.serve.running import TOKEN
from resnestkit.serve.schemas import Detected, Explained
from resnestkit.serve.torch_models import OneByOne
from resnestkit.serve.uploads import Upload

Run = Callable[..., tuple[int, str, str]]

SCRIPT = "from resnestkit.cli import main; import sys; main(sys.argv[1:])"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ResNeSt, a net in both forms for export, and images of blue, green and red."""
    folder = tmp_path_factory.mktemp("served")
    draw_class_folders(folder / "colours", 2)
    save_tiny_net(folder / "net.safetensors", Preprocessing(size=24))
    write_colour_net(folder / "net.xml")
    write_colour_net(folder / "net.onnx", batch=4, dynamic=False)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that a camera says is turned."""
    path = tmp_path_factory.mktemp("photo") / "turned.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("name", ["net.safetensors", "net.xml", "net.onnx"])
def test_a_served_classifier_answers_as_the_predictor_does(
    folder: Path, photo: Path, name: str
) -> None:
    paths = [*sorted((folder / "colours").rglob("*.png")), photo]
    expected = Predictor(folder / name, "cpu", 1).predict(paths, top=2)
    with serving(open_model(folder / name, "cpu", 1)) as service:
        answer = service.send(*[path.read_bytes() for path in paths], path="/predict?top=2")
        alone = [service.send(path.read_bytes()).json["results"][0] for path in paths]
    assert answer.status == 200, answer.content
    for found, one, wanted in zip(answer.json["results"], alone, expected, strict=True):
        assert [g["label"] for g in found["guesses"]] == [g.label for g in wanted.guesses]
        scores = [g["score"] for g in found["guesses"]]
        assert scores == pytest.approx([g.score for g in wanted.guesses], abs=1e-5)
        assert len(one["guesses"]) == len(COLOURS)
        assert one["guesses"][0]["score"] == pytest.approx(scores[0], abs=1e-5)


@pytest.mark.parametrize("name", ["net.safetensors", "net.xml", "net.onnx"])
def test_a_file_that_is_cut_off_changes_no_answer(folder: Path, tmp_path: Path, name: str) -> None:
    for part in folder.glob("net.*"):
        (tmp_path / part.name).write_bytes(part.read_bytes())
    image = (folder / "colours/red/00.png").read_bytes()
    with serving(open_model(tmp_path / name, "cpu", 1)) as service:
        before = service.send(image)
        assert service.get("/model").json["changed"] is False
        for part in tmp_path.glob("net.*"):
            os.truncate(part, 10)
        assert service.send(image).json == before.json
        assert service.get("/model").json["changed"] is True


def test_a_checkpoint_is_explained_and_an_exported_file_says_why_not(folder: Path) -> None:
    image = (folder / "colours/green/01.png").read_bytes()
    with serving(open_model(folder / "net.safetensors", "cpu", 1)) as service:
        before = service.send(image).json
        found = service.send(image, path="/explain").json
        assert service.send(image).json == before
        assert found["label"] == before["results"][0]["guesses"][0]["label"]
        assert [block["block"] for block in found["blocks"]] == ["layer1.0", "layer2.0"]
        for block in found["blocks"]:
            assert np.sum(block["weights"]) == pytest.approx(len(block["weights"]), abs=1e-4)
            assert {_open(map_).mode for group in block["maps"] for map_ in group} == {"RGBA"}
            assert len(block["effects"]) == 3
            assert block["branch"] == "split"
        assert [one["value"] for one in found["everywhere"]] == [0, 0.5, 1]
        assert (found["note"], _open(found["picture"]).size) == ("", (24, 24))
        named = service.send_json(to_base64(image), path="/explain?target=blue").json
        assert named["label"] == "blue"
        unknown = service.send(image, path="/explain?target=bleu")
        assert (unknown.status, "Did you mean blue?" in unknown.error) == (422, True)
        assert service.send(b"nothing", path="/explain").status == 415
        assert service.send(picture()[:50], path="/explain").status == 422
    with serving(open_model(folder / "net.xml", "cpu", 1)) as service:
        answer = service.send(image, path="/explain")
        assert (answer.status, "serve the checkpoint" in answer.error) == (404, True)
        assert service.get("/model").json["why_not"] == answer.error


def _open(content: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_served_detector_finds_what_the_predictor_finds(tmp_path: Path, photo: Path) -> None:
    torch.manual_seed(0)
    small = {"norm": "group", "min_size": 64, "max_size": 96, "fpn_channels": 32}
    model = create_detector("mask_rcnn", "resnest14", classes=2, **small)
    model.head_is_new = False
    names = ["cell", "wall"]
    save_detector(model, tmp_path / "net.safetensors", names, {"threshold": 0.05})
    (expected,) = DetectionPredictor(tmp_path / "net.safetensors", "cpu").predict([photo])
    with serving(open_model(tmp_path / "net.safetensors", "cpu")) as service:
        (found,) = service.send(photo.read_bytes()).json["results"]
        assert (found["width"], found["height"]) == (48, 80)
        assert len(found["objects"]) == len(expected.objects) > 0
        for ours, wanted in zip(found["objects"], expected.objects, strict=True):
            assert ours["label"] == wanted.label
            assert ours["score"] == pytest.approx(wanted.score, abs=1e-4)
            assert ours["box"] == pytest.approx(wanted.box, abs=0.1)
            assert wanted.mask is not None
            assert np.mean(decode_rle(ours["mask"]) != decode_rle(wanted.mask)) < 0.01
        # The shorter side would be 64, but the longer is 96 at most; and 64 x 96 are padded to.
        _is_explained(service, photo, (57, 96))
        _refuses_bad_images(service)
    with pytest.raises(UserError, match="--precision is for classifiers"):
        open_model(tmp_path / "net.safetensors", precision="bfloat16")


def test_a_served_segmenter_says_what_the_predictor_says(tmp_path: Path, photo: Path) -> None:
    torch.manual_seed(0)
    model = create_segmenter("fcn", "resnest14", classes=3, norm="group")
    model.head_is_new = False
    path = tmp_path / "net.safetensors"
    save_segmenter(model, path, ["sky", "road", "tree"], palette=[(0, 0, 9), (9, 0, 0), (0, 9, 0)])
    (expected,) = SegmentationPredictor(path, "cpu").predict([photo])
    with serving(open_model(path, "cpu")) as service:
        (found,) = service.send(photo.read_bytes()).json["results"]
        assert np.mean(np.asarray(_open(found["mask"])) != expected.labels) < 0.001
        shares = {one["label"]: one["share"] for one in found["shares"]}
        assert shares == pytest.approx(expected.shares, abs=0.001)
        colours = {one["label"]: one["colour"] for one in found["shares"]}
        assert colours.items() <= {"sky": "#000009", "road": "#090000", "tree": "#000900"}.items()
        _is_explained(service, photo, (48, 80))
        _refuses_bad_images(service)


def _refuses_bad_images(service: Running) -> None:
    assert service.send(b"hello").status == 415
    assert service.send(picture(form="JPEG")[:-40]).status in {200, 422}
    assert service.send(picture(size=(99, 99))[:60]).status == 422
    assert service.send(b"hello", path="/explain").status == 415


def _is_explained(service: Running, photo: Path, size: tuple[int, int]) -> None:
    """With maps that lie over the picture, of a width and a height, without what was padded."""
    assert service.get("/model").json["explains"]
    before = service.send(photo.read_bytes()).json
    found = service.send(photo.read_bytes(), path="/explain").json
    assert service.send(photo.read_bytes()).json == before
    assert len(found["blocks"]) == 4
    assert found["note"] == ""
    maps = [found["activation"], *(one for block in found["blocks"] for one in block["maps"][0])]
    for drawn in (found["picture"], *maps):
        assert _open(drawn).size == size
    opacities = [np.asarray(_open(one))[..., 3] for one in maps]
    assert max(one.max() for one in opacities) > 200
    assert min(one.min() for one in opacities) < 100
    assert all(len(block["effects"]) == 3 for block in found["blocks"])


def test_an_explanation_leaves_out_what_takes_too_long(folder: Path) -> None:
    model = open_model(folder / "net.safetensors", "cpu", 1)
    content = (folder / "colours/green/01.png").read_bytes()
    (found,) = model.explain([Work("one", Upload("one", content), Options(seconds=0.0))])
    assert isinstance(found, Explained)
    assert [block.effects for block in found.blocks] == [[], []]
    assert "left out for 2 of 2 blocks, and all at once, as 0 seconds were over" in found.note
    assert found.activation


def test_requests_that_wait_are_computed_together(folder: Path) -> None:
    sizes: list[int] = []
    model = open_model(folder / "net.xml", "cpu", 1)
    batcher = Batcher(lambda count, _seconds: sizes.append(count))
    task, _ = model.tasks(4)
    content = (folder / "colours/red/00.png").read_bytes()
    works = [Work(str(n), model.prepare(Upload(str(n), content)), Options()) for n in range(30)]
    futures = [batcher.submit(task, work) for work in works]
    batcher.close()
    assert [one.result().image for one in futures] == [str(n) for n in range(30)]
    assert max(sizes) == 4
    assert sum(sizes) == 30


class _Waiting(OneByOne):
    """Looks at an image when its event is set; one of them does it harm."""

    kind = "detector"
    answer = Detected

    def __init__(self) -> None:
        super().__init__(Path("a.net"), SimpleNamespace(net="waiting", classes=("one",)))
        self.events = [threading.Event() for _ in range(4)]
        self.looked: list[str] = []

    def look(self, work: Work) -> Detected:
        assert self.events[int(work.name)].wait(60)
        self.looked.append(work.name)
        if work.name == "3":
            raise RuntimeError("an image's own fault")
        return Detected(image=work.name, width=1, height=1, objects=[])


def test_what_is_computed_one_by_one_is_answered_and_given_up_one_by_one() -> None:
    model, batcher = _Waiting(), Batcher()
    task, _ = model.tasks(16)
    futures = [batcher.submit(task, Work(str(n), None, Options())) for n in range(4)]
    model.events[0].set()
    assert futures[0].result(60).image == "0"
    assert futures[2].cancel()
    for event in model.events:
        event.set()
    batcher.close()
    assert model.looked == ["0", "1", "3"]
    assert isinstance(futures[3].result(), RuntimeError)


def test_an_images_fault_is_not_its_neighbours() -> None:
    model = _Waiting()
    for event in model.events:
        event.set()
    first, second = model.compute([Work("3", None, Options()), Work("0", None, Options())])
    assert isinstance(first, RuntimeError)
    assert second.image == "0"


def test_an_exported_file_is_served_without_torch(folder: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from pathlib import Path
from resnestkit.serve.app import create_app
from resnestkit.serve.models import open_model
create_app(open_model(Path({str(folder / "net.onnx")!r})))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_serves_until_it_is_told_to_stop(folder: Path) -> None:
    words = ["serve", str(folder / "net.onnx"), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, TOKEN: "sesame"},
    )
    try:
        assert process.stdout is not None
        assert "net.onnx, a classifier of 3 classes" in process.stdout.readline()
        address = process.stdout.readline().split()[1]
        assert address.startswith("http://127.0.0.1:")
        kind, body = to_form((folder / "colours/red/00.png").read_bytes())
        headers = {"Content-Type": kind, "Authorization": "Bearer sesame"}
        asked = urllib.request.Request(f"{address}predict", body, headers)
        with urllib.request.urlopen(asked) as answer:
            assert b'"red"' in answer.read()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_a_signal_lets_an_upload_end_that_is_under_way(folder: Path) -> None:
    """SIGTERM to the real process: what was begun is answered, and what comes after is refused."""
    words = ["serve", str(folder / "net.onnx"), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        service = Running(urlsplit(process.stdout.readline().split()[1]).port or 0, None, None)
        kind, body = to_form((folder / "colours/red/00.png").read_bytes())
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nConnection: close\r\n"
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:40])
            while service.get("/health").json["images"] == 0:
                pass
            process.send_signal(signal.SIGTERM)
            while _is_there(service):
                pass
            client.sendall(body[40:])
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"red"' in answer
        process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0


def _is_there(service: Running) -> bool:
    try:
        return service.get("/health").status == 200
    except OSError:
        return False


def test_the_command_stops_as_soon_as_it_has_said_its_address(folder: Path) -> None:
    words = ["serve", str(folder / "net.onnx"), "--port", "0", "--threads", "1"]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(b"address"):
            pass
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0


def test_the_command_says_what_is_wrong(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    cases: list[tuple[list[Any], str]] = [
        ([tmp_path / "none.safetensors", "--port", "0"], "There is no checkpoint"),
        ([tmp_path / "none.onnx", "--port", "0"], "none.onnx"),
        ([folder / "net.onnx", "--port", "0", "--queue", "0"], "--queue is 0"),
        ([folder / "net.onnx", "--host", "no.such.host.invalid"], "Cannot listen at"),
        ([folder / "net.onnx", "--port", "0", "--token-file", tmp_path], "Cannot read the token"),
    ]
    for words, said in cases:
        code, out, err = run("serve", *words)
        assert (code, out) == (2, ""), err
        assert said in err
        assert err.count("\n") == 1


def test_the_command_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = run("serve", "net.onnx")
    assert code == 2
    assert "pip install 'resnestkit[serve]'" in err


@pytest.mark.parametrize("name", ["net.safetensors", "net.xml", "net.onnx"])
def test_a_classifier_has_computed_one_image_and_a_whole_batch_before_the_first_request(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = open_model(folder / name)
    counts: list[int] = []
    logits = model._classifier.logits

    def watched(images: list[Any]) -> Any:
        counts.append(len(images))
        return logits(images)

    monkeypatch.setattr(model._classifier, "logits", watched)
    model.warm(6)
    assert counts == [1, 6]
