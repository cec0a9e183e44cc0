"""The network of a trial: a backbone that turns images into features, and a head that turns features into classes.

Takes one trial's parameters, gives a `Classifier` in which only what is to be trained requires gradients. What is
frozen stays exactly as it was: its BatchNorm statistics do not move, and it drops nothing out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from xraytune.classifier.backbones import build_backbone, last_stage_names
from xraytune.config.settings import Parameters
from xraytune.seeding import derive_seed

_VGG16_HIDDEN = 256


class PairWithZero(nn.Module):
    """The logits (0, z) of two classes, [B, 2], from a single neuron's z, [B, 1]."""

    def forward(self, neuron: Tensor) -> Tensor:
        """Put a zero before each z."""
        return pad(neuron, (1, 0))


def build_head(parameters: Parameters, feature_count: int, class_count: int, *, seed: int) -> nn.Sequential:
    """The head of one trial, float32 [B, feature_count] -> logits [B, class_count]; its weights depend on `seed` alone.

    Args:
        parameters: `head`, `loss` and `dropout` are used.
        feature_count: Features of an image.
        class_count: Number of classes; two with `loss: bce`.
        seed: Of the random weights.
    """
    outputs = 1 if parameters.loss == "bce" else class_count
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "classifier", "head"))
        layers: list[nn.Module]
        if parameters.head == "linear":
            layers = [nn.Dropout(parameters.dropout), nn.Linear(feature_count, outputs)]
        else:
            layers = [
                nn.Linear(feature_count, _VGG16_HIDDEN),
                nn.ReLU(),
                nn.Dropout(parameters.dropout),
                nn.Linear(_VGG16_HIDDEN, outputs),
            ]
        if parameters.loss == "bce":
            layers.append(PairWithZero())
        elif parameters.head == "vgg16_two_class":
            # Cross entropy takes the logarithm of the softmax again, which changes nothing: it is the published NLL.
            layers.append(nn.LogSoftmax(dim=1))
        return nn.Sequential(*layers)


class Classifier(nn.Module):
    """A backbone and a head.

    Attributes:
        backbone: float32 [B, C, S, S] -> features [B, feature_count].
        head: Features -> logits [B, class_count].
        feature_count: Features of an image.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, feature_count: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.feature_count = feature_count

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 [B, class_count]; the head works in float32 also under autocast.

        In bfloat16 logits would have 8 bits, and equal scores by the dozen would blur the AUROC.
        """
        features = self.backbone(images).float()
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features)
        return logits

    def train(self, mode: bool = True) -> Self:
        """As in every module, but of the backbone only what is trained as a whole leaves eval mode."""
        super().train(mode)
        self.backbone.eval()
        for module in self.backbone.modules():
            parameters = list(module.parameters())
            if mode and parameters and all(parameter.requires_grad for parameter in parameters):
                module.train()
        return self


def build_classifier(parameters: Parameters, class_count: int, *, weights: Path | None, seed: int) -> Classifier:
    """The network of one trial, on the CPU, in train mode, its images expected in channels_last.

    Args:
        parameters: `backbone`, `input_channels`, `trainable`, `head`, `loss` and `dropout` are used.
        class_count: Number of classes.
        weights: A file for the backbone with torchvision's names and three input channels; None: random weights.
        seed: Of the random weights. The head's do not depend on the backbone.

    Raises:
        MachineError: The weights cannot be read or are of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "classifier", "backbone"))
        backbone, feature_count = build_backbone(
            parameters.backbone, weights=weights, input_channels=parameters.input_channels
        )
    if parameters.trainable != "all":
        trained = last_stage_names(parameters.backbone, backbone) if parameters.trainable == "last_stage" else ()
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in trained)
    head = build_head(parameters, feature_count, class_count, seed=seed)
    return Classifier(backbone, head, feature_count).to(memory_format=torch.channels_last).train()
