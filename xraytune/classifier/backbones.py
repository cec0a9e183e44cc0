"""The networks: a backbone that turns images into features, and a linear head that turns features into classes.

Takes one trial's parameters, gives a `Classifier` in which only what is to be trained requires gradients. What is
frozen stays exactly as it was: its BatchNorm statistics do not move, and it drops nothing out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from xraytune.classifier.weights import read_weights
from xraytune.config.settings import Parameters
from xraytune.errors import MachineError, Problem
from xraytune.seeding import derive_seed

_SMALL_CNN_WIDTHS = (16, 32, 64, 96)

_LAST_STAGE = {
    "small_cnn": ("6.", "7."),
    "resnet18": ("layer4.",),
    "resnet50": ("layer4.",),
    "mobilenet_v2": ("features.14.", "features.15.", "features.16.", "features.17.", "features.18."),
}
"""Names of the backbone's parameters at its coarsest resolution (1/32; small_cnn 1/16) begin with these."""


class Classifier(nn.Module):
    """A backbone and a head.

    Attributes:
        backbone: float32 [B, C, S, S] -> features [B, feature_count].
        head: Dropout and a linear layer, features -> logits [B, class_count].
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
        """As in every module, but what is frozen stays in eval mode."""
        super().train(mode)
        for module in self.backbone.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self


def build_classifier(parameters: Parameters, class_count: int, *, weights: Path | None, seed: int) -> Classifier:
    """The network of one trial, on the CPU, in train mode, its images expected in channels_last.

    With one input channel the first convolution's filters are summed over their input channels: a grey image then
    gives what the same image, repeated over three channels, gives the three-channel network.

    Args:
        parameters: `backbone`, `input_channels`, `trainable` and `dropout` are used.
        class_count: Number of classes.
        weights: A file for the backbone with torchvision's names and three input channels; None: random weights.
        seed: Of the random weights. The head's do not depend on the backbone.

    Raises:
        MachineError: The weights cannot be read or are of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "classifier", "backbone"))
        backbone, feature_count = _build_backbone(parameters.backbone)
    classifier = Classifier(backbone, build_head(parameters, feature_count, class_count, seed=seed), feature_count)
    if weights is not None:
        _load_weights(backbone, parameters.backbone, weights)
    if parameters.input_channels == 1:
        _take_grey_images(backbone)
    _freeze(classifier, parameters)
    return classifier.to(memory_format=torch.channels_last).train()


def build_head(parameters: Parameters, feature_count: int, class_count: int, *, seed: int) -> nn.Sequential:
    """The head alone, float32 [B, feature_count] -> [B, class_count], as `build_classifier` would make it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "classifier", "head"))
        return nn.Sequential(nn.Dropout(parameters.dropout), nn.Linear(feature_count, class_count))


def _build_backbone(name: str) -> tuple[nn.Module, int]:
    """A network from images to features, with random weights, and the number of features."""
    if name == "small_cnn":
        return _small_cnn(), _SMALL_CNN_WIDTHS[-1]
    from torchvision.models import get_model  # takes seconds, so only where it is needed

    network: nn.Module = get_model(name, weights=None)
    last_name, last = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    setattr(network, last_name.partition(".")[0], nn.Identity())
    return network, last.in_features


def _small_cnn() -> nn.Sequential:
    """Four stages of two 3x3 convolutions, each stage half the side; 211,000 parameters, for phantoms and tests."""
    layers: list[nn.Module] = []
    channels = 3
    for width in _SMALL_CNN_WIDTHS:
        layers += [_convolution(channels, width, stride=2), _convolution(width, width, stride=1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _convolution(channels: int, width: int, *, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def _load_weights(backbone: nn.Module, name: str, path: Path) -> None:
    """Fill the backbone from a file; tensors of the file's own head are left out."""
    given = read_weights(path)
    expected = backbone.state_dict()
    # Files older than PyTorch 0.4.1 have no BatchNorm counters, and nothing here reads them.
    needed = [key for key in expected if not key.endswith("num_batches_tracked")]
    unfit = [key for key in needed if key not in given or given[key].shape != expected[key].shape]
    top_level = {key.partition(".")[0] for key in expected}
    unknown = [key for key in given if key not in expected and key.partition(".")[0] in top_level]
    if unfit or unknown:
        what = f"these weights are not of {name}: {len(unfit)} of {len(needed)} tensors are missing or of another shape"
        first = (unfit + unknown)[0]
        fix = f"give the state dict of torchvision's {name} (first difference: {first}), or set weights: imagenet"
        raise MachineError(Problem(what, path, fix))
    backbone.load_state_dict({key: given[key] for key in expected if key in given}, strict=False)


def _take_grey_images(backbone: nn.Module) -> None:
    """Make the first convolution one of a single channel that equals the old one on grey images."""
    first = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
    first.in_channels = 1


def _freeze(classifier: Classifier, parameters: Parameters) -> None:
    """Let only the parameters require gradients that this trial trains; the head always does."""
    if parameters.trainable == "all":
        return
    trained = _LAST_STAGE[parameters.backbone] if parameters.trainable == "last_stage" else ()
    for name, parameter in classifier.backbone.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
