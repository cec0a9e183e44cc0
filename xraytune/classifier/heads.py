"""The heads: layers that turn a backbone's features into logits of the classes.

Every head ends in one logit for each class, so that all that follows (losses, metrics, predictions) knows one form. A
single output neuron z, trained with binary cross entropy, is the pair (0, z): its softmax is the sigmoid of z, and its
cross entropy the binary one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

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
