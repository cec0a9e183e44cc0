"""Delete files that the next search, confirm, export or replay can compute again. Results are never removed.

An artifact of the cache is removed if its manifest shows that it belongs to this study and to no other study next to it:
the study's decoded images, the generators trained on its training images, and everything computed from these. Artifacts
whose origin is unknown stay, and so does everything that unfinished trials resume from.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from xraytune.errors import XraytuneError
from xraytune.files import check_fences, explain_disk_errors, read_jsonl
from xraytune.pipeline.artifacts import artifact_path, artifacts_of, discard, is_in_use, running_commands
from xraytune.pipeline.labeller import LABELLER_STAGE, LABELLER_WORK
from xraytune.pipeline.memorisation import MEMORISATION_STAGE
from xraytune.pipeline.network import FEATURES_STAGE
from xraytune.pipeline.pools import generator_of
from xraytune.pipeline.prepare import PIXELS_STAGE
from xraytune.pipeline.quality import QUALITY_STAGE, REAL_STAGE
from xraytune.pipeline.synthesize import (
    DIFFUSION_STAGE,
    GAN_STAGE,
    POOL_STAGE,
    generator_inputs,
    generator_stage,
    generator_work_path,
    network_labels,
)
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
    GAN_STAGE: "GANs",
    DIFFUSION_STAGE: "diffusion models",
    LABELLER_STAGE: "segmenters for generated masks",
    PIXELS_STAGE: "decoded images",
}
_LEFTOVER = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.tmp")
_LEFTOVER_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """The space that `clean` freed, or would free.

    Attributes:
        path: The folder of the study or the cache.
        freed_bytes: By kind.
        is_dry_run: Whether nothing was removed.
        notes: What was kept unexpectedly, and why.
    """

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
    """The artifacts that belong to a study.

    Attributes:
        pixels: Its decoded images, relative to the cache.
        generators: The fingerprints of its generators.
    """

    pixels: str
    generators: frozenset[str]

    def has(self, stage: str, name: str, inputs: Mapping[str, Any]) -> bool:
        """Return whether an artifact, by its stage, fingerprint and the inputs in its manifest, belongs to the study."""
        if stage == PIXELS_STAGE:
            return f"{stage}/{name}" == self.pixels
        if stage in (GAN_STAGE, DIFFUSION_STAGE):
            return name in self.generators
        generators = set(values_of(inputs, "generator"))
        return generators <= self.generators if generators else self.pixels in values_of(inputs, "pixels")


def values_of(inputs: Any, name: str) -> Iterator[Any]:
    """Yield the values of a field at any depth of an artifact's inputs; of a list, its elements."""
    if isinstance(inputs, list):
        for one in inputs:
            yield from values_of(one, name)
    elif isinstance(inputs, Mapping):
        for key, value in inputs.items():
            if key == name:
                yield from value if isinstance(value, list) else [value]
            yield from values_of(value, name)


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
        freed = remove((*checkpoints, *leftovers, *shared), dry_run=dry_run)
    return Cleaned(path=folder.path, freed_bytes=freed, is_dry_run=dry_run, notes=notes)


def remove(found: Iterable[tuple[str, Path]], *, dry_run: bool) -> dict[str, int]:
    """Remove files and folders, given as (kind, path); return the freed bytes by kind."""
    freed: dict[str, int] = {}
    for kind, path in found:
        if os.path.lexists(path):
            freed[kind] = freed.get(kind, 0) + size_bytes(path)
            if not dry_run:
                check_fences()
                discard(path)
    return freed


def needed_by_unfinished(folder: StudyFolder, cache: Path) -> ArtifactReferences | None:
    """Return the images and generators that a study's unfinished trials and runs need; None if all have ended."""
    unfinished = _unfinished(folder, {row["number"] for row in folder.rows()})
    if not unfinished:
        return None
    needed = _generators(folder, unfinished, cache)
    return ArtifactReferences(pixels=folder.prepared().pixels, generators=frozenset(path.name for path in needed))


def _shared_work(folder: StudyFolder, ended: set[int], cache: Path) -> tuple[list[tuple[str, Path]], tuple[str, ...]]:
    """Return the artifacts and work folders of generators to remove by kind, and notes on those that stay."""
    own, unfinished = _generators(folder, _trials(folder), cache), _unfinished(folder, ended)
    references, resumed = references_of(folder, cache, own), _generators(folder, unfinished, cache)
    needed = {*resumed, *resumed.values()}
    others: list[ArtifactReferences] = []
    for path in sorted({*folder.path.parent.glob("[!.]*/study.yaml")} - {folder.space_path}):
        other = StudyFolder(path.parent)
        try:
            theirs = _generators(other, _trials(other), cache)
            others.append(references_of(other, cache, theirs))
        except XraytuneError as error:
            return [], (f"keeping the cache: cannot read study {path.parent.name}: {error.problems[0]}",)
        needed |= {*theirs.values()}

    found: list[tuple[str, Path]] = []
    kept_bytes, running = 0, running_commands(cache)
    for stage, kind in KINDS.items():
        for path, inputs in artifacts_of(cache, stage):
            if not references.has(stage, path.name, inputs) or path in needed or is_in_use(path, running):
                continue
            if any(other.has(stage, path.name, inputs) for other in others):
                kept_bytes += size_bytes(path)
            else:
                found.append((kind, path))
    found += [("generators in training", path) for path in sorted({*own.values()} - needed)]
    notes = (f"keeping {kept_bytes / 2**20:,.1f} MiB of artifacts that another study uses too",)
    return found, notes if kept_bytes else ()


