"""The backbones: networks that turn an image into features, made from torchvision's classifiers by a few rules.

Those of other packages are such networks as they come. For torchvision's:

- The layer that gives torchvision's 1,000 classes is taken out, whatever it is called; all else stays as it is.
- One input channel: the first convolution's filters are summed over their input channels, so that a grey image gives
  what the same image, repeated over three channels, gives the three-channel network.
- Weights are loaded as torchvision loads them, and have to fit tensor by tensor.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from xraytune.classifier.weights import put_tensors, read_weights
from xraytune.config.backbone_names import BACKBONES, is_of_torchvision
from xraytune.errors import ConfigError, MachineError, Problem

_IMAGENET_CLASSES = 1000
_SMALL_CNN_WIDTHS = (16, 32, 64, 96)
_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")

_LAST_STAGE_STARTS = {
    "small_cnn": "6.",
    "alexnet": "features.6.",
    "convnext": "features.6.",
    "densenet": "features.denseblock4.",
    "efficientnet": "features.6.",
    "googlenet": "inception5a.",
    "inception_v3": "Mixed_7a.",
    "maxvit": "blocks.3.",
    "mnasnet": "layers.12.",
    "mobilenet_v2": "features.14.",
    "mobilenet_v3_large": "features.13.",
    "mobilenet_v3_small": "features.9.",
    "regnet": "trunk_output.block4.",
    "resn": "layer4.",
    "shufflenet": "stage4.",
    "squeezenet1_0": "features.12.",
    "squeezenet1_1": "features.9.",
    "swin": "features.6.",
    "vgg11": "features.16.",
    "vgg13": "features.20.",
    "vgg16": "features.24.",
    "vgg19": "features.28.",
    "vgg11_bn": "features.22.",
    "vgg13_bn": "features.28.",
    "vgg16_bn": "features.34.",
    "vgg19_bn": "features.40.",
    "vit_b": "encoder.layers.encoder_layer_11.",
    "vit_l": "encoder.layers.encoder_layer_23.",
    "vit_h": "encoder.layers.encoder_layer_31.",
    "wide_resnet": "layer4.",
}
"""By the start of a backbone's name, the longest that fits: where its last stage starts, the convolutions at its coarsest
resolution and all after them. A ViT has one resolution: its last block."""

# Older files of DenseNet have `norm.1`, where modules are now called `norm1`.
_OLD_DENSENET_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")


def build_backbone(name: str, *, weights: Path | None = None, input_channels: int = 3) -> tuple[nn.Module, int]:
    """A network from images, float32 [B, C, S, S], to features [B, D]; and D.

    Args:
        name: A name of `Parameters.backbone`.
        weights: A file with torchvision's names (another package's backbone: its own) and three input channels; None: random
            weights.
        input_channels: C, 1 or 3.

    Raises:
        MachineError: The weights cannot be read or are of another network.
    """
    if name == "small_cnn":
        network, replaced, feature_count = _small_cnn(), "", _SMALL_CNN_WIDTHS[-1]
    elif BACKBONES.has(name):
        (network, feature_count), replaced = _of_another_package(name), ""
    else:
        from torchvision.models import get_model  # takes seconds, so only where it is needed

        # Auxiliary heads steady a training from nothing over weeks; without saying how to draw weights, these two warn.
        options = {"aux_logits": False, "init_weights": True} if name in _WITH_AUXILIARY_HEADS else {}
        network = get_model(name, weights=None, **options)
        replaced, feature_count = _take_head_out(network)
    if weights is not None:
        _load_weights(network, name, weights, replaced)
    if input_channels == 1:
        take_grey_images(network, name)
    return network, feature_count


def last_stage_names(backbone: str, network: nn.Module) -> frozenset[str]:
    """The names of the parameters that `trainable: last_stage` trains: all from the last stage's first one on.

    Raises:
        ConfigError: A backbone of another package does not say where that is.
    """
    if BACKBONES.has(backbone):
        start = getattr(BACKBONES.load(backbone), "last_stage", "nowhere")
    else:
        start = _LAST_STAGE_STARTS[max((name for name in _LAST_STAGE_STARTS if backbone.startswith(name)), key=len)]
    names = [name for name, _ in network.named_parameters()]
    first = next((index for index, name in enumerate(names) if name.startswith(start)), None)
    if first is None:
        what = f"backbone {backbone} does not say where its last stage starts"
        raise ConfigError(Problem(what, "trainable", "set its last_stage, or use trainable: all"))
    return frozenset(names[first:])


def take_grey_images(network: nn.Module, name: str) -> None:
    """Make the first convolution one of a single channel that equals the old one on grey images.

    Raises:
        MachineError: The network does not begin with a convolution of three channels.
    """
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1:
        what = f"{name} cannot be made 1-channel: it does not begin with a plain convolution of three channels"
        raise MachineError(Problem(what, "input_channels", "set input_channels: 3, or take another backbone"))
    first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
    first.in_channels = 1


def _take_head_out(network: nn.Module) -> tuple[str, int]:
    """Replace the layer that gives the classes by nothing; its name, and the features it was given."""
    heads = [
        (name, module.in_features if isinstance(module, nn.Linear) else module.in_channels)
        for name, module in network.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == _IMAGENET_CLASSES)
        or (isinstance(module, nn.Conv2d) and module.out_channels == _IMAGENET_CLASSES)
    ]
    name, feature_count = heads[-1]
    network.set_submodule(name, nn.Identity())
    return name, feature_count


def _of_another_package(name: str) -> tuple[nn.Module, int]:
    """The network, and the features that it gives, counted on one image."""
    build = BACKBONES.load(name)
    network, side_px = build(), getattr(build, "least_image_px", 64)
    with torch.no_grad():
        (features,) = network.eval()(torch.zeros(1, 3, side_px, side_px))
    (feature_count,) = features.shape
    return network.train(), feature_count


def _small_cnn() -> nn.Module:
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


def _load_weights(network: nn.Module, name: str, path: Path, replaced: str) -> None:
    """Fill a network from a file; the file's own head, and auxiliary ones, are left out."""
    given = read_weights(path)
    expected = network.state_dict()
    top_level = {key.partition(".")[0] for key in expected}
    for key in list(given):
        tensor, name_now = given.pop(key), _OLD_DENSENET_NAME.sub(r"\1\2", key)
        is_own = key.partition(".")[0] in top_level and not (replaced and key.startswith(f"{replaced}."))
        if is_own and (name_now not in expected or expected[name_now].shape == tensor.shape):
            given[name_now] = tensor
    missing, unknown = put_tensors(network, given, strict=False)
    # Files older than PyTorch 0.4.1 have no BatchNorm counters, and nothing here reads them.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unknown:
        needed = [key for key in expected if not key.endswith("num_batches_tracked")]
        what = (
            f"these weights are not of {name}: {len(missing)} of {len(needed)} tensors are missing or of another shape"
        )
        whose, other = ("torchvision's ", "imagenet") if is_of_torchvision(name) else ("", "none")
        fix = f"give the state dict of {whose}{name} (first difference: {[*missing, *unknown][0]}), "
        raise MachineError(Problem(what, path, f"{fix}or set weights: {other}"))
