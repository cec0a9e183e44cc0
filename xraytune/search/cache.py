"""An artifact cache, which several studies and users may share: list, verify and shrink it, and clean up after a study.

Only files that the next search, confirm or train can compute again are removed, never results. The manifest of an
artifact shows whether it belongs to a study: the study's decoded images, the generators trained on its training images, and
everything computed from these. `clean` removes those that belong to this study and to no other study next to it. Artifacts
whose origin is unknown stay, and so does everything that unfinished trials resume from.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from xraytune.errors import ConfigError, Problem, XraytuneError
from xraytune.files import check_fences, explain_disk_errors, read_jsonl
from xraytune.pipeline import artifacts, synthesize
from xraytune.pipeline.memorisation import MEMORISATION_STAGE
from xraytune.pipeline.model import WEIGHTS_STAGE
from xraytune.pipeline.network import FEATURES_STAGE
from xraytune.pipeline.pools import POOL_STAGE, generator_of
from xraytune.pipeline.prepare import PIXELS_STAGE
from xraytune.pipeline.quality import QUALITY_STAGE, REAL_STAGE
from xraytune.records import Progress, ignore_progress
from xraytune.search.journal import Journal
from xraytune.search.study import SCRATCH_NAME, StudyFolder, locked

# Removed in this order: what is computed from another artifact comes before it, so an interrupted clean leaves none whose
# origin is gone.
KINDS = {
    FEATURES_STAGE: "features",
    QUALITY_STAGE: "quality reports",
    REAL_STAGE: "features of real images",
    MEMORISATION_STAGE: "memorisation reports",
    POOL_STAGE: "synthetic images",
    synthesize.GAN_STAGE: "GANs",
    synthesize.DIFFUSION_STAGE: "diffusion models",
    PIXELS_STAGE: "decoded images",
}
_PREFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_NAMES = {**KINDS, WEIGHTS_STAGE: "checksums of weights"}
_ORDER = {stage: place for place, stage in enumerate(KINDS)}
_HOUR_SECONDS = 3600.0
_LEFTOVER = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.tmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """The bytes that were freed, or would be, by kind; `notes` say what was kept unexpectedly, and why."""

    path: Path
    freed_bytes: dict[str, int]
    is_dry_run: bool
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """The sum over all kinds."""
        return sum(self.freed_bytes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactReferences:
    """The artifacts of a study: its decoded images, relative to the cache, and the fingerprints of its generators."""

    pixels: str
    generators: frozenset[str]

    def has(self, stage: str, name: str, inputs: Mapping[str, Any]) -> bool:
        """Return whether an artifact, by its stage, fingerprint and the inputs in its manifest, belongs to the study."""
        if stage == PIXELS_STAGE:
            return f"{stage}/{name}" == self.pixels
        if stage in (synthesize.GAN_STAGE, synthesize.DIFFUSION_STAGE):
            return name in self.generators
        generators = set(_values_of(inputs, "generator"))
        return generators <= self.generators if generators else self.pixels in _values_of(inputs, "pixels")


def _values_of(inputs: Any, name: str) -> Iterator[Any]:
    """Yield the values of a field at any depth of an artifact's inputs; of a list, its elements."""
    if isinstance(inputs, list):
        for one in inputs:
            yield from _values_of(one, name)
    elif isinstance(inputs, Mapping):
        for key, value in inputs.items():
            if key == name:
                yield from value if isinstance(value, list) else [value]
            yield from _values_of(value, name)


def clean(
    study: Path, *, cache: Path | None = None, dry_run: bool = False, clock: Callable[[], float] = time.time
) -> Cleaned:
    """Remove checkpoints of ended trials, leftovers of killed processes, and artifacts of this study alone.

    Args:
        study: The study's folder.
        cache: The artifact cache; by default the one next to the studies.
        dry_run: Remove nothing.
        clock: Seconds since 1970.

    Raises:
        StudyError: There is no study, it is in use, or a file of it is damaged.
        MachineError: The system refuses access.
    """
    folder = StudyFolder(study.resolve())
    cache = (cache or folder.default_cache).resolve()
    space = folder.space()
    with locked(folder, "cleaned"), explain_disk_errors(folder.path):
        journal = Journal(folder.journal_path, space, writable=False)
        ended = {trial.number for trial in journal.trials} - set(journal.unfinished())
        shared, notes = _shared_work(folder, ended, cache)
        checkpoints = (("checkpoints of ended trials", folder.checkpoint_path(number)) for number in sorted(ended))
        leftovers = (("leftovers of killed processes", path) for path in _leftovers(folder, cache, clock()))
        freed = _remove((*checkpoints, *leftovers, *shared), dry_run=dry_run)
    return Cleaned(path=folder.path, freed_bytes=freed, is_dry_run=dry_run, notes=notes)


