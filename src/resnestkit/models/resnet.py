"""The one network class: every net of the table is this class reading another spec."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.models.backbone import Backbone, Stage
from resnestkit.models.blocks import BlockPlace, ResidualBlock, block_class
from resnestkit.models.layers import (
    draw_weights,
    is_norm,
    make_pool,
    make_stem,
    norm_factory,
    norm_relu,
)
from resnestkit.models.spec import NetSpec, NormPolicy, StagePlan, plan_stages

DROP_BLOCK_STAGES = 2
"""DropBlock acts in the last two stages (Zhang et al. 2020, section 4.1)."""


class ResNet(Backbone):
    """A residual net as its spec says: stem, stages, global average, classifier.

    Args:
        spec: what to build.
        classes: number of logits; 0 leaves the classifier out, and the call then gives the pooled
            features (b, channels of the last stage).
        in_channels: channels of the image.
        output_stride: 8, 16 or 32; strides beyond it become dilations. A net that strides less
            than that (the small-image forms) is left as it is.
        norm: "batch", "sync", "frozen" or "group".
        drop_path: stochastic depth's probability in the last block; it rises linearly from 0 at
            the first (Huang et al. 2016, equation 4).
        drop_block: DropBlock's probability in the last two stages.
        dropout: before the classifier; None is what the spec says.
        zero_gamma: start each block as its shortcut, by a zero weight in its last norm.
    """

    def __init__(
        self,
        spec: NetSpec,
        *,
        classes: int = 1000,
        in_channels: int = 3,
        output_stride: int = 32,
        norm: NormPolicy = "batch",
        drop_path: float = 0.0,
        drop_block: float = 0.0,
        dropout: float | None = None,
        zero_gamma: bool = True,
    ) -> None:
        super().__init__()
        self.spec, self.classes, self.in_channels = spec, classes, in_channels
        self.norm_policy = norm
        make_norm = norm_factory(norm)
        plans = plan_stages(spec, output_stride)
        self.output_stride = plans[-1].output_stride
        self.head_is_new = classes > 0
        self.first_weight = "conv1.0.weight" if spec.stem == "deep" else "conv1.weight"
        self.head = "fc"
        self.least_side = 3 if spec.pool == "max_ceil" else 1  # Caffe's pool pads nothing

        self.conv1 = make_stem(spec, in_channels, make_norm)
        self.bn1 = make_norm(spec.stem_channels)
        self.maxpool = make_pool(spec)
        stem_stride = 1 if spec.stem == "small" else 2
        self.stem_level = Stage("stem", spec.stem_channels, stem_stride, ("conv1", "bn1"))
        places = _places(spec, plans, drop_path, drop_block)
        make_block = block_class(spec)
        stages = []
        for index, stage_places in enumerate(places):
            blocks = [make_block(spec, place, make_norm) for place in stage_places]
            name = f"layer{index + 1}"
            self.add_module(name, nn.Sequential(*blocks))
            stride = plans[index].output_stride
            stages.append(Stage(name, blocks[-1].out_channels, stride, (name,)))
        self.stages = tuple(stages)
        self.drop = nn.Dropout(spec.dropout if dropout is None else dropout)
        features = self.stages[-1].channels
        self.fc = nn.Linear(features, classes) if classes else nn.Identity()
        self._initialise(zero_gamma)

    def stem(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Image to the first stage's input."""
        out: Tensor = self.maxpool(norm_relu(self.conv1(x), self.bn1))
        return out

    def forward_levels(self, x: Float[Tensor, "b i h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Features of the stem before its pooling, and of every stage."""
        levels = {self.stem_level.name: norm_relu(self.conv1(x), self.bn1)}
        x = self.maxpool(levels[self.stem_level.name])
        return levels | self._forward_stages(x)

    def forward_features(self, x: Float[Tensor, "b i h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Features of every stage by name: layer1 (finest) to layer4 (coarsest)."""
        return self._forward_stages(self.stem(x))

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b classes"]:
        """Logits of an image that was normalised as its preprocessing says."""
        x = self.stem(x)
        for stage in self.stages:  # not by forward_features, which keeps every stage's
            x = self.get_submodule(stage.name)(x)
        logits: Tensor = self.fc(self.drop(x.mean((2, 3))))
        return logits

    def _forward_stages(self, x: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        features = {}
        for stage in self.stages:
            x = self.get_submodule(stage.name)(x)
            features[stage.name] = x
        return features

    def _initialise(self, zero_gamma: bool) -> None:
        """Weights as the authors draw them, then zero-gamma last, so that nothing undoes it."""
        draw_weights(self)
        if not zero_gamma:
            return
        for part in self.modules():
            if isinstance(part, ResidualBlock) and is_norm(part.last_norm):
                weight = part.last_norm.weight
                # A frozen norm's weight is no parameter: a zero there would stay for good.
                if isinstance(weight, nn.Parameter):
                    nn.init.zeros_(weight)


def _places(
    spec: NetSpec, plans: list[StagePlan], drop_path: float, drop_block: float
) -> list[list[BlockPlace]]:
    """Every block's place, stage by stage."""
    last_block = max(sum(spec.layers) - 1, 1)
    first_dropped = len(spec.layers) - DROP_BLOCK_STAGES
    channels, depth = spec.stem_channels, 0
    stages = []
    for index, (blocks, plan) in enumerate(zip(spec.layers, plans, strict=True)):
        places = []
        for position in range(blocks):
            places.append(
                BlockPlace(
                    stage=index,
                    is_first=position == 0,
                    in_channels=channels,
                    stride=plan.stride if position == 0 else 1,
                    dilation=plan.dilation,
                    first_dilation=plan.first_dilation,
                    drop_path=drop_path * depth / last_block,
                    drop_block=drop_block if index >= first_dropped else 0.0,
                )
            )
            channels = spec.widths[index] * spec.expansion
            depth += 1
        stages.append(places)
    return stages
