"""Backbones: networks that map images to features, made from torchvision's and timm's.

Their pretrained weights are torchvision's official files, timm's, or the user's own.

The last layer, which gives the classes, is removed. For one input channel, the filters of the first
convolution are summed over its three channels, so that a grey image has the same features as its
copy on three channels.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.request import urlopen

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from xraytune.base.errors import ConfigError, MachineError
from xraytune.base.files import explain_disk_errors, sha256_of
from xraytune.base.tensors import UNREADABLE, load_tensors, read_weights
from xraytune.nets.compute import in_one_thread
from xraytune.nets.vision import models
from xraytune.space.backbones import BACKBONES, is_of_torchvision
from xraytune.space.domains import Value
from xraytune.space.encoders import (
    MODEL_FILE,
    ONE_CHANNEL,
    XRAY_ENCODERS,
    architecture_of,
    expected_images,
    is_model,
)
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.messages import nearest
from xraytune.space.paths import is_path

_logger = logging.getLogger(__name__)
_PREFIXES_OF_MODELS = ("backbone.", "unet.encoder.")
"""The prefixes of an encoder's tensors in a classifier and in a segmenter."""
_IMAGENET_CLASSES = 1000
_IMAGENET = ("IMAGENET1K_V2", "IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1")
"""The sets of weights that `imagenet` stands for, best first.

Other sets are for larger images, or lack the last layers.
"""
_FEW_WEIGHTS = 20_000_000
_WITHOUT_WEIGHTS = "weights: none and trainable: all"
_ANSWER_SECONDS = 3.0
"""The time that a server of weights may take to answer."""
_SMALL_CNN_WIDTHS = (16, 32, 64, 96)
_INCEPTIONS = ("googlenet", "inception_v3")
"""These have auxiliary heads, and `transform_input` brings pixels into [-1, 1]."""

# Older files of DenseNet have `norm.1` in place of `norm1`.
_OLD_DENSENET_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")


def build_backbone(
    name: str,
    *,
    weights: Path | None = None,
    input_channels: int = 3,
    settings: Mapping[str, Value] = MappingProxyType({}),
) -> tuple[nn.Module, int]:
    """Build a network that maps images [B, C, S, S] to features [B, D]; return the network and D.

    Images are float32, with 1 or 3 channels. The file of `weights` has the tensor names of
    torchvision, timm or the backbone's own package, or belongs to a model of `xraytune train`; None
    means random weights. If the first convolution in the file has one channel, as in an encoder of
    X-rays, grey images get the same features as in the original network. An extension takes its
    `settings`.

    Raises:
        ConfigError: timm has no such backbone.
        MachineError: The weights cannot be read or are for another network, or timm is not
            installed.
    """
    architecture = architecture_of(name)
    if name == "small_cnn":
        network = _small_cnn()
        feature_count = _SMALL_CNN_WIDTHS[-1]
    elif is_of_torchvision(architecture):
        # Without `init_weights` these two print a warning.
        options = {"aux_logits": False, "init_weights": True} if name in _INCEPTIONS else {}
        network = models.get_model(architecture, weights=None, **options)
        # Replace the last layer with 1,000 outputs by the identity, as timm does.
        layers = network.named_modules()
        heads = {
            layer: module.weight.shape
            for layer, module in layers
            if isinstance(module, nn.Linear | nn.Conv2d) and len(module.weight) == _IMAGENET_CLASSES
        }
        head, (_, feature_count, *_) = [*heads.items()][-1]
        network.set_submodule(head, nn.Identity())
    elif BACKBONES.has(name):
        network = EXTENSIONS.build(name, settings)
        feature_count = _count_features(network, getattr(network, "least_image_px", 64))
    else:
        network = _of_timm(architecture)
        feature_count = _count_features(network, network.pretrained_cfg["input_size"][-1])
    if weights is not None:
        load_weights(network, name, weights)
    if input_channels == 1 or name in ONE_CHANNEL:
        to_one_channel(network, name)
    return network, feature_count


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Return a network for inference, with batch norms folded into the convolutions before them.

    Outputs agree up to rounding. A network that torch cannot trace is not changed, and neither are
    batch norms that do not follow a convolution.
    """
    try:
        folded: nn.Module = fuse(network.eval())
    except UNREADABLE:
        return network
    return folded


def accepts(name: str, side_px: int, *, trains_on_one: bool = False) -> bool:
    """Return whether a backbone accepts images of this side.

    With `trains_on_one`, the backbone must also be trainable on a single image, which is impossible
    if a batch norm would get a single value.
    """
    # Extensions may read values of tensors.
    has_values = BACKBONES.has(name) or _is_small(name)
    network, _ = build_backbone(name) if has_values else _without_values(build_backbone, name)
    device = "cpu" if has_values else "meta"
    channels = 1 if name in ONE_CHANNEL else 3
    image = torch.zeros(1, channels, side_px, side_px, device=device)
    try:
        with torch.inference_mode(), in_one_thread():
            network.train(trains_on_one).to(device)(image)
    except UNREADABLE:
        return False
    return True


def _is_small(name: str) -> bool:
    """Return whether running a network on an image is faster than only computing the shapes.

    To compute shapes, torch imports its compiler, which takes two seconds.
    """
    architecture = architecture_of(name)
    if is_of_torchvision(architecture):
        weights: int = models.get_model_weights(architecture).DEFAULT.meta["num_params"]
        return weights < _FEW_WEIGHTS
    return name == "small_cnn"


def pixel_constants(
    name: str, weights: str = "imagenet"
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of the pixels in [0, 1] that weights expect.

    Both have one number for each channel.
    """
    if images := expected_images(name, weights):
        return images.mean, images.std
    if name in _INCEPTIONS:
        return (0.5,) * 3, (0.5,) * 3
    if is_of_torchvision(name):
        transforms = models.get_model_weights(name).DEFAULT.transforms()
        return (*transforms.mean,), (*transforms.std,)
    if BACKBONES.is_of_library(name):
        config = timm_config(name)
        times = 3 // len(config["mean"])
        return (*config["mean"],) * times, (*config["std"],) * times
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_one_channel(network: nn.Module, name: str) -> None:
    """Sum the first convolution's filters over the three input channels, in place.

    Raises MachineError if the convolution has another number of channels.
    """
    conv = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if conv is None or conv.in_channels != 3 or conv.groups != 1:
        why = "its first layer is not a plain convolution with three channels"
        raise MachineError(
            f"{name} cannot take one channel: {why}",
            "input_channels",
            "set input_channels: 3, or use another backbone",
        )
    conv.weight = nn.Parameter(conv.weight.detach().sum(dim=1, keepdim=True))
    conv.in_channels = 1


