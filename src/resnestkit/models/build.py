"""From a spec to the class that reads it."""

from __future__ import annotations

from typing import Any

from resnestkit.models.backbone import Backbone
from resnestkit.models.bn_inception import BNInception
from resnestkit.models.inception_resnet import InceptionResNetV2
from resnestkit.models.resnet import ResNet
from resnestkit.models.spec import NetSpec, Spec


def build_net(spec: Spec, **options: Any) -> Backbone:
    """The net of a spec; options are those of `ResNet`, which all classes share."""
    if isinstance(spec, NetSpec):
        return ResNet(spec, **options)
    return (BNInception if spec.form == "bn" else InceptionResNetV2)(spec, **options)
