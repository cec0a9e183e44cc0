"""Free what a study can do without: everything that its next search, confirm, export or replay makes again.

Takes a study and the cache, gives how many bytes went, by kind. Results are never touched. Shared work goes where it can
be told that it is this study's and that no other study beside it stands on it; what cannot be told stays, and so does what
trials that have not ended would go on from.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraytune.config.load import experiment_from_json
from xraytune.errors import Problem, StudyError, XraytuneError
from xraytune.files import check_fences, explained_disk_errors, read_json, read_jsonl
from xraytune.pipeline.artifact_references import STAGES, ArtifactReferences, artifact_references
from xraytune.pipeline.artifacts import artifact_path, artifacts_of, discard
from xraytune.pipeline.features import FEATURES_STAGE
from xraytune.pipeline.prepare import PIXELS_STAGE
from xraytune.pipeline.quality import QUALITY_STAGE
from xraytune.pipeline.synthesize import GAN_STAGE, POOL_STAGE, gan_inputs, gan_work_path, network_labels
from xraytune.records import Json
from xraytune.search.journal import Journal
from xraytune.search.study import SCRATCH_NAME, StudyFolder, locked

_KINDS = {
    FEATURES_STAGE: "features",
    QUALITY_STAGE: "looks at GANs",
    POOL_STAGE: "synthetic images",
    GAN_STAGE: "GANs",
    PIXELS_STAGE: "decoded images",
}
_LEFTOVER = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.tmp")
_LEFTOVER_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What a clean freed, or would free.

    Attributes:
        study: The study's folder.
        freed_bytes: By kind, in words.
        is_dry_run: Nothing was removed.
        notes: What stays that one might have expected to go, and why.
    """

    study: Path
    freed_bytes: dict[str, int]
    is_dry_run: bool
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """Of all kinds."""
        return sum(self.freed_bytes.values())

    def to_json(self) -> dict[str, Json]:
        """The record as JSON values."""
        return {
            "study": str(self.study),
            "freed_bytes": {**self.freed_bytes},
            "total_bytes": self.total_bytes,
            "is_dry_run": self.is_dry_run,
            "notes": list(self.notes),
        }


def clean(
    study: Path, *, cache: Path | None = None, dry_run: bool = False, clock: Callable[[], float] = time.time
) -> Cleaned:
    """Remove checkpoints of ended trials, what killed processes left, and the shared work that this study alone stands on.

    Args:
        study: The study's folder.
        cache: The artifact cache; by default the one beside the studies.
        dry_run: Look only.
        clock: Seconds since 1970.

    Raises:
        StudyError: There is no study, it is being searched, or a file of it is damaged.
        MachineError: The system refuses access.
    """
    folder = StudyFolder(study.resolve())
    cache = (cache or folder.default_cache).resolve()
    space = folder.space()
    with locked(folder, "cleaned"), explained_disk_errors(folder.path):
        journal = Journal(folder.journal_path, space, writable=False)
        unfinished = set(journal.unfinished())
        ended = [trial.number for trial in journal.trials if trial.number not in unfinished]
        shared, notes = _shared_work(folder, cache)
        freed: dict[str, int] = {}
        for kind, path in (
            *(("checkpoints of ended trials", folder.checkpoint_path(number)) for number in ended),
            *(("leftovers of killed processes", path) for path in _leftovers(folder, cache, clock())),
            *shared,
        ):
            if os.path.lexists(path):
                freed[kind] = freed.get(kind, 0) + _size_bytes(path)
                if not dry_run:
                    check_fences()
                    discard(path)
    return Cleaned(study=folder.path, freed_bytes=freed, is_dry_run=dry_run, notes=notes)


