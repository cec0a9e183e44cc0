"""Free disk space in an artifact cache, which several studies and users may share.

Only files that the next search, confirm or train can compute again are removed: folders with the
manifest of an artifact, and temporary files, in a folder that xraytune tagged as its cache. Nothing
behind a symbolic link is listed or removed.
"""

import shlex
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from xraytune.base.artifacts import CACHE_TAG, TAG_LINE, discard, is_cache, manifest_inputs
from xraytune.base.errors import ConfigError, join_names
from xraytune.base.files import TEMPORARY_NAME, StrPath, explain_disk_errors
from xraytune.base.records import frozen

_OLD_SECONDS = 3600.0


@frozen
class Cleaned:
    """What was removed or, in a dry run, would be removed.

    Attributes:
        path: The cache.
        removed: Size of each removed path in bytes.
        is_dry_run: Whether this was a dry run, which removes nothing.
        note: What was kept unexpectedly, and why.
    """

    path: Path
    removed: dict[Path, int]
    is_dry_run: bool
    note: str = ""


def clean_cache(
    cache: StrPath = Path("cache"),
    *,
    max_size: str,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
) -> Cleaned:
    """Remove leftovers, and then the least recently used artifacts, down to `max_size`.

    Artifacts that were used or written in the last hour are kept. A running search computes missing
    artifacts again.

    Args:
        cache: The artifact cache.
        max_size: The largest size of what is left, such as 50GB or 50GiB.
        dry_run: Remove nothing, but return what would be removed.
        clock: Seconds since 1970.

    Raises:
        ConfigError: The folder is missing or is no cache of xraytune, or `max_size` is not a size.
        MachineError: The system refuses access.
    """
    cache = Path(cache)
    try:
        limit = TypeAdapter(ByteSize).validate_python(max_size)
    except ValidationError as error:
        raise ConfigError(
            f"{max_size!r} is not a size", "--max-size", "give a number with a unit, such as 50GB"
        ) from error
    if not cache.is_dir():
        raise ConfigError("no cache here", cache, "give its folder: --cache DIR")
    cache = cache.resolve()
    if not is_cache(cache):
        tag = shlex.quote(str(cache / CACHE_TAG))
        raise ConfigError(
            f"not a cache of xraytune: it has no {CACHE_TAG}",
            cache,
            f"if xraytune made it, mark it: echo '{TAG_LINE} xraytune' > {tag}",
        )
    removed: dict[Path, int] = {}
    other_paths: list[Path] = []
    with explain_disk_errors(cache):
        sizes: dict[Path, int] = {}
        entries: list[tuple[bool, float, Path]] = []  # leftovers, then artifacts, oldest first
        for path in _entries(cache):
            is_leftover = TEMPORARY_NAME.fullmatch(path.name) is not None
            if not path.is_symlink() and (is_leftover or manifest_inputs(path) is not None):
                last_use, sizes[path] = _last_use_and_bytes(path)
                entries.append((not is_leftover, last_use, path))
            elif not path.name.startswith("."):  # such as locks
                other_paths.append(path)
        remaining_bytes = sum(sizes.values())
        for is_artifact, last_use, path in sorted(entries):
            if clock() - last_use > _OLD_SECONDS and (remaining_bytes > limit or not is_artifact):
                removed[path] = sizes[path]
                remaining_bytes -= sizes[path]
        if not dry_run:
            for path in removed:
                discard(path)
    notes = []
    if remaining_bytes > limit:
        notes.append(f"{remaining_bytes / 2**20:,.1f} MiB kept: used in the last hour")
    if other_paths:
        names = join_names([str(path.relative_to(cache)) for path in sorted(other_paths)])
        notes.append(f"kept, since they are no artifacts of xraytune, or links: {names}")
    return Cleaned(path=cache, removed=removed, is_dry_run=dry_run, note="; ".join(notes))


def _entries(cache: Path) -> Iterator[Path]:
    """Yield the contents of the folders of a cache, and links and files next to these folders."""
    for path in cache.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from path.iterdir()
        elif path.name != CACHE_TAG:
            yield path


def _last_use_and_bytes(path: Path) -> tuple[float, int]:
    """Return when a path or something below it was last written, and the size of its files.

    Each use of an artifact touches its manifest. Links are not followed.
    """
    last_use = 0.0
    size = 0
    for entry in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            status = entry.lstat()
            last_use = max(last_use, status.st_mtime)
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return last_use, size
