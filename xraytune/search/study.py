"""A study is a folder, and everything that explains one of its numbers lies in it.

    study.yaml  split.json                     what is searched, on which images; written once
    environment.json                           where its trials run and with which versions; grows when these change
    inputs.json                                what its extra images and own weights are, where it has such
    optuna.journal                             the truth
    trials.jsonl                               a projection of it: one row for every ended trial
    trials/0007/                               config.json epochs.jsonl checkpoint/ progress.json

One process at a time writes to it, under a lock that ends with its owner.
"""

from __future__ import annotations

import difflib
import json
import os
import platform
import shlex
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter

from xraytune.config.document import read_document
from xraytune.config.domains import Value
from xraytune.config.fields import EARLIER_VALUES, flat_values
from xraytune.config.load import experiment_from_json, load_space
from xraytune.config.settings import Experiment, extensions_of
from xraytune.config.space import Space
from xraytune.errors import ArtifactError, ConfigError, Problem, StudyError, listed
from xraytune.files import (
    append_jsonl,
    explained_disk_errors,
    new_folder,
    read_json,
    read_jsonl,
    require_own,
    write_json,
    write_text,
)
from xraytune.lease import HeldError, held, living_owner
from xraytune.pipeline.artifacts import releases
from xraytune.pipeline.prepare import Prepared, missing_images, read_prepared, write_prepared
from xraytune.records import Compute, Json

_PACKAGES = ("xraytune", "torch", "torchvision", "ray", "optuna", "numpy", "pillow", "scikit-learn")
_NUMERIC = ("torch", "torchvision")
"""The packages whose release changes a trial's numbers."""
SCRATCH_NAME = ".tune"
_JOURNAL_NAME = "optuna.journal"
_BEST = 3