def _remove(found: Iterable[tuple[str, Path]], *, dry_run: bool) -> dict[str, int]:
    """Remove files and folders, given as (kind, path); return the freed bytes by kind."""
    freed: dict[str, int] = {}
    for kind, path in found:
        if os.path.lexists(path):
            freed[kind] = freed.get(kind, 0) + _size_bytes(path)
            if not dry_run:
                check_fences()
                artifacts.discard(path)
    return freed


def _shared_work(folder: StudyFolder, ended: set[int], cache: Path) -> tuple[list[tuple[str, Path]], tuple[str, ...]]:
    """Return the artifacts and work folders of generators to remove by kind, and notes on those that stay."""
    own, unfinished = _generators(folder, _trials(folder), cache), _unfinished(folder, ended)
    references, resumed = _references_of(folder, cache, own), _generators(folder, unfinished, cache)
    needed = {*resumed, *resumed.values()}
    others: list[ArtifactReferences] = []
    for path in sorted({*folder.path.parent.glob("[!.]*/study.yaml")} - {folder.space_path}):
        other = StudyFolder(path.parent)
        try:
            theirs = _generators(other, _trials(other), cache)
            others.append(_references_of(other, cache, theirs))
        except XraytuneError as error:
            return [], (f"keeping the cache: cannot read study {path.parent.name}: {error.problems[0]}",)
        needed |= {*theirs.values()}

    found: list[tuple[str, Path]] = []
    kept_bytes, running = 0, artifacts.running_commands(cache)
    for stage, kind in KINDS.items():
        for path, inputs in artifacts.artifacts_of(cache, stage):
            if not references.has(stage, path.name, inputs) or path in needed or artifacts.is_in_use(path, running):
                continue
            if any(other.has(stage, path.name, inputs) for other in others):
                kept_bytes += _size_bytes(path)
            else:
                found.append((kind, path))
    found += [("generators in training", path) for path in sorted({*own.values()} - needed)]
    notes = (f"keeping {kept_bytes / 2**20:,.1f} MiB of artifacts that another study uses too",)
    return found, notes if kept_bytes else ()


def _trials(folder: StudyFolder) -> list[Path]:
    """Return the folders of the trials and confirmation runs of a study."""
    return [config.parent for config in folder.path.glob("**/trials/[0-9]*/config.json")]


def _unfinished(folder: StudyFolder, ended: Container[int]) -> Iterator[Path]:
    """Yield those that a later start resumes; `ended` are the numbers of ended trials."""
    ended_in = {folder: ended}
    for trial in _trials(folder):
        runs = StudyFolder(trial.parents[1])
        if runs not in ended_in:
            ended_in[runs] = {row["number"] for row in read_jsonl(runs.runs_path) if row["status"] != "failed"}
        if int(trial.name) not in ended_in[runs]:
            yield trial


def _generators(folder: StudyFolder, trials: Iterable[Path], cache: Path) -> dict[Path, Path]:
    """Return the work folder of each generator of some trials and runs of a study, by its artifact."""
    prepared, found = folder.prepared(), {}
    for trial in trials:
        runs = StudyFolder(trial.parents[1])
        trained = runs if (runs.path / "environment.json").exists() else folder
        experiment = runs.experiment(int(trial.name))
        settings = [generator_of(stage) for stage in experiment.generator_stages]
        for one, versions in product(settings, trained.releases() if settings else ()):
            for label in synthesize.network_labels(one, prepared):
                inputs = synthesize.generator_inputs(one, label, prepared, trained.compute(), torch=versions["torch"])
                place = cache, synthesize.generator_stage(one), inputs
                found[artifacts.artifact_path(*place)] = synthesize.generator_work_path(*place)
    return found


