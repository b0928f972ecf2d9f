"""What classification brings to a training."""

from __future__ import annotations

from dataclasses import replace

from resnestkit.compute import Compute
from resnestkit.data.loaders import Batch
from resnestkit.data.sources import load_source
from resnestkit.factory import load_model
from resnestkit.models.zoo import find_net
from resnestkit.progress import Reporter
from resnestkit.tasks.evaluation import Evaluation
from resnestkit.training.build import (
    channel_order,
    count,
    describe_compute,
    describe_net,
    make_card,
    make_model,
    make_preprocessing,
    make_task,
)
from resnestkit.training.classification_patient import ClassificationPatient
from resnestkit.training.job import Job
from resnestkit.training.preflight import warn
from resnestkit.training.prepare import check_norm, hint_at_size, make_loaders, read_images
from resnestkit.training.recipe import Recipe


def prepare_classification(
    data: str, recipe: Recipe, compute: Compute, reporter: Reporter, *, load: bool
) -> Job[Batch, Evaluation]:
    """Read the images, make the model, and say what both are.

    Args:
        data: "digits", or a folder of images by class.
        recipe: with nothing left to "auto".
        compute: where the model goes.
        reporter: what the person sees.
        load: whether the model takes the recipe's weights, which a run that goes on does not need.

    Raises UserError for anything the user can mend.
    """
    net = find_net(recipe.model)
    preprocessing = make_preprocessing(recipe, net)
    source = load_source(data, preprocessing.channels, recipe.holdout, recipe.seed)
    model = make_model(net, recipe, len(source.classes), compute, reporter, load=load)
    recipe = replace(recipe, channel_order=channel_order(model, recipe))
    preprocessing = make_preprocessing(recipe, net)
    cost = count(net, preprocessing, len(source.classes))
    reporter.say(describe_net(net, cost, preprocessing.size))
    reporter.say(describe_compute(compute, recipe))
    checked = read_images(source, recipe, reporter)
    hint_at_size(checked["train"], net, preprocessing.size, reporter)
    check_norm(checked["train"], recipe)
    warn(ClassificationPatient(source, checked, net, recipe, compute), reporter)
    card = make_card(net, source, recipe, preprocessing)
    return Job(
        recipe=recipe,
        model=model,
        task=make_task(recipe, card),
        loaders=make_loaders(checked, source.validation, recipe, preprocessing),
        card=card,
        validation=checked[source.validation].images,
        split=source.validation,
        cost=cost,
        load=lambda path: load_model(path)[0],
    )
