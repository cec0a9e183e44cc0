"""List, verify and shrink an artifact cache, which several studies and users may share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xraytune.errors import ConfigError, Problem, XraytuneError
from xraytune.files import explain_disk_errors
from xraytune.pipeline.artifacts import (
    damaged_files,
    forget_checksums,
    inputs_of,
    is_in_use,
    last_used,
    running_commands,
)
from xraytune.pipeline.model import WEIGHTS_STAGE
from xraytune.records import Progress, ignore_progress
from xraytune.search.calibration import SPEED_STAGE
from xraytune.search.clean import KINDS, Cleaned, needed_by_unfinished, references_of, remove, size_bytes, values_of
from xraytune.search.study import StudyFolder

_PREFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_NAMES = {**KINDS, WEIGHTS_STAGE: "checksums of weights", SPEED_STAGE: "measured speeds"}
_ORDER = {stage: place for place, stage in enumerate(KINDS)}
_HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedArtifact:
    """An artifact of a cache.

    Attributes:
        kind: Such as GANs; the stage if only another version of xraytune uses such artifacts.
        what: Its main settings, in words.
        last_used: In UTC.
        studies: Studies next to the cache with the images that it was computed from.
        damaged: Missing and changed files, if it was verified.
    """

    path: Path
    kind: str
    what: str
    size_bytes: int
    last_used: datetime
    studies: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


def list_cache(cache: Path = Path("cache")) -> tuple[CachedArtifact, ...]:
    """Return the artifacts of a cache by kind, most recently used first, without verifying them. Skip damaged studies.

    Args:
        cache: The artifact cache.

    Raises:
        ConfigError: There is no such folder.
    """
    references, found = {}, []
    for study in _studies(cache):
        try:
            references[study.path.name] = references_of(study, cache)
        except XraytuneError:
            continue

    def by_kind(path: Path) -> tuple[int, str, float]:
        return -_ORDER.get(path.parent.name, -1), path.parent.name, -last_used(path)

    for path in sorted(_folders(cache), key=by_kind):
        inputs, stage = inputs_of(path) or {}, path.parent.name
        is_known = inputs and stage in KINDS
        studies = (name for name, own in references.items() if is_known and own.has(stage, path.name, inputs))
        found.append(replace(_artifact(path, inputs), studies=tuple(studies)))
    return tuple(found)


def verify_cache(cache: Path = Path("cache"), *, on_progress: Progress = ignore_progress) -> tuple[CachedArtifact, ...]:
    """Compare the files of a cache with their checksums; return the damaged artifacts.

    Args:
        cache: The artifact cache.
        on_progress: Called with the number of verified artifacts.

    Raises:
        ConfigError: There is no such folder.
        MachineError: A file is not readable.
    """
    forget_checksums()
    found, folders = [], _folders(cache)
    for done, path in enumerate(folders, start=1):
        with explain_disk_errors(path):
            damaged = tuple(damaged_files(path))
        if damaged and path.exists():  # otherwise another command has just removed it
            found.append(replace(_artifact(path, inputs_of(path) or {}), damaged=damaged))
        on_progress("verifying artifacts", done, len(folders))
    return tuple(found)


def clean_cache(cache: Path = Path("cache"), *, max_size: str, dry_run: bool = False) -> Cleaned:
    """Remove the least recently used artifacts until a cache is no larger than `max_size`.

    Keep what a running command has used since it started, and what unfinished trials of studies next to the cache need.

    Args:
        cache: The artifact cache.
        max_size: Such as 50GB or 50GiB.
        dry_run: Remove nothing, but return what would be freed.

    Raises:
        ConfigError: There is no such folder, or `max_size` is not a size.
        StudyError: A study next to the cache is damaged, so what it needs is unknown.
        MachineError: The system refuses access.
    """
    size = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]I?|)B?", max_size.strip().upper())
    if size is None:
        raise ConfigError(
            Problem(f"{max_size!r} is not a size", "--max-size", "give a number with a unit, such as 50GB")
        )
    limit, folders = float(size[1]) * _PREFIXES[size[2]], _folders(cache)
    needed = [own for study in _studies(cache) if (own := needed_by_unfinished(study, cache))]
    left, running = size_bytes(cache), running_commands(cache)

    def order(path: Path) -> tuple[float, int, float]:
        """Sort by hour, then derived artifacts first: a trial uses them with their source, and they cost less to rebuild."""
        used = last_used(path)
        return used // _HOUR_SECONDS, _ORDER.get(path.parent.name, -1), used

    def least_recently_used() -> Iterator[tuple[str, Path]]:
        nonlocal left
        for (*_, used), path in sorted((order(path), path) for path in folders):
            if left <= limit:
                return
            inputs, stage = inputs_of(path), path.parent.name
            if inputs is None or (stage in KINDS and any(own.has(stage, path.name, inputs) for own in needed)):
                continue
            if not is_in_use(path, running) and last_used(path) == used:
                left -= size_bytes(path)
                yield _NAMES.get(stage, stage), path

    with explain_disk_errors(cache):
        freed = remove(least_recently_used(), dry_run=dry_run)
    note = (
        f"{left / 2**20:,.1f} MiB kept: in use, needed by unfinished trials, damaged, or checkpoints of unfinished work"
    )
    return Cleaned(path=cache, freed_bytes=freed, is_dry_run=dry_run, notes=(note,) if left > limit else ())


def _folders(cache: Path) -> list[Path]:
    """Return all artifact folders, including damaged ones but not unfinished work (`.work`)."""
    if not cache.is_dir():
        raise ConfigError(Problem("no cache here", cache, "give its folder: --cache DIR"))
    return [path for path in sorted(cache.glob("[!.]*/" + "[0-9a-f]" * 32)) if path.parent.suffix != ".work"]


def _studies(cache: Path) -> list[StudyFolder]:
    return [StudyFolder(path.parent) for path in sorted(cache.resolve().parent.glob("[!.]*/[!.]*/study.yaml"))]


def _artifact(path: Path, inputs: Mapping[str, Any]) -> CachedArtifact:
    return CachedArtifact(
        path=path,
        kind=_NAMES.get(path.parent.name, path.parent.name),
        what=_description(path.name, inputs) if inputs else "no readable manifest",
        size_bytes=size_bytes(path),
        last_used=datetime.fromtimestamp(last_used(path), UTC),
    )


def _description(name: str, inputs: Mapping[str, Any]) -> str:
    settings, label, group = inputs.get("settings", {}), inputs.get("label"), inputs.get("group", ("",))
    generators = sorted({str(generator)[:8] for generator in values_of(inputs, "generator")})
    network = inputs.get("network", inputs.get("features", inputs))
    size_px = settings.get("image_size", inputs.get("image_size_px", network.get("resolution_px")))
    parts = (
        f"{len(inputs['files']):,} images" if "resize" in inputs else "",
        f"{name[:8]}: {settings.get('architecture', 'U-Net')}" if settings else "",
        network.get("backbone", ""),
        f"{size_px} px" if size_px else "",
        f"{settings['steps']:,} steps" if "steps" in settings else "",
        f"seed {settings['seed']}" if "seed" in settings else "",
        f"{group[0].split()[0]} images" if group[0] else "",
        f"from {', '.join(generators)}" if generators else "",
        "" if label is None else f"class {inputs.get('class_names', {label: label})[label]}",
    )
    return ", ".join(str(part) for part in parts if part)
