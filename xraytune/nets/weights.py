"""Pretrained weights: torchvision's official files, timm's, or the user's own."""

from __future__ import annotations

import http.client
import logging
from pathlib import Path

import torch
from torchvision import models

from xraytune.base.errors import ConfigError, MachineError, Problem
from xraytune.base.files import explain_disk_errors
from xraytune.nets.backbones import hub_errors_explained, timm_config
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
        MachineError: The file is missing, or cannot be downloaded.
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
    sets = models.get_model_weights(backbone) if is_of_torchvision(backbone) else ()
    official = {each.name: each.url for each in sets}
    wanted = _IMAGENET if weights == "imagenet" else (weights,)
    urls = [official[name] for name in wanted if name in official]
    if not urls:
        fix = f"use one of: {', '.join(['imagenet', *official, 'none'])}"
        raise ConfigError(Problem(f"{backbone} has no weight set {weights}", "weights", fix))
    names = " or ".join(Path(url).name for url in urls)
    source = f"(from {urls[0].rpartition('/')[0]}/)"
    if weights_dir is None:
        return _download(urls[0], f"{names} {source}")
    for url in urls:
        file = weights_dir / Path(url).name
        if file.is_file():
            return file
    fix = f"put {names} there {source}, or set weights: none"
    if not weights_dir.is_dir():
        raise MachineError(Problem("there is no such weights folder", weights_dir, fix))
    raise MachineError(Problem(f"no official weights of {backbone}", weights_dir, fix))


def _download(url: str, accepted: str) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if file.is_file():
        return file
    _logger.info("downloading %s", url)
    file.parent.mkdir(parents=True, exist_ok=True)
    sha256_start = file.stem.rpartition("-")[2]  # b0353104 of mobilenet_v2-b0353104
    try:
        with explain_disk_errors(file):
            torch.hub.download_url_to_file(url, str(file), sha256_start, progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        folder = "into a folder and pass it as --weights-dir or `weights_dir`"
        here = f"{file.name} into {file.parent}"
        fix = f"put {accepted} {folder}, or put {here}; or set weights: none"
        what = f"the weights cannot be downloaded ({error})"
        raise MachineError(Problem(what, url, fix)) from error
    return file
