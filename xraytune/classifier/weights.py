"""Where a backbone's pretrained weights lie on this machine.

Takes what a person asked for (`imagenet`, the name of one of torchvision's weight sets, `none`, or the path of a file)
and gives a file whose hash is right. Without a folder of weights, torchvision's official file is downloaded once, into
torch's own cache.
"""

from __future__ import annotations

import http.client
import logging
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xraytune.config.backbone_names import WEIGHT_SETS, is_of_torchvision
from xraytune.errors import ConfigError, MachineError, Problem
from xraytune.files import explained_disk_errors, is_whole_zip, require_file, sha256_of
from xraytune.tensors import UNREADABLE

_logger = logging.getLogger(__name__)
_IMAGENET = ("IMAGENET1K_V2", "IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1")
"""What `imagenet` may be, the best first; other sets are of larger images, or of a network without its last layers."""


def find_weights(backbone: str, weights: str, weights_dir: Path | None) -> Path | None:
    """The file of pretrained weights, or None where none are wanted.

    Args:
        backbone: A name of `Parameters.backbone`.
        weights: `none`; `imagenet`: torchvision's official weights at the common image sizes, the newest (in
            `weights_dir`: the newest that is there); the name of one set, such as `IMAGENET1K_V2`; or the path of a .pth
            or .safetensors file.
        weights_dir: A folder of official files under their official names; None: torch's cache, filled by a download.

    Raises:
        ConfigError: The backbone has no such set.
        MachineError: The file is missing, damaged, or cannot be downloaded.
    """
    if weights == "none":
        return None
    official = official_urls(backbone)
    if weights == "imagenet":
        wanted = [official[name] for name in _IMAGENET if name in official]
    elif weights in official:
        wanted = [official[weights]]
    elif weights in WEIGHT_SETS:
        fix = f"use one of: {', '.join(['imagenet', *official])}" if official else "use weights: none"
        raise ConfigError(Problem(f"{backbone} has no set of weights {weights}", "weights", fix))
    else:
        return _own_file(weights, ["imagenet", *official] if official else [])
    if weights_dir is None:
        return _downloaded(wanted[0])
    for url in wanted:
        file = weights_dir / _file_name(url)
        if file.is_file():
            return _verified(file, f"get it again from {url}")
    names = " or ".join(map(_file_name, wanted))
    fix = f"put {names} there (from {wanted[0].rpartition('/')[0]}/), or set weights: none"
    what = f"no official weights of {backbone}" if weights_dir.is_dir() else "there is no such folder of weights"
    raise MachineError(Problem(what, weights_dir, fix))


def official_urls(backbone: str) -> dict[str, str]:
    """Name of each of torchvision's weight sets -> its address; none for another's backbone."""
    if not is_of_torchvision(backbone):
        return {}
    from torchvision.models import get_model_weights  # takes seconds, so only where it is needed

    return {member.name: member.url for member in get_model_weights(backbone)}


def put_tensors(
    network: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True
) -> tuple[list[str], list[str]]:
    """Fill a network with named tensors; gives the names that were missing, and those that it does not know.

    Modules of torchvision look up in a state dict's metadata which version of them it is of. Tensors alone, as safetensors
    holds them, are of the network's own version.

    Raises:
        RuntimeError: `strict`, and the names differ; or a shape does.
    """
    state = OrderedDict(tensors)
    own = network.state_dict()._metadata  # type: ignore[attr-defined]
    state._metadata = getattr(tensors, "_metadata", own)  # type: ignore[attr-defined]
    found = network.load_state_dict(state, strict=strict)
    return list(found.missing_keys), list(found.unexpected_keys)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file, on the CPU. Nothing in the file is executed.

    Raises:
        MachineError: The file cannot be read, or holds something else.
    """
    content: Any
    try:
        require_file(path, "file of tensors", MachineError)
        if path.suffix == ".safetensors":
            content = load_file(path)
        elif zipfile.is_zipfile(path) and not is_whole_zip(path):
            raise ValueError("damaged, or compressed")
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        fix = "get the file again; it is a state dict saved by torch.save, or a .safetensors file"
        raise MachineError(Problem("this file of weights cannot be read", path, fix)) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        fix = "save model.state_dict() alone, not a checkpoint around it"
        raise MachineError(Problem("this file holds something else than named tensors", path, fix))
    return content


def _own_file(weights: str, names: list[str]) -> Path:
    path = Path(weights)
    if not path.is_file():
        choices = ", ".join([*names, "none"])
        raise MachineError(Problem("no such file of weights", path, f"give the path of a file, or one of: {choices}"))
    return path


def _downloaded(url: str) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / _file_name(url)
    if not file.is_file():
        _logger.info("downloading %s", url)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with explained_disk_errors(file):
                torch.hub.download_url_to_file(url, str(file), _hash_prefix(file), progress=False)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            get = f"where there is a network, get {url}; put it into a folder and give it as --weights-dir"
            fix = f"{get}, or set weights: none"
            raise MachineError(Problem(f"the weights cannot be downloaded ({error})", url, fix)) from error
    return _verified(file, "remove the file: it is then downloaded again")


def _verified(file: Path, fix: str) -> Path:
    """The file itself, if its SHA-256 begins as its official name says."""
    if not sha256_of(file, "file of tensors").startswith(_hash_prefix(file)):
        what = "the hash of these weights is not the one in the name: the file is damaged or something else"
        raise MachineError(Problem(what, file, fix))
    return file


def _file_name(url: str) -> str:
    return url.rpartition("/")[2]


def _hash_prefix(file: Path) -> str:
    """`b0353104` of `mobilenet_v2-b0353104.pth`: how torchvision names its files."""
    match = re.fullmatch(r".*-([0-9a-f]{8,})", file.stem)
    assert match is not None, file
    return match.group(1)
