"""The network of a trial: a backbone and a head, or a U-Net with a backbone as encoder.

Only trained parameters require gradients. Frozen modules stay in eval mode: no BatchNorm updates,
no dropout.
"""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from xraytune.base.errors import ConfigError
from xraytune.nets.backbones import build_backbone, load_weights, to_one_channel
from xraytune.nets.compute import seeded
from xraytune.space.backbones import BACKBONES
from xraytune.space.encoders import architecture_of
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.parameters import Parameters

_VGG16_HIDDEN = 256
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
"""The first module of the last stage, by the start of a backbone's name.

The last stage is the layers of the coarsest resolution, or the last block of a transformer, whose
layers all have one resolution. timm's backbones and those of other packages define themselves where
their last stage starts.
"""


class _Network(nn.Module):
    """A network whose submodule `backbone_name` is a backbone."""

    backbone_name = "backbone"

    def train(self, mode: bool = True) -> Self:
        """Set the mode; modules of the backbone with a frozen parameter stay in eval mode."""
        super().train(mode)
        backbone = self.get_submodule(self.backbone_name)
        backbone.eval()
        for module in backbone.modules():
            parameters = list(module.parameters())
            if mode and parameters and all(parameter.requires_grad for parameter in parameters):
                module.train()
        return self


class Classifier(_Network):
    """A backbone and a head.

    Attributes:
        backbone: Maps images, float32 [B, C, S, S], to features [B, D].
        head: Maps features to logits [B, class_count].
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, float32 [B, class_count].

        The head computes in float32 even under autocast, since bfloat16 creates ties.
        """
        features = self.backbone(images).float()
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features)
        return logits


def freeze(backbone: nn.Module, parameters: Parameters) -> None:
    """Freeze all parameters of a backbone except those that `trainable` names."""
    if parameters.trainable == "all":
        return
    trained: frozenset[str] = frozenset()
    if parameters.trainable == "last_stage":
        trained = trained_parameters(parameters.backbone, backbone)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in trained)


def trained_parameters(backbone: str, network: Any) -> frozenset[str]:
    """Return the names of the parameters from the last stage to the end of the backbone.

    Raises ConfigError if the backbone does not define its last stage.
    """
    backbone = architecture_of(backbone)
    modules = [name for name, _ in network.named_modules()]
    if BACKBONES.has(backbone):
        stage = getattr(EXTENSIONS.load(backbone), "last_stage", "").rstrip(".")
    elif BACKBONES.is_of_library(backbone):
        last_before = [*network.feature_info][-2]["module"]
        last_before = [name for name in modules if f"{name}.".startswith(f"{last_before}.")][-1]
        stage = modules[modules.index(last_before) + 1]
    else:
        stage = next(_STAGES[start] for start in _STAGES if backbone.startswith(start))
    if not stage or stage not in modules:
        raise ConfigError(
            f"backbone {backbone} does not define where its last stage starts",
            "trainable",
            "set its last_stage, or use trainable: all",
        )
    trained = {*modules[modules.index(stage) :]}
    parameters = network.named_parameters()
    return frozenset(name for name, _ in parameters if name.rpartition(".")[0] in trained)


def build_head(
    parameters: Parameters, feature_count: int, class_count: int, *, seed: int
) -> nn.Sequential:
    """Build the head, which maps features [B, feature_count] to logits [B, class_count].

    The initial weights depend only on `seed`.
    """
    outputs = 1 if parameters.loss == "bce" else class_count
    layers = []
    with seeded(seed, "classifier", "head"):
        if parameters.head == "vgg16_two_class":
            layers += [nn.Linear(feature_count, _VGG16_HIDDEN), nn.ReLU()]
            feature_count = _VGG16_HIDDEN
        layers += [nn.Dropout(parameters.dropout), nn.Linear(feature_count, outputs)]
    if parameters.loss == "bce":
        layers.append(nn.ConstantPad1d((1, 0), 0.0))  # logits (0, z) of the two classes
    elif parameters.head == "vgg16_two_class":
        # The head is as published, with the NLL loss. Cross entropy applies log-softmax once more,
        # which changes nothing.
        layers.append(nn.LogSoftmax(dim=1))
    return nn.Sequential(*layers)


def linear_of(head: nn.Module) -> nn.Linear:
    """Return the last linear layer of a head: the only one of a linear head."""
    return [layer for layer in head.modules() if isinstance(layer, nn.Linear)][-1]


def build_classifier(
    parameters: Parameters, class_count: int, *, weights: Path | None, seed: int
) -> Classifier:
    """Build a trial's network, on the CPU, in train mode and channels_last.

    Weights and errors are those of `build_backbone`.
    """
    with seeded(seed, "classifier", "backbone"):
        backbone, feature_count = build_backbone(
            parameters.backbone,
            weights=weights,
            input_channels=parameters.input_channels,
            settings=parameters.settings_of(parameters.backbone),
        )
    freeze(backbone, parameters)
    head = build_head(parameters, feature_count, class_count, seed=seed)
    return Classifier(backbone, head).to(memory_format=torch.channels_last).train()


class Segmenter(_Network):
    """A U-Net of `encoder`, `decoder` and `segmentation_head`; its outputs are logits of the mask.

    From: Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation" (arXiv:1505.04597).
    """

    backbone_name = "unet.encoder"

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, float32 [B, 1, S, S], for images [B, C, S, S] of any size."""
        logits: Tensor = self.unet(images)
        return logits.float()


def build_segmenter(
    parameters: Parameters, class_count: int, *, weights: Path | None, seed: int
) -> Segmenter:
    """Build the network of a trial, on the CPU, in train mode and channels_last.

    Weights and errors are those of `build_backbone`.

    With `trainable: head`, the encoder is frozen; with `last_stage`, all but its last stage. The
    decoder is always trained.
    """
    from segmentation_models_pytorch import Unet  # optional, and takes seconds

    with seeded(seed, "segmenter"):
        unet = Unet(parameters.backbone, encoder_weights=None, in_channels=3, classes=class_count)
    if weights is not None:
        load_weights(unet.encoder, parameters.backbone, weights)
    if parameters.input_channels == 1:
        to_one_channel(unet.encoder, parameters.backbone)
    freeze(unet.encoder, parameters)
    return Segmenter(unet).to(memory_format=torch.channels_last).train()