def _references_of(folder: StudyFolder, cache: Path, generators: Iterable[Path] = ()) -> ArtifactReferences:
    """Return a study's artifacts: generators of its trials, and others of its training images, as of `generator train`."""
    prepared = folder.prepared()
    of_its_images = {
        "train": prepared.train_fingerprint,
        "image_size_px": prepared.image_size_px,
        "class_names": list(prepared.class_names),
    }
    in_cache = {
        path.name
        for stage in (synthesize.GAN_STAGE, synthesize.DIFFUSION_STAGE)
        for path, inputs in artifacts.artifacts_of(cache, stage)
        if of_its_images.items() <= inputs.items()
    }
    of_trials = {path.name for path in generators}
    return ArtifactReferences(pixels=prepared.pixels, generators=frozenset(in_cache | of_trials))


def _leftovers(folder: StudyFolder, cache: Path, now: float) -> Iterator[Path]:
    """Yield the leftovers of killed processes: Tune's scratch folder, and old temporary files.

    The writer's process number means nothing if it ran on another machine, so recent files stay.
    """
    beside = folder.path.parent.glob(f".{folder.path.name}.*.tmp")
    for path in (*sorted(beside), *_temporary_paths(folder.path), *_temporary_paths(cache)):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or (not _is_alive(int(match[1])) and now - _changed(path) > _HOUR_SECONDS):
            yield path


def _temporary_paths(root: Path) -> Iterator[Path]:
    """Yield the paths below a folder that have the name of a leftover; links are not followed."""
    for where, folders, files in os.walk(root):
        found = {name for name in (*folders, *files) if name == SCRATCH_NAME or _LEFTOVER.fullmatch(name)}
        yield from (Path(where, name) for name in sorted(found))
        folders[:] = [name for name in folders if name not in found]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _stats(path: Path) -> Iterator[os.stat_result]:
    for entry in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            yield entry.lstat()


def _changed(path: Path) -> float:
    return max((status.st_mtime for status in _stats(path)), default=0.0)


def _size_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    return sum(status.st_size for status in _stats(path) if stat.S_ISREG(status.st_mode))


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
        with suppress(XraytuneError):
            references[study.path.name] = _references_of(study, cache)

    def by_kind(path: Path) -> tuple[int, str, float]:
        return -_ORDER.get(path.parent.name, -1), path.parent.name, -artifacts.last_used(path)

    for path in sorted(_folders(cache), key=by_kind):
        inputs, stage = artifacts.inputs_of(path) or {}, path.parent.name
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
    artifacts.forget_checksums()
    found, folders = [], _folders(cache)
    for done, path in enumerate(folders, start=1):
        with explain_disk_errors(path):
            damaged = tuple(artifacts.damaged_files(path))
        if damaged and path.exists():  # otherwise another command has just removed it
            found.append(replace(_artifact(path, artifacts.inputs_of(path) or {}), damaged=damaged))
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
    needed: list[ArtifactReferences] = []
    for study in _studies(cache):
        if unfinished := list(_unfinished(study, {row["number"] for row in study.rows()})):
            generators = frozenset(path.name for path in _generators(study, unfinished, cache))
            needed.append(ArtifactReferences(pixels=study.prepared().pixels, generators=generators))
    left, running = _size_bytes(cache), artifacts.running_commands(cache)

    def order(path: Path) -> tuple[float, int, float]:
        """Sort by hour, then derived artifacts first: a trial uses them with their source, and they cost less to rebuild."""
        used = artifacts.last_used(path)
        return used // _HOUR_SECONDS, _ORDER.get(path.parent.name, -1), used

    def least_recently_used() -> Iterator[tuple[str, Path]]:
        nonlocal left
        for (*_, used), path in sorted((order(path), path) for path in folders):
            if left <= limit:
                return
            inputs, stage = artifacts.inputs_of(path), path.parent.name
            if inputs is None or (stage in KINDS and any(own.has(stage, path.name, inputs) for own in needed)):
                continue
            if not artifacts.is_in_use(path, running) and artifacts.last_used(path) == used:
                left -= _size_bytes(path)
                yield _NAMES.get(stage, stage), path

    with explain_disk_errors(cache):
        freed = _remove(least_recently_used(), dry_run=dry_run)
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
        size_bytes=_size_bytes(path),
        last_used=datetime.fromtimestamp(artifacts.last_used(path), UTC),
    )


def _description(name: str, inputs: Mapping[str, Any]) -> str:
    settings, label, group = inputs.get("settings", {}), inputs.get("label"), inputs.get("group", ("",))
    generators = sorted({str(generator)[:8] for generator in _values_of(inputs, "generator")})
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