def timm_config(name: str) -> dict[str, Any]:
    """Return timm's data about a backbone and its weights; errors are those of `build_backbone`."""
    config: dict[str, Any] = _without_values(_of_timm, name).pretrained_cfg
    return config


def _without_values(build: Callable[[str], Any], name: str) -> Any:
    """Build a network quickly, if possible with tensors that have shapes but no values."""
    try:
        with torch.device("meta"):
            return build(name)
    except NotImplementedError:  # a few networks compute with the values of tensors
        return build(name)


def _of_timm(name: str) -> Any:
    import timm

    model = name.partition("/")[2]
    names = [*timm.list_models(), *timm.list_pretrained()]
    if model not in names and not model.startswith("hf-hub:"):
        fix = nearest(model, names, "`timm.list_models()` returns its names")
        raise ConfigError(f"timm has no model {model}", "backbone", fix)
    with explain_hub_errors(name):
        return timm.create_model(model, pretrained=False, num_classes=0, in_chans=3)


@contextmanager
def explain_hub_errors(name: str) -> Iterator[None]:
    """Raise MachineError if the block cannot download a timm backbone from the Hugging Face Hub."""
    try:
        yield
    except (OSError, ValueError) as error:  # those of the network and of the hub are among them
        raise MachineError(
            f"the weights of {name} cannot be downloaded ({str(error).splitlines()[0]})",
            "huggingface.co",
            "choose a name with a tag, such as timm/resnet18.a1_in1k, or give a file as weights",
        ) from error


def _count_features(network: nn.Module, side_px: int) -> int:
    with torch.no_grad():
        (features,) = network.eval()(torch.zeros(1, 3, side_px, side_px))
    network.train()
    (count,) = features.shape
    return int(count)


def _small_cnn() -> nn.Module:
    """Build a network of four stages of two 3x3 convolutions; each stage halves the side.

    The network is for phantoms and tests, and has 211,000 parameters.
    """
    layers = []
    channels = 3
    for width in _SMALL_CNN_WIDTHS:
        for stride in (2, 1):
            conv = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            layers.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def load_weights(network: nn.Module, name: str, path: Path) -> None:
    """Load a file's tensors, except those of auxiliary heads and of the removed head.

    Raises MachineError if the file cannot be read, or if it is not for the backbone `name`.
    """
    weights = read_weights(path)
    consume_prefix_in_state_dict_if_present(weights, "module.")  # of DataParallel
    expected = network.state_dict()
    top_level = {key.partition(".")[0] for key in expected}
    removed = tuple(
        f"{layer}." for layer, module in network.named_modules() if isinstance(module, nn.Identity)
    )
    prefix = _prefix_of(weights, name)
    for file_key in list(weights):  # in place, to keep the metadata of torch
        tensor = weights.pop(file_key)
        if not file_key.startswith(prefix):
            continue
        key = file_key.removeprefix(prefix)
        new_key = _OLD_DENSENET_NAME.sub(r"\1\2", key)
        is_head = key.partition(".")[0] not in top_level or key.startswith(removed)
        shape = expected[new_key].shape if new_key in expected else tensor.shape
        if shape[1:2] == (3,) and tensor.shape == (shape[0], 1, *shape[2:]):
            tensor = tensor.expand(shape) / 3  # of an encoder of grey images
        if not is_head and tensor.shape == shape:
            weights[new_key] = tensor
    missing, unexpected = load_tensors(network, weights, strict=False)
    # Files from before PyTorch 0.4.1 lack these counters, which are not used.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        wrong = f"{len(missing)} of {len(expected)} tensors are missing or of another shape"
        what = f"these weights are not for {name}: {wrong}"
        first = [*missing, *unexpected][0]
        raise MachineError(
            what,
            path,
            f"use a state dict of {name} (first difference: {first}), or {_WITHOUT_WEIGHTS}",
        )


