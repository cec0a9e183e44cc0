"""Pretrained weights: torchvision's official files, timm's, or the user's own."""

from __future__ import annotations

import http.client
import logging
from pathlib import Path

import torch

from xraytune.base.errors import ConfigError, MachineError, Problem
from xraytune.base.files import explain_disk_errors, sha256_of
from xraytune.nets.backbones import hub_errors_explained, timm_config, torchvision_models
from xraytune.space.backbones import is_of_torchvision
from xraytune.space.paths import is_path

_logger = logging.getLogger(__name__)
_IMAGENET = ("IMAGENET1K_V2", "IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1")
"""The sets that `imagenet` stands for, best first.

Others are for larger images, or lack the last layers.
"""


def find_weights(backbone: str, weights: str, weights_dir: Path | None) -> Path | None:
    """Return the file of pretrained weights, `Parameters.weights`, or None for `none`.

    `imagenet` is the newest official file in `weights_dir`, a folder of torchvision's files under
    their official names; without a folder, official files are downloaded to torch's cache.

    Raises:
        ConfigError: The backbone has no such set.
        MachineError: The file is missing, damaged, or cannot be downloaded.
    """
    if weights == "none":
        return None
    if weights == "hub":
        repository = timm_config(backbone).get("hf_hub_id") or ""
        from huggingface_hub import hf_hub_download  # comes with timm

        with hub_errors_explained(backbone):
            return Path(hf_hub_download(repository, "model.safetensors"))
    if is_path("weights", weights):
        if not Path(weights).is_file():
            fix = "give the path of a file, or weights: none"
            raise MachineError(Problem("no such weights file", Path(weights), fix))
        return Path(weights)
    sets = torchvision_models().get_model_weights(backbone) if is_of_torchvision(backbone) else ()
    official = {each.name: each.url for each in sets}
    urls = [
        official[name]
        for name in (_IMAGENET if weights == "imagenet" else (weights,))
        if name in official
    ]
    if not urls:
        fix = (
            f"use one of: {', '.join(['imagenet', *official])}" if official else "use weights: none"
        )
        raise ConfigError(Problem(f"{backbone} has no weight set {weights}", "weights", fix))
    names = " or ".join(Path(url).name for url in urls)
    source = f"(from {urls[0].rpartition('/')[0]}/)"
    if weights_dir is None:
        return _download(urls[0], f"{names} {source}")
    for url in urls:
        file = weights_dir / Path(url).name
        if file.is_file():
            return _verified(file, f"download it again from {url}")
    what = (
        f"no official weights of {backbone}"
        if weights_dir.is_dir()
        else "there is no such weights folder"
    )
    raise MachineError(
        Problem(what, weights_dir, f"put {names} there {source}, or set weights: none")
    )


def _download(url: str, accepted: str) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not file.is_file():
        _logger.info("downloading %s", url)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with explain_disk_errors(file):
                torch.hub.download_url_to_file(url, str(file), _hash_prefix(file), progress=False)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            folder = "into a folder and pass it as --weights-dir or `weights_dir`"
            here = f"{file.name} into {file.parent}"
            fix = f"put {accepted} {folder}, or put {here}; or set weights: none"
            raise MachineError(
                Problem(f"the weights cannot be downloaded ({error})", url, fix)
            ) from error
    return _verified(file, "remove the file: it will be downloaded again")


def _verified(file: Path, fix: str) -> Path:
    if not sha256_of(file).startswith(_hash_prefix(file)):
        raise MachineError(
            Problem("the hash of these weights does not match the file name", file, fix)
        )
    return file


def _hash_prefix(file: Path) -> str:
    """Return the start of the SHA-256 in an official name: `b0353104` of `resnet-b0353104.pth`."""
    return file.stem.rpartition("-")[2]
