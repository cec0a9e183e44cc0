"""Backbones: networks that map images to features, made from torchvision's classifiers.

The last layer, which gives the 1,000 classes of ImageNet, is removed. For one input channel, the filters of the first
convolution are summed over its three, so that a grey image has the same features as its copy on three channels.
"""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from xraytune.base.errors import ConfigError, MachineError, Problem
from xraytune.nets.weights import load_tensors, read_weights
from xraytune.space.backbones import BACKBONES, backbone_of, is_of_torchvision

_IMAGENET_CLASSES = 1000
_SMALL_CNN_WIDTHS = (16, 32, 64, 96)

# Older files of DenseNet have `norm.1` for `norm1`.
_OLD_DENSENET_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")


def build_backbone(name: str, *, weights: Path | None = None, input_channels: int = 3) -> tuple[nn.Module, int]:
    """Build a network that maps images, float32 [B, C, S, S], to features [B, D]; return it and D.

    Args:
        name: A name of `Parameters.backbone`.
        weights: A file with torchvision's names (those of its package for a custom backbone) and three input channels;
            None for random weights.
        input_channels: C, 1 or 3.

    Raises:
        MachineError: The weights cannot be read or are for another network.
    """
    removed = ""
    if name == "small_cnn":
        network, feature_count = _small_cnn(), _SMALL_CNN_WIDTHS[-1]
    elif BACKBONES.has(name):
        network, feature_count = _custom(name)
    else:
        from torchvision.models import get_model  # takes seconds to import

        # Without `init_weights` these two print a warning.
        options = {"aux_logits": False, "init_weights": True} if backbone_of(name).has_auxiliary_heads else {}
        network = get_model(name, weights=None, **options)
        removed, feature_count = _remove_head(network)
    if weights is not None:
        load_weights(network, name, weights, removed)
    if input_channels == 1:
        to_one_channel(network, name)
    return network, feature_count


def last_stage_names(backbone: str, network: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that `trainable: last_stage` trains, to the end of the backbone.

    Raises ConfigError if a custom backbone does not define `last_stage`.
    """
    start = backbone_of(backbone).last_stage
    names = [name for name, _ in network.named_parameters()]
    first = next((index for index, name in enumerate(names) if start and name.startswith(start)), None)
    if first is None:
        what = f"backbone {backbone} does not define where its last stage starts"
        raise ConfigError(Problem(what, "trainable", "set its last_stage, or use trainable: all"))
    return frozenset(names[first:])


def last_stage_of(backbone: str, network: nn.Module) -> nn.Module | None:
    """Return the first module that `trainable: last_stage` trains; None if `skip_to_last_stage` cannot be used."""
    entry = backbone_of(backbone)
    return network.get_submodule(entry.last_stage.rstrip(".")) if entry.is_sequential else None


def skip_to_last_stage(backbone: str, network: nn.Module) -> None:
    """Make all modules before the last stage return their input, so that the network takes the input of that stage.

    Names and weights do not change.
    """
    module = network
    for name in backbone_of(backbone).last_stage.rstrip(".").split("."):
        for earlier in takewhile(lambda other, name=name: other[0] != name, module.named_children()):  # type: ignore[misc]
            earlier[1].forward = _unchanged
        module = module.get_submodule(name)


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def to_one_channel(network: nn.Module, name: str) -> None:
    """Sum the first convolution's filters over the three input channels, in place; MachineError if it has others."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1:
        what = f"{name} cannot take one channel: its first layer is not a plain convolution with three channels"
        raise MachineError(Problem(what, "input_channels", "set input_channels: 3, or use another backbone"))
    first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
    first.in_channels = 1


def _remove_head(network: nn.Module) -> tuple[str, int]:
    """Replace the last layer with 1,000 outputs by the identity; return its name and its inputs."""
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    name, head = [(name, layer) for name, layer in layers if len(layer.weight) == _IMAGENET_CLASSES][-1]
    network.set_submodule(name, nn.Identity())
    return name, head.weight.shape[1]


def _custom(name: str) -> tuple[nn.Module, int]:
    build = BACKBONES.load(name)
    network, side_px = build(), getattr(build, "least_image_px", 64)
    with torch.no_grad():
        (features,) = network.eval()(torch.zeros(1, 3, side_px, side_px))
    (feature_count,) = features.shape
    return network.train(), feature_count


def _small_cnn() -> nn.Module:
    """Build four stages of two 3x3 convolutions, each halving the side; 211,000 parameters, for phantoms and tests."""
    layers: list[nn.Module] = []
    channels = 3
    for width in _SMALL_CNN_WIDTHS:
        for stride in (2, 1):
            conv = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            layers.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def load_weights(network: nn.Module, name: str, path: Path, removed: str = "") -> None:
    """Load a file's tensors, except those of auxiliary heads and of the head, the layer `removed` if it is below others.

    Raises MachineError if the file cannot be read, or is for another network than the backbone `name`.
    """
    weights = read_weights(path)
    expected = network.state_dict()
    top_level = {key.partition(".")[0] for key in expected}
    for key in list(weights):  # in place, to keep the metadata of torch
        tensor, new_key = weights.pop(key), _OLD_DENSENET_NAME.sub(r"\1\2", key)
        is_head = key.partition(".")[0] not in top_level or (removed and key.startswith(f"{removed}."))
        if not is_head and (new_key not in expected or expected[new_key].shape == tensor.shape):
            weights[new_key] = tensor
    missing, unexpected = load_tensors(network, weights, strict=False)
    # Files from before PyTorch 0.4.1 lack these counters, which are not used.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        needed = sum(not key.endswith("num_batches_tracked") for key in expected)
        what = f"these weights are not for {name}: {len(missing)} of {needed} tensors are missing or of another shape"
        whose, other = ("torchvision's ", "imagenet") if is_of_torchvision(name) else ("", "none")
        fix = f"use a state dict of {whose}{name} (first difference: {[*missing, *unexpected][0]}), or weights: {other}"
        raise MachineError(Problem(what, path, fix))
