"""Free disk space in an artifact cache, which several studies and users may share.

Only what the next search, confirm or train can compute again is removed: folders with the manifest
of an artifact, and temporary files, in a folder that xraytune tagged as its cache. Nothing behind a
symbolic link is listed or removed.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from xraytune.base import artifacts
from xraytune.base.errors import ConfigError, Problem
from xraytune.base.files import explain_disk_errors

_OLD_SECONDS = 3600.0
_STAGE = re.compile(r"[a-z]+(-[a-z]+)*-\d+(\.work)?")
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
    cache: Path = Path("cache"),
    *,
    max_size: str,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
) -> Cleaned:
    """Remove leftovers, and then the least recently used artifacts until a cache is no larger than `max_size`.

    What was used or written in the last hour stays. A running search computes again what it misses.

    Args:
        cache: The artifact cache.
        max_size: Such as 50GB or 50GiB.
        dry_run: Remove nothing, but return what would be removed.
        clock: Seconds since 1970.

    Raises:
        ConfigError: The folder is missing or no cache of xraytune, or `max_size` is not a size.
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
    if not artifacts.is_cache(cache):
        tag = shlex.quote(str(cache / artifacts.CACHE_TAG))
        fix = f"if xraytune made it, mark it: echo '{artifacts.TAG_LINE} xraytune' > {tag}"
        raise ConfigError(
            Problem(f"not a cache of xraytune: it has no {artifacts.CACHE_TAG}", cache, fix)
        )
    with explain_disk_errors(cache):
        stages = [
            path
            for path in sorted(cache.iterdir())
            if _STAGE.fullmatch(path.name) and _is_folder(path)
        ]
        entries = [
            path for stage in stages for path in sorted(stage.iterdir()) if not path.is_symlink()
        ]
        used = {path: _changed(path) for path in entries}  # each use touches the manifest
        oldest_first = sorted(entries, key=used.__getitem__)
        old = [path for path in oldest_first if clock() - used[path] > _OLD_SECONDS]
        removed = {path: _size_bytes(path) for path in old if _LEFTOVER.fullmatch(path.name)}
        left = sum(map(_size_bytes, stages)) - sum(removed.values())
        for path in old:
            if left > limit and artifacts.manifest_inputs(path) is not None:
                removed[path] = _size_bytes(path)
                left -= removed[path]
        for path in removed if not dry_run else ():
            artifacts.discard(path)
    note = (
        f"{left / 2**20:,.1f} MiB kept: used in the last hour, or not artifacts"
        if left > limit
        else ""
    )
    return Cleaned(path=cache, removed=removed, is_dry_run=dry_run, note=note)


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of a path and of everything below it; links are not followed."""
    below = (
        Path(where, name) for where, folders, files in os.walk(path) for name in (*folders, *files)
    )
    for entry in (path, *below):
        with suppress(FileNotFoundError):
            yield entry.lstat()


def _changed(path: Path) -> float:
    return max((status.st_mtime for status in _stats(path)), default=0.0)


def _size_bytes(path: Path) -> int:
    return sum(status.st_size for status in _stats(path) if stat.S_ISREG(status.st_mode))
