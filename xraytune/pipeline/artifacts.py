"""Work that trials share is done once: an artifact lies at the fingerprint of everything it depends on.

`build_once(cache, stage, inputs, build)` gives the folder of an artifact, building it when it is missing or damaged.
Its manifest lists the inputs and every file's size and SHA-256. Correctness rests on no lock: two builders may race,
each fills a folder of its own, and the first to rename wins. A builder that dies leaves a hidden folder that nobody
reads and `clean` removes. A lock that ends with its owner spares a second builder the work; where there is none, both do it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from xraytune.files import explained_disk_errors, new_folder, read_json, sha256_of, temporary_name, write_json
from xraytune.lease import turn

_MANIFEST = "manifest.json"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seal:
    """How an artifact looked when its bytes were hashed: its manifest, and each file's size and time of change."""

    manifest: bytes
    files: tuple[tuple[str, int, int], ...]


_verified: dict[Path, _Seal] = {}
# What a look at a file says where the file is damaged, or was removed by somebody else; a refusal of access is neither.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG}


def releases(*packages: str) -> dict[str, str]:
    """The installed release of each package, for a fingerprint of what it computes.

    The build behind a plus sign is left out (2.15.0 of 2.15.0+cu132): see docs/decisions/0019-versions-in-fingerprints.md.
    """
    return {name: version(name).partition("+")[0] for name in packages}


def fingerprint(stage: str, inputs: Mapping[str, Any]) -> str:
    """32 hex digits of SHA-256 over the stage's name and version ("gan-1") and its inputs, as sorted JSON."""
    text = json.dumps({"stage": stage, "inputs": inputs}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def artifact_path(cache: Path, stage: str, inputs: Mapping[str, Any]) -> Path:
    """Where the artifact lies, or would."""
    return cache / stage / fingerprint(stage, inputs)


def build_once(
    cache: Path,
    stage: str,
    inputs: Mapping[str, Any],
    build: Callable[[Path], None],
    *,
    waiting: Callable[[], None] = lambda: None,
) -> Path:
    """The folder of an artifact that is whole, built by `build(folder)` when need be.

    While another process builds it, `waiting` is called several times a second.

    Raises:
        MachineError: The disk is full.
    """
    path = artifact_path(cache, stage, inputs)
    if is_whole(path):
        return path
    with turn(path.with_name(f".{path.name}.lock"), waiting):
        if is_whole(path):
            return path
        if os.path.lexists(path):
            _logger.warning("%s is damaged and will be built again", path)
            discard(path)
        with new_folder(path, is_shared=True) as folder:
            build(folder)
            files = {
                str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            write_json(folder / _MANIFEST, {"stage": stage, "inputs": inputs, "files": files})
    return path


def is_whole(path: Path) -> bool:
    """Whether the artifact of this very place is there with every byte that its manifest lists.

    Each call looks at the size and the time of change of every file; the bytes are hashed once in a process, and again
    where a file has another time.

    Raises:
        PermissionError: It may not be read.
    """
    try:
        manifest = (path / _MANIFEST).read_bytes()
        known = _verified.get(path)
        if known and known.manifest == manifest and known.files == _looks(path, [name for name, _, _ in known.files]):
            return True
        expected = _expected_files(path, manifest)
        looks = _looks(path, expected)
        is_right = all(
            size == expected[name]["bytes"] and sha256_of(path / name) == expected[name]["sha256"]
            for name, size, _ in looks
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    except OSError as error:
        if error.errno in _DAMAGE:
            return False
        raise
    if is_right:
        _verified[path] = _Seal(manifest, looks)
    return is_right


def artifacts_of(cache: Path, stage: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every artifact of a stage with its inputs, in the order of their names; whether each is whole was not looked at.

    What cannot be read, and what killed builders left, is passed over.
    """
    for path in sorted((cache / stage).glob("[!.]*")):
        try:
            content = read_json(path / _MANIFEST)
            if content["stage"] == stage and fingerprint(stage, content["inputs"]) == path.name:
                yield path, content["inputs"]
        except (OSError, ValueError, KeyError, TypeError):
            continue


def content_sha256(path: Path, file: str) -> str:
    """The SHA-256 of a file of an artifact that is whole, as its manifest has it."""
    return str(read_json(path / _MANIFEST)["files"][file]["sha256"])


def _expected_files(path: Path, manifest: bytes) -> dict[str, Any]:
    """What a manifest lists: a file's `bytes` and `sha256` by its name.

    Raises:
        ValueError: It is no manifest of this place, but of another stage version or other inputs; or it names a file
            outside the folder.
    """
    content = json.loads(manifest)
    stage, files = content["stage"], dict(content["files"])
    if (stage, fingerprint(stage, content["inputs"])) != (path.parent.name, path.name):
        raise ValueError("another artifact's manifest")
    for name in map(PurePosixPath, files):
        if name.is_absolute() or ".." in name.parts:
            raise ValueError("a name that leaves the folder")
    return files


def _looks(path: Path, names: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """Each file's name, size and time of change.

    Raises:
        ValueError: One is a link or a folder, or its name holds a NUL.
        OSError: One is not there.
    """
    seen = [(name, (path / name).lstat()) for name in names]
    if not all(stat.S_ISREG(status.st_mode) for _, status in seen):
        raise ValueError("something else than a file")
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in seen)


def discard(path: Path) -> None:
    """Take a file or a folder out of the way at once; who has it open may read on, and who does the same may be first.

    Raises:
        MachineError: The system refuses access.
    """
    aside = temporary_name(path)
    with explained_disk_errors(path):
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)  # a network disk keeps what is still open; `clean` removes the rest
    else:
        aside.unlink(missing_ok=True)