def _shared_work(folder: StudyFolder, cache: Path) -> tuple[list[tuple[str, Path]], tuple[str, ...]]:
    """The artifacts and the GAN work folders that may go, and notes on those that stay."""
    gans = _gans(folder)
    own = artifact_references(folder.prepared(), (inputs for one in gans for inputs in one.inputs), cache)
    others: list[ArtifactReferences] = []
    needed: set[Path] = set()
    for path in sorted(folder.path.parent.glob("[!.]*/study.yaml")):
        if path.parent == folder.path:
            continue
        other = StudyFolder(path.parent)
        try:
            suggestion = [inputs for one in _gans(other) for inputs in one.inputs]
            others.append(artifact_references(other.prepared(), suggestion, cache))
        except XraytuneError as error:
            return [], (f"all shared work stays, for it cannot be told what another study needs: {error.problems[0]}",)
        needed |= {gan_work_path(cache, inputs) for inputs in suggestion}
    for inputs in (inputs for one in gans if not one.is_ended for inputs in one.inputs):
        needed |= {gan_work_path(cache, inputs), artifact_path(cache, GAN_STAGE, inputs)}

    found: list[tuple[str, Path]] = []
    kept_bytes = 0
    for stage in STAGES:
        for path, inputs in artifacts_of(cache, stage):
            if not own.has(stage, path.name, inputs) or path in needed:
                continue
            if any(other.has(stage, path.name, inputs) for other in others):
                kept_bytes += _size_bytes(path)
            else:
                found.append((_KINDS[stage], path))
    work = {gan_work_path(cache, inputs) for one in gans for inputs in one.inputs}
    found += [("GANs in training", path) for path in sorted(work - needed)]
    notes = (f"{kept_bytes / 2**20:,.1f} MiB of shared work stay: another study stands on them too",)
    return found, notes if kept_bytes else ()


@dataclass(frozen=True, slots=True)
class _TrialGans:
    """What the networks of one trial's GAN depend on, and whether the trial has ended."""

    inputs: tuple[dict[str, Any], ...]
    is_ended: bool


def _gans(folder: StudyFolder) -> list[_TrialGans]:
    """Of every trial of a study and every run of its confirm that was begun.

    Raises:
        StudyError: A file of the study is missing or damaged.
    """
    prepared, compute = folder.prepared(), folder.compute()
    ended: dict[Path, set[int]] = {}
    found = []
    for config in sorted(folder.path.glob("**/trials/*/config.json")):
        trials = config.parents[1]
        if trials not in ended:
            ended[trials] = _ended(folder, StudyFolder(trials.parent))
        try:
            settings = experiment_from_json(read_json(config), config.parent).parameters.gan
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(Problem("this file is damaged", config, "put it back from a copy")) from error
        if settings is not None:
            labels = network_labels(settings, prepared)
            runs = StudyFolder(trials.parent)
            trained = runs if (runs.path / "environment.json").exists() else folder
            torches = {one.get("torch", "") for one in trained.releases()}
            inputs = tuple(
                gan_inputs(settings, label, prepared, compute, torch=torch)
                for torch in sorted(torches)
                for label in labels
            )
            found.append(_TrialGans(inputs, int(config.parent.name) in ended[trials]))
    return found


def _ended(folder: StudyFolder, runs: StudyFolder) -> set[int]:
    """The trials of the study, or the runs of its confirm, that nobody will go on with."""
    if runs == folder:
        trials = Journal(folder.journal_path, folder.space(), writable=False).trials
        return {trial.number for trial in trials if trial.state.is_finished()}
    return {row["number"] for row in read_jsonl(runs.runs_path) if row["status"] != "failed"}


def _leftovers(folder: StudyFolder, cache: Path, now: float) -> Iterator[Path]:
    """What killed processes left: Tune's scratch, and what they were writing under a temporary name.

    A writer on another machine has a process number that means nothing here, so what is young stays too.
    """
    beside = folder.path.parent.glob(f".{folder.path.name}.*.tmp")
    for path in (*sorted(beside), *_named(folder.path), *_named(cache)):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or (not _is_alive(int(match[1])) and now - _changed(path) > _LEFTOVER_SECONDS):
            yield path


def _named(root: Path) -> Iterator[Path]:
    """What is called as a leftover is, below a folder, links not followed."""
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


def _seen(path: Path) -> Iterator[os.stat_result]:
    """A file or a folder, and all below."""
    for entry in (path, *path.rglob("*")):
        try:
            yield entry.lstat()
        except FileNotFoundError:
            continue


def _changed(path: Path) -> float:
    return max((status.st_mtime for status in _seen(path)), default=0.0)


def _size_bytes(path: Path) -> int:
    return sum(status.st_size for status in _seen(path) if stat.S_ISREG(status.st_mode))
