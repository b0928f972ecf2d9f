"""The recipes hold the published numbers, and the training does with them what they say."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from resnestkit import DetectionRecipe, Recipe, UserError, create_model, train
from resnestkit.compute import choose_compute
from resnestkit.data.loaders import Batch
from resnestkit.data.transforms import normalise
from resnestkit.models.blocks import ResidualBlock
from resnestkit.models.zoo import TABLE, find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.progress import Reporter
from resnestkit.tasks.classification import ClassificationTask
from resnestkit.training import build, loop
from resnestkit.training.build import make_preprocessing, resolve
from resnestkit.training.optimizer import parameter_groups, peak_rate
from resnestkit.training.recipe import list_recipes, load_recipe
from resnestkit.weights.manifest import MANIFEST

SMALL = Recipe(
    model="resnest23_small",
    epochs=4,
    batch_size=8,
    mixup=0.0,
    size=8,
    crop="pad",
    padding=1,
    precision="float32",
    device="cpu",
)

# Net: global batch, peak rate, sizes of training and test, test crop, interpolation, dropout; the
# first four as the paper and the authors' commands have them, the others as the released weights.
PUBLISHED = {
    "imagenet_resnest50": ("resnest50", 8192, 3.2, 224, 224, 0.875, "bilinear", 0.0),
    "imagenet_resnest101": ("resnest101", 4096, 1.6, 224, 256, 0.875, "bilinear", 0.0),
    "imagenet_resnest200": ("resnest200", 2048, 0.8, 256, 320, 0.909, "bicubic", 0.2),
    "imagenet_resnest269": ("resnest269", 2048, 0.8, 320, 416, 0.928, "bicubic", 0.2),
    "imagenet_resnet50": ("resnet50", 8192, 3.2, 224, 224, 0.875, "bilinear", 0.0),
}


def resolved(name: str) -> Any:
    recipe = load_recipe(name)
    return resolve(replace(recipe, device="cpu"), find_net(recipe.model))


def processes(name: str) -> int:
    """As many as the recipe's command starts."""
    return int(re.search(r"--nproc-per-node=(\d+)", command(name)).group(1))  # type: ignore[union-attr]


def command(name: str) -> str:
    load_recipe(name)
    found = re.search(r"^Command: +(.+)$", sys.modules[f"resnestkit.recipes.{name}"].__doc__, re.M)  # type: ignore[arg-type]
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_resolves_and_its_command_runs_it(name: str) -> None:
    recipe = resolved(name)
    if isinstance(recipe, Recipe):
        for setting in ("size", "train_size", "crop_ratio", "interpolation", "dropout"):
            assert getattr(recipe, setting) is not None, setting
    assert resolve(recipe, find_net(recipe.model)) == recipe
    words = command(name).split()
    assert "train" in words
    assert name == "digits" or words[words.index("--recipe") + 1] == name


def test_every_imagenet_recipe_is_held_to_its_publication() -> None:
    assert set(PUBLISHED) == {name for name in list_recipes() if name.startswith("imagenet")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_imagenet_recipe_is_the_published_one(name: str) -> None:
    model, batch, peak, trained, tested, ratio, interpolation, dropout = PUBLISHED[name]
    recipe = resolved(name)
    assert recipe.batch_size * recipe.accumulate * processes(name) == batch
    assert peak_rate(recipe.lr, batch) == pytest.approx(peak)
    # The authors had 64 GPUs: norms and mixup see as many images as theirs.
    assert recipe.batch_size == batch // 64
    assert (recipe.model, recipe.epochs, recipe.warmup_epochs) == (model, 270, 5)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 1e-4)
    assert (recipe.train_size, recipe.size) == (trained, tested)
    assert (recipe.crop_ratio, recipe.interpolation) == (ratio, interpolation)
    assert (recipe.label_smoothing, recipe.mixup, recipe.mixup_off_epochs) == (0.1, 0.2, 0)
    assert (recipe.drop_block, recipe.dropout, recipe.zero_gamma) == (0.1, dropout, True)
    assert (recipe.auto_augment, recipe.jitter, recipe.lighting) == ("autoaugment", 0.4, 0.1)
    assert (recipe.crop, recipe.flip) == ("resized", True)
    assert recipe.min_area == (0.1 if trained >= 320 else 0.08)
    off = (recipe.ema, recipe.drop_path, recipe.cutmix, recipe.erase, recipe.clip_norm)
    assert not any(off)
    assert recipe.norm == "batch"


# Kind, net, passes, shares of the training after which the rate falls, sides, their drawing, crop.
DETECTION: dict[str, tuple[Any, ...]] = {
    "coco_faster_rcnn_1x": ("faster_rcnn", "resnest50", 12, (6 / 9, 8 / 9), (640, 800, 1333), 0.0),
    "coco_mask_rcnn_1x": ("mask_rcnn", "resnest50", 12, (6 / 9, 8 / 9), (640, 800, 1333), 0.0),
    "coco_cascade_mask_rcnn_3x": (
        *("cascade_mask_rcnn", "resnest200", 36),
        *((24 / 27, 25.5 / 27), (640, 864, 1440), 0.9),
    ),
}