StudyWork: TypeAlias = Literal["searched", "confirmed", "cleaned"]
"""What a process does with a study while it holds it."""


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """The paths of a study, and what is written once."""

    path: Path

    @property
    def space_path(self) -> Path:
        """The resolved space."""
        return self.path / "study.yaml"

    @property
    def journal_path(self) -> Path:
        """Optuna's journal."""
        return self.path / _JOURNAL_NAME

    @property
    def rows_path(self) -> Path:
        """One row for every ended trial."""
        return self.path / "trials.jsonl"

    @property
    def runs_path(self) -> Path:
        """Of a confirm, whose runs lie as a study's trials do: one row for every run that ended."""
        return self.path / "runs.jsonl"

    @property
    def scratch_path(self) -> Path:
        """Ray Tune's own files, which nobody needs."""
        return self.path / SCRATCH_NAME

    @property
    def lock_path(self) -> Path:
        """Says who searches it, confirms or cleans it."""
        return self.path / ".lock"

    @property
    def default_cache(self) -> Path:
        """The artifact cache that lies beside the studies; of a resolved path, so that all find the same one."""
        return self.path.parent.parent / "cache"

    def trial_path(self, number: int) -> Path:
        """The folder of one trial."""
        return self.path / "trials" / f"{number:04d}"

    def checkpoint_path(self, number: int) -> Path:
        """What a trial goes on from."""
        return self.trial_path(number) / "checkpoint" / "checkpoint.pt"

    def drop_checkpoint(self, number: int) -> None:
        """Free what an ended trial would have gone on from; its best network stays."""
        self.checkpoint_path(number).unlink(missing_ok=True)

    def space(self, *, data: Path | None = None, weights_dir: Path | None = None) -> Space:
        """The space as it was searched.

        Args:
            data: Where its images lie now, if they moved.
            weights_dir: Where the official weight files lie now, if they moved.

        Raises:
            StudyError: There is no study here, its file was changed, or a symbolic link or a pipe is in it.
        """
        if not os.path.lexists(self.space_path):
            fix = "give the folder that `xraytune search` printed, such as studies/NAME"
            raise StudyError(Problem("no study here: study.yaml is missing", self.path, fix))
        _require_own_files(self.path)
        try:
            return load_space(self.space_path, data=data, weights_dir=weights_dir, unsaid=EARLIER_VALUES)
        except ConfigError as error:
            what = "study.yaml was changed since the search began, or another version of xraytune wrote it"
            raise StudyError(Problem(what, self.path, "put it back as it was"), *error.problems) from error

    def unsaid(self) -> dict[str, Value]:
        """Values of the parameters that did not exist when the study began: what its space file means by leaving them out.

        Raises:
            StudyError: There is no study here, or its file was changed.
        """
        self.space()
        said = read_document(self.space_path)
        return {name: value for name, value in EARLIER_VALUES.items() if said.get(("parameters", name)) is None}

    def prepared(self) -> Prepared:
        """The images and their split.

        Raises:
            StudyError: The file is missing or damaged.
        """
        with damage_explained(self.path / "split.json") as file:
            return read_prepared(file)

    def compute(self) -> Compute:
        """What its trials compute on.

        Raises:
            StudyError: The file is missing or damaged.
        """
        with damage_explained(self.path / "environment.json") as file:
            return TypeAdapter(Compute).validate_python(read_json(file)["compute"])

    def releases(self) -> tuple[dict[str, str], ...]:
        """The releases of torch and torchvision that trained it, in order; an empty one was not recorded.

        Raises:
            StudyError: The file is missing or damaged.
        """
        with damage_explained(self.path / "environment.json") as file:
            content = read_json(file)
            return tuple(numeric_releases(one.get("packages", {})) for one in (content, *content.get("continued", ())))

    def identity(self) -> str:
        """Tells the study from others of its name, wherever its folder is moved to.

        Raises:
            StudyError: The file is missing or damaged.
        """
        with damage_explained(self.path / "environment.json") as file:
            content = read_json(file)
            return str(content.get("identity", content["started"]))  # a study of an earlier version has none

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the ended trials, those of an earlier version in today's words."""
        return [_in_todays_words(row) for row in read_jsonl(self.rows_path)]

    def experiment(self, number: int) -> Experiment:
        """The settings of one trial.

        Raises:
            StudyError: There is no such trial, or its file is damaged.
        """
        config = self.trial_path(number) / "config.json"
        if not config.is_file():
            count = len(list(self.path.glob("trials/*/config.json")))
            raise StudyError(Problem(f"no trial {number}; the study has {count}, from 0", self.path))
        with damage_explained(config):
            return experiment_from_json(read_json(config), config.parent)


def _require_own_files(folder: Path) -> None:
    """Refuse links and pipes in a study, which may come from someone else: a write to them would reach another file.

    Exceptions are Optuna's lock, a link that nothing is written through, and the `wandb` folders, in which only W&B writes.
    """
    folders: list[Path | str] = [folder]
    while folders:
        with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:  # a running search removes folders
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders += [entry.path] if entry.name != "wandb" else []
                elif not entry.is_file(follow_symlinks=False) and not entry.name.startswith(f"{_JOURNAL_NAME}.lock"):
                    require_own(entry.path, StudyError)


