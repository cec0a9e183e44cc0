"""Compute shared results of trials once, and cache them by all that they depend on.

`build_once(cache, stage, inputs, build)` returns the folder of an artifact and builds it if it is
missing or damaged. A manifest lists its inputs and the size and SHA-256 of every file. A lock saves
a second process from repeating the work, but correctness does not depend on it: each builder fills
a folder of its own, and the first to rename it wins. A killed builder leaves a hidden folder, which
nothing reads and `cache clean` removes.

Each use of an artifact updates the modification time of its manifest, by which `cache clean`
removes the oldest artifacts first. Only folders with such a manifest are removed, and only in a
cache with the tag that a new cache gets.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xraytune.base.files import (
    explain_disk_errors,
    new_folder,
    parse_json,
    read_bytes,
    sha256_of,
    temporary_name,
    write_json,
    write_text,
)
from xraytune.base.locks import build_lock

CACHE_TAG = "CACHEDIR.TAG"
"""This tag marks a cache, also for backup programs. Source: https://bford.info/cachedir/."""
TAG_LINE = "Signature: 8a477f597d28d172789f06886806bc55"
MANIFEST = "manifest.json"
_logger = logging.getLogger(__name__)


_version = lru_cache(version)  # `version` parses the metadata of the package in each call


def releases(*packages: str) -> dict[str, str]:
    """Return the installed release of each package: 2.15.0 for 2.15.0+cu132 (decision 19)."""
    return {name: _version(name).partition("+")[0] for name in packages}


def fingerprint(stage: str, inputs: Mapping[str, Any]) -> str:
    """Return 32 hex digits of SHA-256 over a stage and its inputs, as sorted JSON.

    `stage` is a name with a version, such as `gan-1`.
    """
    text = json.dumps({"stage": stage, "inputs": inputs}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def artifact_path(cache: Path, stage: str, inputs: Mapping[str, Any]) -> Path:
    """Return the folder of the artifact, whether it exists or not."""
    return cache / stage / fingerprint(stage, inputs)


def start_folder(cache: Path, stage: str, inputs: Mapping[str, Any]) -> Path:
    """Create the folder of an artifact that grows or is in progress, with a manifest."""
    path = artifact_path(cache, stage, inputs)
    write_json(path / MANIFEST, {"stage": path.parent.name, "inputs": inputs})
    return path


def is_cache(folder: Path) -> bool:
    """Return whether a folder has the tag of a cache of xraytune."""
    tag = folder / CACHE_TAG
    if not tag.is_file():
        return False
    content = tag.read_bytes()
    return content.startswith(TAG_LINE.encode()) and b"xraytune" in content


def build_once(
    cache: Path,
    stage: str,
    inputs: Mapping[str, Any],
    build: Callable[[Path], None],
    *,
    waiting: Callable[[], None] | None = None,
) -> Path:
    """Return the folder of an intact artifact; if there is none, `build(folder)` fills it.

    While another process builds the artifact, `waiting` is called as in `build_lock`.
    """
    path = artifact_path(cache, stage, inputs)
    if is_intact(path):
        return path
    if not cache.exists() or not any(cache.iterdir()):  # other content might be a user's
        explanation = "# A cache of xraytune, which can compute all of it again."
        write_text(cache / CACHE_TAG, f"{TAG_LINE}\n{explanation}\n")
    with build_lock(path.with_name(f".{path.name}.lock"), waiting):
        if is_intact(path):
            return path
        if os.path.lexists(path):
            _logger.warning("%s is damaged and will be built again", path)
            discard(path)
        with new_folder(path, is_shared=True) as folder:
            build(folder)
            files = {
                str(file.relative_to(folder)): {
                    "bytes": file.stat().st_size,
                    "sha256": sha256_of(file),
                }
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            write_json(folder / MANIFEST, {"stage": stage, "inputs": inputs, "files": files})
    return path


def is_intact(path: Path) -> bool:
    """Return whether the files of an artifact match its manifest; if they do, record this use.

    Raises:
        OSError: A file is there, but cannot be read.
    """
    try:
        for name, expected in _read_manifest(path)["files"].items():
            file = path / name
            if file.stat().st_size != expected["bytes"] or sha256_of(file) != expected["sha256"]:
                return False
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError):
        return False
    record_use(path)
    return True


def record_use(path: Path) -> None:
    """Set the time of an artifact's last use to now, if the artifact is there."""
    with suppress(OSError):  # a read-only cache, or a file of another user
        os.utime(path / MANIFEST)


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of an artifact, finished or not; ValueError if it is another one's."""
    return _parse_manifest(path.parent.name, path.name, read_bytes(path / MANIFEST))


@lru_cache(
    maxsize=16
)  # the manifest of decoded images lists all of them, and is read several times a trial
def _parse_manifest(stage: str, name: str, text: bytes) -> dict[str, Any]:
    content: dict[str, Any] = parse_json(text)
    if (content["stage"], fingerprint(stage, content["inputs"])) != (stage, name):
        raise ValueError("another artifact's manifest")
    return content


def artifacts_of(cache: Path, stage: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each artifact of a stage that can be read, with its inputs, sorted by name.

    The files of the artifacts are not verified.
    """
    for path in sorted((cache / stage).glob("[!.]*")):
        inputs = manifest_inputs(path)
        if inputs is not None:
            yield path, inputs


def manifest_inputs(path: Path) -> dict[str, Any] | None:
    """Return the inputs of an artifact, finished or not; None if the folder is no artifact."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return dict(_read_manifest(path)["inputs"])
    return None


def discard(path: Path) -> None:
    """Remove a file or folder atomically, if it exists.

    Processes that have it open can go on reading.
    """
    temporary = temporary_name(path)
    with explain_disk_errors(path):
        try:
            path.rename(temporary)
        except FileNotFoundError:
            return
    if temporary.is_dir() and not temporary.is_symlink():
        # A network disk keeps files that are still open; `cache clean` removes them later.
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)