def test_every_detection_recipe_is_held_to_its_publication() -> None:
    assert set(DETECTION) == {name for name in list_recipes() if name.startswith("coco")}


@pytest.mark.parametrize("name", DETECTION)
def test_a_detection_recipe_is_the_authors(name: str) -> None:
    """detectron2-ResNeSt at 54ec876: Base-RCNN-FPN and what each configuration changes."""
    kind, model, epochs, milestones, sides, crop = DETECTION[name]
    recipe = resolved(name)
    assert isinstance(recipe, DetectionRecipe)
    batch = recipe.batch_size * recipe.accumulate * processes(name)
    assert (batch, peak_rate(recipe.lr, batch)) == (16, pytest.approx(0.02))
    assert (recipe.kind, recipe.model, recipe.epochs) == (kind, model, epochs)
    assert recipe.milestones == pytest.approx(milestones)
    assert (recipe.schedule, recipe.warmup_steps) == ("step", 1000)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, False, 1e-4)
    assert (min(recipe.short_sides), max(recipe.short_sides), recipe.max_side) == sides
    assert (recipe.sampling == "choice") == (name == "coco_mask_rcnn_1x")
    assert (recipe.test_side, recipe.crop, recipe.flip) == (800, crop, True)
    assert (recipe.weights, recipe.freeze, recipe.norm) == ("imagenet1k", 1, "sync")
    assert (recipe.settings, recipe.head_norm, recipe.precise_norm) == ("paper", None, 200)
    assert not any((recipe.ema, recipe.clip_norm, recipe.jitter))


def test_the_twin_differs_in_the_net_alone() -> None:
    twin, recipe = load_recipe("imagenet_resnet50"), load_recipe("imagenet_resnest50")
    assert replace(twin, model=recipe.model) == recipe


# --- The test crop of a net ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [w for w in MANIFEST if w.source == "authors" or w.net in {"resnest14", "inception_resnet_v2"}],
    ids=lambda w: f"{w.net}.{w.source}",
)
def test_a_nets_test_crop_is_that_of_its_own_weights(entry: Any) -> None:
    net, images = find_net(entry.net), entry.preprocessing
    assert (net.size, net.crop_ratio, net.interpolation) == (
        images.size,
        images.crop_ratio,
        images.interpolation,
    )


def test_small_images_are_not_cropped_and_others_as_usual() -> None:
    own = {net.name for net in TABLE if (net.crop_ratio, net.interpolation) != (0.875, "bilinear")}
    small = {net.name for net in TABLE if net.is_small}
    assert all(find_net(name).crop_ratio == 1.0 for name in small)
    assert {name for name in own - small if not name.startswith("resnest")} == {
        "inception_resnet_v2",
        "se_inception_resnet_v2",
        "resnet26",
        "resnet26d",
    }


def test_a_recipe_overrules_the_nets_crop() -> None:
    net = find_net("resnest269")
    own = make_preprocessing(Recipe(model=net.name), net)
    assert (own.size, own.crop_ratio, own.interpolation) == (416, 0.928, "bicubic")
    recipe = Recipe(model=net.name, size=100, crop_ratio=1.0, interpolation="bilinear")
    asked = make_preprocessing(recipe, net)
    assert (asked.size, asked.crop_ratio, asked.interpolation) == (100, 1.0, "bilinear")


# --- What the training does ----------------------------------------------------------------------


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """The sides of the images that training and evaluation met."""
    met: dict[str, set[int]] = {"step": set(), "evaluate": set()}
    step, prepare = ClassificationTask.step, ClassificationTask._prepare

    def count_step(self: ClassificationTask, model: Any, batch: Batch, compute: Any) -> Any:
        met["step"].add(batch.images.shape[-1])
        return step(self, model, batch, compute)

    def count(self: ClassificationTask, batch: Batch, compute: Any) -> Any:
        met["evaluate"].add(batch.images.shape[-1])
        return prepare(self, batch, compute)

    monkeypatch.setattr(ClassificationTask, "step", count_step)
    monkeypatch.setattr(ClassificationTask, "_prepare", count)
    return met


def test_training_and_test_have_sizes_of_their_own(
    colours: Path, tmp_path: Path, sizes: dict[str, set[int]]
) -> None:
    recipe = replace(SMALL, epochs=1, train_size=8, size=16)
    result = train(str(colours), recipe, tmp_path / "run", reporter=Reporter(quiet=True))
    assert sizes["step"] == {8}
    assert sizes["evaluate"] == {8, 16}
    written = load_recipe(str(result.run.path / "config.json"))
    assert (written.train_size, written.size) == (8, 16)
    assert (written.crop_ratio, written.interpolation) == (1.0, "bilinear")


