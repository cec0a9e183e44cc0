"""Pretrained weights: torchvision's official files, verified by the hash in their names, or the user's own."""

from __future__ import annotations

import http.client
import logging
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xraytune.base.errors import ConfigError, MachineError, Problem
from xraytune.base.files import explain_disk_errors, is_whole_zip, require_file, sha256_of
from xraytune.base.tensors import UNREADABLE
from xraytune.space.backbones import WEIGHT_SETS, is_of_torchvision
from xraytune.space.settings import Parameters

_logger = logging.getLogger(__name__)
_IMAGENET = ("IMAGENET1K_V2", "IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1")
"""The sets that `imagenet` stands for, best first; others are for larger images, or lack the last layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A file of weights and its SHA-256."""

    path: Path
    sha256: str


def pretrained_weights(parameters: Parameters, weights_dir: Path | None) -> Pretrained | None:
    """Return the weights of a trial's backbone; None if it starts from random ones. Errors as in `find_weights`."""
    file = find_weights(parameters.backbone, parameters.weights, weights_dir)
    return Pretrained(path=file, sha256=sha256_of(file, "file of tensors")) if file else None


def find_weights(backbone: str, weights: str, weights_dir: Path | None) -> Path | None:
    """Return the file of pretrained weights, or None for `none`.

    Args:
        backbone: A name of `Parameters.backbone`.
        weights: `none`; `imagenet` for the newest official weights (in `weights_dir`, the newest there); the name of a
            weight set, such as `IMAGENET1K_V2`; or the path of a .pth or .safetensors file.
        weights_dir: A folder of official files under their official names, or None to download them to torch's cache.

    Raises:
        ConfigError: The backbone has no such set.
        MachineError: The file is missing, damaged, or cannot be downloaded.
    """
    if weights == "none":
        return None
    official = official_urls(backbone)
    names = ["imagenet", *official] if official else []
    if weights == "imagenet" and official:
        urls = [official[name] for name in _IMAGENET if name in official]
    elif weights in official:
        urls = [official[weights]]
    elif weights in {"imagenet", *WEIGHT_SETS}:
        fix = f"use one of: {', '.join(names)}" if names else "use weights: none"
        raise ConfigError(Problem(f"{backbone} has no weight set {weights}", "weights", fix))
    elif Path(weights).is_file():
        return Path(weights)
    else:
        fix = f"give the path of a file, or one of: {', '.join([*names, 'none'])}"
        raise MachineError(Problem("no such weights file", Path(weights), fix))
    if weights_dir is None:
        return _download(urls)
    for url in urls:
        if (file := weights_dir / Path(url).name).is_file():
            return _verified(file, f"download it again from {url}")
    files, source = _files(urls)
    fix = f"put {files} there (from {source}), or set weights: none"
    what = f"no official weights of {backbone}" if weights_dir.is_dir() else "there is no such weights folder"
    raise MachineError(Problem(what, weights_dir, fix))


def official_urls(backbone: str) -> dict[str, str]:
    """Return the URL of each of torchvision's weight sets by name; none for other backbones."""
    if not is_of_torchvision(backbone):
        return {}
    from torchvision.models import get_model_weights  # takes seconds to import

    return {member.name: member.url for member in get_model_weights(backbone)}


def load_tensors(
    network: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True
) -> tuple[list[str], list[str]]:
    """Load named tensors into a network; return missing and unexpected names.

    A state dict saved by torch carries the version of each module in its metadata, by which torchvision translates old
    names. Tensors without it, as from safetensors, are assumed to be from the installed version. Raises RuntimeError if a
    shape differs, or with `strict` the names do.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(tensors, "_metadata", network.state_dict()._metadata)  # type: ignore[attr-defined]
    # Encoders of segmentation-models-pytorch have a method of their own, which returns nothing.
    keys = nn.Module.load_state_dict(network, state, strict=strict)
    return keys.missing_keys, keys.unexpected_keys


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .pth or .safetensors file to the CPU, without executing anything in it.

    Raises MachineError if it cannot be read or holds something else.
    """
    content: Any
    try:
        require_file(path, "file of tensors", MachineError)
        if path.suffix == ".safetensors":
            content = load_file(path)
        elif zipfile.is_zipfile(path) and not is_whole_zip(path):
            raise ValueError("damaged or compressed")
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        fix = "use another copy: a state dict saved by torch.save, or a .safetensors file"
        raise MachineError(Problem("this weights file cannot be read", path, fix)) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        fix = "save model.state_dict() alone, not a checkpoint that contains it"
        raise MachineError(Problem("this file is not a state dict of named tensors", path, fix))
    return content


def _files(urls: Sequence[str]) -> tuple[str, str]:
    """Return the names of the files that would do, the preferred one first, and where they come from."""
    return " or ".join(Path(url).name for url in urls), f"{urls[0].rpartition('/')[0]}/"


def _download(urls: Sequence[str]) -> Path:
    url = urls[0]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not file.is_file():
        _logger.info("downloading %s", url)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with explain_disk_errors(file):
                torch.hub.download_url_to_file(url, str(file), _hash_prefix(file), progress=False)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            files, source = _files(urls)
            fix = (
                f"put {files} (from {source}) into a folder and pass it as --weights-dir or `weights_dir`, or put "
                f"{file.name} into {file.parent}; or set weights: none"
            )
            raise MachineError(Problem(f"the weights cannot be downloaded ({error})", url, fix)) from error
    return _verified(file, "remove the file: it will be downloaded again")


def _verified(file: Path, fix: str) -> Path:
    if not sha256_of(file, "file of tensors").startswith(_hash_prefix(file)):
        raise MachineError(Problem("the hash of these weights does not match the file name", file, fix))
    return file


def _hash_prefix(file: Path) -> str:
    """Return the start of the SHA-256 in an official name: `b0353104` of `mobilenet_v2-b0353104.pth`."""
    return file.stem.rpartition("-")[2]