def _prefix_of(weights: Mapping[str, Tensor], backbone: str) -> str:
    """Return the prefix of an encoder's tensors in a file that has more than the encoder."""
    encoder = XRAY_ENCODERS.get(backbone)
    prefixes = [encoder.prefix] if encoder and encoder.prefix else []
    for prefix in (*prefixes, *_PREFIXES_OF_MODELS):
        if any(key.startswith(prefix) for key in weights):
            return prefix
    return ""


def find_weights(
    backbone: str,
    weights: str,
    weights_dir: Path | None,
    *,
    may_download: bool = True,
    without_weights: str = _WITHOUT_WEIGHTS,
) -> Path | None:
    """Return the file of pretrained weights, `Parameters.weights`, or None for `none`.

    `imagenet` is the newest official file in `weights_dir`, a folder of torchvision's files under
    their official names; without a folder, official files are downloaded to torch's cache. Without
    `may_download`, None is also returned for a file that could be downloaded. `without_weights`
    names settings that need no file, for the error messages.

    Raises:
        ConfigError: The backbone has no such set.
        MachineError: The file is missing, cannot be downloaded, or is not the official one.
    """
    if weights == "none":
        return None
    if weights == "hub":
        return _find_on_hub(backbone, may_download=may_download)
    if is_path("weights", weights):
        file = Path(weights)
        if is_model(weights):
            file = file / MODEL_FILE
        if not file.is_file():
            raise MachineError(
                "no such weights file", file, f"give the path of a file, or set {without_weights}"
            )
        return file
    urls = _official_urls(backbone, weights)
    names = " or ".join(Path(url).name for url in urls)
    origin = f"(from {urls[0].rpartition('/')[0]}/)"
    if weights_dir is not None:
        for url in urls:
            file = weights_dir / Path(url).name
            if file.is_file():
                return _require_official(file, url)
        raise MachineError(
            f"no official weights of {backbone} here",
            weights_dir,
            f"put {names} there {origin}, or set {without_weights}",
        )
    url = urls[0]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if file.is_file():
        return _require_official(file, url)
    try:
        with explain_disk_errors(file):
            with urlopen(url, timeout=_ANSWER_SECONDS):  # the download would wait for minutes
                pass
            if not may_download:
                return None
            _logger.info("downloading %s", url)
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), progress=False)
    except (OSError, RuntimeError, HTTPException) as error:
        raise MachineError(
            f"the weights cannot be downloaded ({error})",
            url,
            f"put {names} {origin} into a folder and pass it as --weights-dir or `weights_dir`, or "
            f"put {file.name} into {file.parent}; or set {without_weights}",
        ) from error
    return _require_official(file, url)


def _find_on_hub(backbone: str, *, may_download: bool) -> Path | None:
    """Return the file of timm's weights; None if it must not be downloaded and is not there."""
    from huggingface_hub import hf_hub_download  # comes with timm
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository = timm_config(backbone).get("hf_hub_id") or ""
    with explain_hub_errors(backbone):
        try:
            downloaded = hf_hub_download(
                repository, "model.safetensors", local_files_only=not may_download
            )
        except LocalEntryNotFoundError:
            if may_download:
                raise
            return None
    return Path(downloaded)


def _official_urls(backbone: str, weights: str) -> list[str]:
    """Return where torchvision has the sets of weights that a word stands for, best first."""
    sets = models.get_model_weights(backbone) if is_of_torchvision(backbone) else ()
    official = {each.name: each.url for each in sets}
    set_names = _IMAGENET if weights == "imagenet" else (weights,)
    urls = [official[name] for name in set_names if name in official]
    if not urls:
        raise ConfigError(
            f"{backbone} has no weight set {weights}",
            "weights",
            f"use one of: {', '.join(['imagenet', *official, 'none'])}",
        )
    return urls


def _require_official(file: Path, url: str) -> Path:
    """Return an official file after comparing its SHA-256 with the first digits in its name."""
    start = file.stem.rpartition("-")[2]  # b0353104 of mobilenet_v2-b0353104
    if not sha256_of(file).startswith(start):
        raise MachineError(
            "this file is damaged or another one: its SHA-256 does not match its name",
            file,
            f"remove it, and download {url}",
        )
    return file