def test_drop_block_rises_by_epoch_to_its_probability(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(loop, "set_drop_block", lambda _model, p: seen.append(p))
    recipe = replace(SMALL, drop_block=0.1)
    train(str(colours), recipe, tmp_path / "run", reporter=Reporter(quiet=True))
    assert seen == pytest.approx([0.025, 0.05, 0.075, 0.1])


def test_the_optimiser_is_nesterovs_and_its_groups_are_by_kind(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.optim.SGD] = []
    original = torch.optim.SGD

    def keep(*arguments: Any, **options: Any) -> torch.optim.SGD:
        made.append(original(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(torch.optim, "SGD", keep)
    train(str(colours), replace(SMALL, epochs=1), tmp_path / "run", reporter=Reporter(quiet=True))
    groups = made[0].param_groups
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0]
    assert all((group["momentum"], group["nesterov"]) == (0.9, True) for group in groups)


def test_stem_and_shortcut_norms_are_exempt_from_decay_unlike_upstream() -> None:
    """The published PyTorch code goes by names with "bn" or "bias": it decays six norms."""
    with torch.device("meta"):
        model = create_model("resnest50")
    names = {parameter: name for name, parameter in model.named_parameters()}
    exempt = {names[parameter] for parameter in parameter_groups(model, 1e-4)[1]["params"]}
    missed = {name for name in exempt if "bn" not in name and "bias" not in name}
    shortcuts = {f"layer{stage}.0.downsample.2.weight" for stage in (1, 2, 3, 4)}
    assert missed == {"conv1.1.weight", "conv1.4.weight"} | shortcuts
    assert (len(exempt), len(names)) == (175, 263)


@pytest.mark.parametrize("name", ["resnest14", "resnet18", "sknet50"])
def test_zero_gamma_stands_after_every_initialisation(name: str) -> None:
    """In the published PyTorch code a later loop sets the zeros back to one."""
    model = create_model(name, classes=2)
    blocks = [part for part in model.modules() if isinstance(part, ResidualBlock)]
    zeros = {id(block.last_norm) for block in blocks}
    assert len(zeros) >= 4
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            assert torch.all(part.weight == (0 if id(part) in zeros else 1))


@pytest.fixture
def batch() -> Batch:
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    return Batch(images, torch.tensor([0, 1, 2, 3, 1, 0]), list(range(6)))


class Mean(torch.nn.Module):
    """Four logits that are linear in the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x[:, :1, 0, 0]], 1)


def test_smoothing_and_mixup_are_the_published_targets(batch: Batch) -> None:
    """A class has 1 - e + e/C or e/C, and the two images' targets are mixed as the images are."""
    task = ClassificationTask(tuple("abcd"), Preprocessing(4), label_smoothing=0.1, mixup=0.2)
    torch.manual_seed(3)
    step = task.step(Mean(), batch, choose_compute("cpu", "float32"))

    torch.manual_seed(3)
    torch.multinomial(torch.ones(1), 1)  # mixup or CutMix, were there both
    share = torch.distributions.Beta(torch.tensor([0.2]), torch.tensor([0.2])).sample().item()
    images = normalise(batch.images, Preprocessing(4))
    targets = F.one_hot(batch.labels, 4) * 0.9 + 0.1 / 4
    mixed = share * images + (1 - share) * images.roll(1, 0)
    wanted = share * targets + (1 - share) * targets.roll(1, 0)
    loss = -(wanted * Mean()(mixed).log_softmax(1)).sum(1).mean()
    assert step.loss.item() == pytest.approx(loss.item(), rel=1e-5)


def test_the_last_epochs_mix_nothing(batch: Batch) -> None:
    compute = choose_compute("cpu", "float32")
    plain = ClassificationTask(tuple("abcd"), Preprocessing(4)).step(Mean(), batch, compute)
    task = ClassificationTask(tuple("abcd"), Preprocessing(4), mixup=1.0, mix_off_epochs=2)
    losses = []
    for left in (4, 3, 2, 1):
        task.start_epoch(left)
        losses.append(task.step(Mean(), batch, compute).loss.item())
    assert [loss == plain.loss.item() for loss in losses] == [False, False, True, True]


def test_the_loop_tells_how_many_epochs_are_left(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(ClassificationTask, "start_epoch", lambda _self, left: told.append(left))
    train(str(colours), SMALL, tmp_path / "run", reporter=Reporter(quiet=True))
    assert told == [4, 3, 2, 1]


def test_kernels_are_on_where_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    net = find_net(SMALL.model)
    monkeypatch.setattr(build, "has_kernels", lambda device: device.type == "cpu")
    assert build.resolve(SMALL, net).kernels is True
    assert build.resolve(replace(SMALL, kernels=False), net).kernels is False
    assert build.resolve(replace(SMALL, channels_last=False), net).kernels is False
    with pytest.raises(UserError, match="channels_last"):
        build.resolve(replace(SMALL, channels_last=False, kernels=True), net)
    monkeypatch.setattr(build, "has_kernels", lambda device: False)
    assert build.resolve(SMALL, net).kernels is False


def test_kernels_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: object) -> None:
        raise UserError("There is no C++ compiler (g++).")

    monkeypatch.setattr(build, "find_kernels", fail)
    with pytest.raises(UserError, match="no C\\+\\+ compiler"):
        build.resolve(replace(SMALL, kernels=True), find_net(SMALL.model))
