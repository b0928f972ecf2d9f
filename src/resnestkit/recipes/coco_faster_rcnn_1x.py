"""Faster R-CNN with ResNeSt-50 on COCO, the authors' 1x schedule: 16 images a step for 12 passes.

ResNeSt-50 with ImageNet's weights, its stem and first stage frozen; synchronised norms in the rest
of the net, the pyramid and the heads; short sides from 640 to 800. `--model resnet50d` trains the
plain twin under the same recipe. Settings: detectron2-ResNeSt at 54ec876.

Command:  torchrun --nproc-per-node=8 -m resnestkit train --recipe coco_faster_rcnn_1x --data COCO
Expected: box AP 42.33 on val2017 with the authors' code (their README; 39.25 with ResNet-50); not
          measured here, and no time was published.
"""

from resnestkit.training.recipe import DetectionRecipe


def recipe() -> DetectionRecipe:
    """Two images on each of eight processes; the other COCO recipes change what differs."""
    return DetectionRecipe(
        kind="faster_rcnn",
        model="resnest50",
        weights="imagenet1k",
        settings="paper",
        norm="sync",
        freeze=1,
        epochs=12,
        batch_size=2,
        lr=0.32,
        warmup_steps=1000,
        schedule="step",
        milestones=(2 / 3, 8 / 9),
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,
        precise_norm=200,
        short_sides=(640, 800),
        sampling="range",
        test_side=800,
        max_side=1333,
    )
