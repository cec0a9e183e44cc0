"""The last stage of a backbone, which `trainable: last_stage` trains together with all after it.

It is the layers of the coarsest resolution, or the last block of a transformer, whose layers all
have one resolution. timm and the backbones of other packages say themselves where it starts.
"""

from __future__ import annotations

from typing import Any

from xraytune.base.errors import ConfigError, Problem
from xraytune.space.backbones import BACKBONES

_STAGES = {
    "small_cnn": "6",
    "alexnet": "features.6",
    "convnext": "features.6",
    "densenet": "features.denseblock4",
    "efficientnet": "features.6",
    "googlenet": "inception5a",
    "inception_v3": "Mixed_7a",
    "maxvit": "blocks.3",
    "mnasnet": "layers.12",
    "mobilenet_v2": "features.14",
    "mobilenet_v3_large": "features.13",
    "mobilenet_v3_small": "features.9",
    "regnet": "trunk_output.block4",
    "resne": "layer4",
    "shufflenet": "stage4",
    "squeezenet1_0": "features.12",
    "squeezenet1_1": "features.9",
    "swin": "features.6",
    "vgg11_bn": "features.22",
    "vgg11": "features.16",
    "vgg13_bn": "features.28",
    "vgg13": "features.20",
    "vgg16_bn": "features.34",
    "vgg16": "features.24",
    "vgg19_bn": "features.40",
    "vgg19": "features.28",
    "vit_b": "encoder.layers.encoder_layer_11",
    "vit_l": "encoder.layers.encoder_layer_23",
    "vit_h": "encoder.layers.encoder_layer_31",
    "wide_resnet": "layer4",
}
"""The first module of the last stage, by the start of a backbone's name."""


def trained_parameters(backbone: str, network: Any) -> frozenset[str]:
    """Return the names of the parameters from the last stage to the end of the backbone.

    ConfigError if the backbone does not define it.
    """
    modules = [name for name, _ in network.named_modules()]
    if BACKBONES.has(backbone):
        stage = getattr(BACKBONES.load(backbone), "last_stage", "").rstrip(".")
    elif BACKBONES.is_of_library(backbone):
        before = [*network.feature_info][-2]["module"]
        before = [name for name in modules if f"{name}.".startswith(f"{before}.")][-1]
        stage = modules[modules.index(before) + 1]
    else:
        stage = next(_STAGES[start] for start in _STAGES if backbone.startswith(start))
    if not stage or stage not in modules:
        what = f"backbone {backbone} does not define where its last stage starts"
        raise ConfigError(Problem(what, "trainable", "set its last_stage, or use trainable: all"))
    trained = {*modules[modules.index(stage) :]}
    names = [name for name, _ in network.named_parameters()]
    return frozenset(name for name in names if name.rpartition(".")[0] in trained)