def _in_todays_words(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `trials.jsonl`, whose `parameters` were `params` in version 1, and fewer before `EARLIER_VALUES`."""
    if "params" in row:
        row = {"parameters" if name == "params" else name: value for name, value in row.items()} | {"version": 2}
    parameters = row.get("parameters")
    return row | {"parameters": {**EARLIER_VALUES, **parameters}} if isinstance(parameters, dict) else row


@contextmanager
def damage_explained(file: Path) -> Iterator[Path]:
    """Say which file of a study is damaged, whatever its reader stumbled over.

    Raises:
        StudyError: The block raised what readers of missing or damaged files raise.
    """
    try:
        yield file
    except (
        FileNotFoundError,
        ValueError,
        LookupError,
        ArithmeticError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        what = "a file of the study is missing or damaged"
        raise StudyError(Problem(what, file, "put it back from a copy, or start a study of another name")) from error


def create_study(folder: StudyFolder, space: Space, prepared: Prepared, where: Compute | Mapping[str, Json]) -> None:
    """Write what a study is, all at once; one that another search has created meanwhile stays.

    Args:
        folder: The study.
        space: Its space.
        prepared: Its images.
        where: What its trials compute on here, or the `environment` of the machine that runs them.

    Raises:
        MachineError: The disk is full.
    """
    # A final training reads a study without Optuna in its process; only a search creates one.
    from xraytune.search.journal import create_journal

    with new_folder(folder.path, is_shared=True) as path:
        write_text(path / "study.yaml", space.to_yaml(folder.path))
        write_prepared(prepared, path / "split.json")
        machine = environment(where) if isinstance(where, Compute) else where
        write_json(path / "environment.json", {**machine, "extensions": {**_extensions(space)}})
        create_journal(path / _JOURNAL_NAME)


def _extensions(space: Space) -> dict[str, str]:
    pairs = space.combinations("backbone", "source")
    return {name: which for pair in pairs for name, which in extensions_of(*map(str, pair)).items()}


def environment(compute: Compute) -> dict[str, Any]:
    """Versions and machine, without anything secret."""
    return {
        "identity": uuid.uuid4().hex,
        "compute": asdict(compute),
        "packages": _packages(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "started": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _packages() -> dict[str, Json]:
    return {name: version(name) for name in _PACKAGES}


def continue_under_releases(folder: StudyFolder) -> str:
    """Record that trials are trained with other releases from now on, and return what to say; empty if nothing changed.

    Trials that have not ended lose their checkpoints, so that none is trained with two releases.

    Raises:
        StudyError: A file of the study is missing or damaged.
        MachineError: The disk is full.
    """
    earlier, now = folder.releases(), numeric_releases()
    if earlier[-1] == now:
        return ""
    with explained_disk_errors(folder.path):
        for checkpoint in folder.path.glob("trials/*/checkpoint/checkpoint.pt"):
            checkpoint.unlink()
    file = folder.path / "environment.json"
    content = read_json(file)
    entry = {"packages": _packages(), "started": _now(), "ended_trials": len(folder.rows())}
    write_json(file, content | {"continued": [*content.get("continued", ()), entry]})
    return (
        f"this study was begun with {', then '.join(map(named, earlier))}, and continues with {named(now)}: trials that "
        "have ended keep their values, unfinished ones start again, and `confirm` trains all replicates with one version"
    )


def numeric_releases(packages: Mapping[str, Json] | None = None) -> dict[str, str]:
    """The releases, among recorded versions or those installed here, on which a trial's numbers depend."""
    if packages is None:
        return releases(*_NUMERIC)
    return {name: str(packages[name]).partition("+")[0] for name in _NUMERIC if name in packages}


def named(packages: Mapping[str, str]) -> str:
    """Releases in words, such as `torch 2.15.0 and torchvision 0.29.2`."""
    return " and ".join(f"{name} {release}" for name, release in packages.items()) or "an unrecorded version of torch"


def other_releases(folder: StudyFolder) -> str:
    """How the installed releases differ from those that train the study now; empty if they are the same or unrecorded.

    Raises:
        StudyError: A file of the study is missing or damaged.
    """
    recorded, now = folder.releases()[-1], numeric_releases()
    return f"trained with {named(recorded)}, but {named(now)} is installed" if recorded and recorded != now else ""


def require_free(folder: StudyFolder) -> None:
    """Refuse to begin a study where something else lies.

    Raises:
        StudyError: The folder is there, and is no study.
    """
    if folder.path.exists() and any(folder.path.iterdir()):
        fix = "give the study another name (--set name=...), or move the folder away"
        raise StudyError(Problem("this folder is no study (study.yaml is missing), and not empty", folder.path, fix))


def require_same_space(folder: StudyFolder, space: Space) -> None:
    """Refuse to go on with a study of the same name whose space differs.

    Raises:
        StudyError: With the lines that differ.
    """
    old, new = (_lines(which) for which in (folder.space(), space))
    if old == new:
        return
    changes = [line for line in difflib.unified_diff(old, new, "study", "file", lineterm="", n=0) if line[:1] in "+-"]
    what = "the study exists with another space (- as it is, + as asked):\n    " + "\n    ".join(changes[2:])
    fix = "run it as it was, or search it as a new study: --set name=..." + _from_best(folder, space)
    raise StudyError(Problem(what, folder.path, fix))


def _from_best(folder: StudyFolder, space: Space) -> str:
    """The option that begins another study with this one's best trials, as far as they lie in its space."""
    from xraytune.search.journal import Journal  # as in `create_study`

    journal = Journal(folder.journal_path, folder.space(), writable=False)
    complete = (row for row in journal.rows() if row["status"] == "complete")
    best = sorted(complete, key=lambda row: float(row["value"]), reverse=True)
    settings = (flat_values(journal.parameters(row["number"])) for row in best)
    points = [point for values in settings if (point := space.nearest_initial_point(values))]
    if not points:
        return ""
    distinct = ", ".join(list({json.dumps(point): None for point in points})[:_BEST])
    return f"\n       from this one's best trials: --set {shlex.quote(f'points_to_evaluate=[{distinct}]')}"


def require_same_images(folder: StudyFolder, prepared: Prepared) -> None:
    """Refuse to go on with a study whose images or split changed.

    Raises:
        StudyError: They differ.
    """
    began = folder.prepared()
    if began.fingerprint != prepared.fingerprint:
        gone = missing_images(began, prepared.images)
        added = [file for file in missing_images(prepared, began.images) if file not in set(gone)]
        changes = [(gone, "changed or gone"), (added, "new")]
        said = "; ".join(f"{len(files)} are {how}: {listed(files)}" for files, how in changes if files)
        said = said or "they are the same, but of other patients or classes, or made square in another way"
        fix = "put them back as they were, or start a study of another name"
        raise StudyError(Problem(f"the images changed since the study began: {said}", folder.path, fix))


def _lines(space: Space) -> list[str]:
    """One line for each setting and each parameter, by its name."""

    def lines(name: str, content: Json) -> Iterator[str]:
        if not isinstance(content, dict) or name.startswith("parameters."):
            yield f"{name.removeprefix('parameters.')}: {json.dumps(content, ensure_ascii=False)}"
            return
        for key, inner in content.items():
            yield from lines(f"{name}.{key}" if name else key, inner)

    return sorted(lines("", space.identity()))


@contextmanager
def locked(folder: StudyFolder, work: StudyWork = "searched") -> Iterator[str]:
    """Hold the study while the block runs; gives the token of this hold, which workers compare.

    Args:
        folder: The study.
        work: What is done with it.

    Raises:
        StudyError: Another process holds it, or took it over while this one slept; says which, and since when.
    """
    try:
        with held(folder.lock_path, work) as owner:
            yield owner.token
    except HeldError as error:
        fix = "wait for it, or end it (Ctrl-C there); `xraytune status` reads a running study"
        others = error.owner.work if error.owner else ""  # an earlier version says nothing of it
        what = f"the study is being {others or 'searched'} by {error.owner or 'another process'}"
        raise StudyError(Problem(what, folder.path, fix)) from error


def is_searched(folder: StudyFolder) -> bool:
    """Whether a search runs on the study now."""
    owner = living_owner(folder.lock_path)
    return owner is not None and owner.work in {"searched", ""}  # of an earlier version it is not known


def project_rows(folder: StudyFolder, rows: list[dict[str, Any]]) -> None:
    """Bring `trials.jsonl` up to the journal: missing rows are appended; a file that says otherwise is written anew."""
    expected = {row["number"]: row for row in rows}
    try:
        there = read_jsonl(folder.rows_path)
    except ArtifactError:  # damaged, and nothing is lost with it
        there = []
    numbers = [row.get("number") for row in there]
    if len(set(numbers)) == len(numbers) and [expected.get(number) for number in numbers] == there:
        for number in sorted(expected.keys() - set(numbers)):
            append_jsonl(folder.rows_path, expected[number])
    else:
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in expected.values())
        write_text(folder.rows_path, "".join(f"{line}\n" for line in lines))
