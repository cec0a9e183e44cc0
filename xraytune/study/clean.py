"""Free disk space in an artifact cache, which several studies and users may share.

Only what the next search, confirm or train can compute again is removed. It is named by this file's naming schemes and is a
real file or folder: nothing behind a symbolic link is listed, measured or removed.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from xraytune.base import artifacts
from xraytune.base.errors import ConfigError, Problem
from xraytune.base.files import check_fences, explain_disk_errors

_OLD_SECONDS = 3600.0
_STAGE = re.compile(r"[a-z]+(-[a-z]+)*-\d+(\.work)?")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_LEFTOVER = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")
"""The temporary files of `files.temporary_name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What was removed, or would be: the bytes of each path. `note` says what was kept unexpectedly, and why."""

    path: Path
    removed: dict[Path, int]
    is_dry_run: bool
    note: str = ""

    @property
    def total_bytes(self) -> int:
        """The sum over all paths."""
        return sum(self.removed.values())


def clean_cache(
    cache: Path = Path("cache"), *, max_size: str, dry_run: bool = False, clock: Callable[[], float] = time.time
) -> Cleaned:
    """Remove leftovers, and then the least recently used artifacts until a cache is no larger than `max_size`.

    What was used or written in the last hour stays. A running search computes again what it misses.

    Args:
        cache: The artifact cache.
        max_size: Such as 50GB or 50GiB.
        dry_run: Remove nothing, but return what would be removed.
        clock: Seconds since 1970.

    Raises:
        ConfigError: There is no such folder, or `max_size` is not a size.
        MachineError: The system refuses access.
    """
    try:
        limit = TypeAdapter(ByteSize).validate_python(max_size)
    except ValidationError as error:
        fix = "give a number with a unit, such as 50GB"
        raise ConfigError(Problem(f"{max_size!r} is not a size", "--max-size", fix)) from error
    if not cache.is_dir():
        raise ConfigError(Problem("no cache here", cache, "give its folder: --cache DIR"))
    cache = cache.resolve()
    removed: dict[Path, int] = {}

    def remove(path: Path) -> None:
        removed[path] = _size_bytes(path)
        if not dry_run:
            check_fences()
            artifacts.discard(path)

    with explain_disk_errors(cache):
        stages = [path for path in sorted(cache.iterdir()) if _STAGE.fullmatch(path.name) and _is_folder(path)]
        for path in (path for stage in stages for path in sorted(stage.iterdir())):
            is_leftover = _LEFTOVER.fullmatch(path.name) and not path.is_symlink()
            if is_leftover and clock() - _changed(path) > _OLD_SECONDS:
                remove(path)
        left = _size_bytes(cache) - (sum(removed.values()) if dry_run else 0)
        folders = (path for stage in stages for path in sorted(stage.iterdir()) if _FINGERPRINT.fullmatch(path.name))
        used = {path: _changed(path) for path in folders if _is_folder(path)}  # each use touches the manifest
        for path in sorted(used, key=used.__getitem__):
            if left <= limit or clock() - used[path] < _OLD_SECONDS:
                break
            remove(path)
            left -= removed[path]
    note = f"{left / 2**20:,.1f} MiB kept: used in the last hour, or not artifacts" if left > limit else ""
    return Cleaned(path=cache, removed=removed, is_dry_run=dry_run, note=note)


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of a path and of everything below it; links are not followed."""
    below = (Path(where, name) for where, folders, files in os.walk(path) for name in (*folders, *files))
    for entry in (path, *below):
        with suppress(FileNotFoundError):
            yield entry.lstat()


def _changed(path: Path) -> float:
    return max((status.st_mtime for status in _stats(path)), default=0.0)


def _size_bytes(path: Path) -> int:
    return sum(status.st_size for status in _stats(path) if stat.S_ISREG(status.st_mode))