def _trials(folder: StudyFolder) -> list[Path]:
    """Return the folders of the trials and confirmation runs of a study."""
    return [config.parent for config in folder.path.glob("**/trials/[0-9]*/config.json")]


def _unfinished(folder: StudyFolder, ended: Container[int]) -> list[Path]:
    """Return those that a later start resumes; `ended` are the numbers of ended trials."""
    return [trial for trial in _trials(folder) if not _is_ended(trial, folder, ended)]


def _generators(folder: StudyFolder, trials: Iterable[Path], cache: Path) -> dict[Path, Path]:
    """Return the work folder of each generator of some trials and runs of a study, by its artifact."""
    of_study, found = folder.prepared(), {}
    for trial in trials:
        runs = StudyFolder(trial.parents[1])
        trained = runs if (runs.path / "environment.json").exists() else folder
        experiment = runs.experiment(int(trial.name))
        prepared = runs.prepared(experiment) if experiment.has_own_split else of_study
        settings = [generator_of(stage) for stage in experiment.generator_stages]
        for one, versions in product(settings, trained.releases() if settings else ()):
            for label in network_labels(one, prepared):
                inputs = generator_inputs(one, label, prepared, trained.compute(), torch=versions["torch"])
                stage = generator_stage(one)
                found[artifact_path(cache, stage, inputs)] = generator_work_path(cache, stage, inputs)
    return found


def references_of(folder: StudyFolder, cache: Path, generators: Iterable[Path] = ()) -> ArtifactReferences:
    """Return a study's artifacts: generators of its trials, and others of its training images, as of `generator train`."""
    prepared = folder.prepared()
    of_its_images = {
        "train": prepared.train_fingerprint,
        "image_size_px": prepared.image_size_px,
        "class_names": list(prepared.class_names),
    }
    in_cache = {
        path.name
        for stage in (GAN_STAGE, DIFFUSION_STAGE)
        for path, inputs in artifacts_of(cache, stage)
        if of_its_images.items() <= inputs.items()
    }
    of_trials = {path.name for path in generators}
    return ArtifactReferences(pixels=prepared.pixels, generators=frozenset(in_cache | of_trials))


def _is_ended(trial: Path, folder: StudyFolder, ended: Container[int]) -> bool:
    runs, number = StudyFolder(trial.parents[1]), int(trial.name)
    if runs == folder:
        return number in ended
    return any(row["number"] == number and row["status"] != "failed" for row in read_jsonl(runs.runs_path))


def _leftovers(folder: StudyFolder, cache: Path, now: float) -> Iterator[Path]:
    """Yield the leftovers of killed processes: Tune's scratch folder, and old temporary files.

    The writer's process number means nothing if it ran on another machine, so recent files stay. So does the work folder of
    a segmenter in training, which takes minutes.
    """
    beside = folder.path.parent.glob(f".{folder.path.name}.*.tmp")
    for path in (*sorted(beside), *_temporary_paths(folder.path), *_temporary_paths(cache)):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or (not _is_alive(int(match[1])) and now - _changed(path) > _LEFTOVER_SECONDS):
            yield path
    for work in sorted((cache / LABELLER_WORK).glob("*")):
        if now - _changed(work) > _LEFTOVER_SECONDS:
            yield work


def _temporary_paths(root: Path) -> Iterator[Path]:
    """Yield the paths below a folder that have the name of a leftover; links are not followed."""
    for where, folders, files in os.walk(root):
        for name in sorted((*folders, *files)):
            if name == SCRATCH_NAME or _LEFTOVER.fullmatch(name):
                yield Path(where, name)
        folders[:] = [name for name in folders if name != SCRATCH_NAME and not _LEFTOVER.fullmatch(name)]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _stats(path: Path) -> Iterator[os.stat_result]:
    for entry in (path, *path.rglob("*")):
        try:
            yield entry.lstat()
        except FileNotFoundError:
            continue


def _changed(path: Path) -> float:
    return max((status.st_mtime for status in _stats(path)), default=0.0)


def size_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    return sum(status.st_size for status in _stats(path) if stat.S_ISREG(status.st_mode))
