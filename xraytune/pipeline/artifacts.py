"""Work that trials share is done once: an artifact lies at the fingerprint of everything it depends on.

`build_once(cache, stage, inputs, build)` gives the folder of an artifact, building it when it is missing or damaged.
Its manifest lists the inputs and every file's size and SHA-256. Correctness rests on no lock: two builders may race,
each fills a folder of its own, and the first to rename wins. A builder that dies leaves a hidden folder that nobody
reads. A lock that ends with its owner spares a second builder the work; where there is none, both do it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xraytune.files import new_folder, read_json, sha256_of, temporary_name, write_json
from xraytune.lease import turn

_MANIFEST = "manifest.json"
_logger = logging.getLogger(__name__)
_verified: set[tuple[Path, int]] = set()


def fingerprint(stage: str, inputs: Mapping[str, Any]) -> str:
    """32 hex digits of SHA-256 over the stage's name and version ("gan-1") and its inputs, as sorted JSON."""
    text = json.dumps({"stage": stage, "inputs": inputs}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def artifact_path(cache: Path, stage: str, inputs: Mapping[str, Any]) -> Path:
    """Where the artifact lies, or would."""
    return cache / stage / fingerprint(stage, inputs)


def build_once(cache: Path, stage: str, inputs: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder of an artifact that is whole, built by `build(folder)` when need be.

    Raises:
        MachineError: The disk is full.
    """
    path = artifact_path(cache, stage, inputs)
    if is_whole(path):
        return path
    with turn(path.with_name(f".{path.name}.lock")):
        if is_whole(path):
            return path
        _set_aside(path)
        with new_folder(path) as folder:
            build(folder)
            files = {
                str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            write_json(folder / _MANIFEST, {"stage": stage, "inputs": inputs, "files": files})
    return path


def is_whole(path: Path) -> bool:
    """Whether the artifact is there with every byte that its manifest lists; checked once in a process."""
    manifest = path / _MANIFEST
    try:
        key = (path, manifest.stat().st_mtime_ns)
        if key in _verified:
            return True
        files = read_json(manifest)["files"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        return False
    for name, expected in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != expected["bytes"] or sha256_of(file) != expected["sha256"]:
            return False
    _verified.add(key)
    return True


def _set_aside(path: Path) -> None:
    """Take a damaged artifact out of the way; who has it open may read on."""
    if not path.exists():
        return
    _logger.warning("%s is damaged and will be built again", path)
    aside = temporary_name(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    for file in sorted(aside.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    aside.rmdir()
