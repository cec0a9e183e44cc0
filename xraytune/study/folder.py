"""A study is a folder with everything that explains its numbers.

    study.yaml  split.json                     the space and the images; at a later start,
                                               only settings that affect no result may
                                               change
    environment.json                           device and versions of the trials; grows when
                                               versions change
    inputs.json                                content of extra images and weights
    extensions/                                generators of users: record.json, and their code
    optuna.journal                             what all else follows from
    trials.jsonl                               derived from the journal: one row for every ended
                                               trial
    trials/0007/                               config.json epochs.jsonl checkpoint/ progress.json
                                               samples.json quality.json; val_b.npy: the trial's
                                               results for val-B; sha256.jsonl: its checksum
    report.html                                the report
    samples/gan-1a2b3c4d.png                   generated images next to real ones; named in
                                               the trials' samples.json

One process at a time writes to a study, under a lock that is released when the process ends.
"""

import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from xraytune.base.artifacts import releases
from xraytune.base.errors import ArtifactError, ConfigError, Problem, StudyError
from xraytune.base.files import StrPath, read_json, require_recorded, sha256_of
from xraytune.base.locks import LockHeldError, build_lock, current_owner, hold, other_owner
from xraytune.base.records import Compute
from xraytune.data.prepare import SplitData, read_prepared
from xraytune.space.load import STUDY_NAME, load_space
from xraytune.space.recorded import declare_recorded
from xraytune.space.settings import Experiment
from xraytune.space.space import Space
from xraytune.stats.classification import Floats

_NUMERIC = ("torch", "torchvision")
"""The packages whose versions change a trial's results."""
_PACKAGES = ("xraytune", "torch", "torchvision", "ray", "optuna", "numpy", "pillow", "scikit-learn")
_LOCK_NAME = ".lock"
ROWS_FILE = "trials.jsonl"
SCRATCH_NAME = ".tune"
"""The folder of Ray Tune's temporary files, in a study and its folders of runs."""


class StudyFolder:
    """The paths and files of a study.

    Methods raise StudyError if the file that they read is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.space_path = path / STUDY_NAME
        """The resolved space."""
        self.journal_path = path / "optuna.journal"
        self.rows_path = path / ROWS_FILE
        """One row for every ended trial."""
        self.runs_path = path / "runs.jsonl"
        """One row for every ended run, in the folder of a confirmation's runs."""
        self.wall_path = path / "wall.json"
        """The wall time used, in seconds."""
        self.log_path = path / ".ray.log"
        """What Ray's process writes while it runs trials."""
        self.confirm_path = path / "confirm"
        """The folder of the confirmation's runs, which looks like a study, and of its verdict."""
        self.driver_lock_path = path / ".driver.lock"
        """The lock of the process that runs the trials, which may outlive a killed search."""
        self.default_cache = path.parent.parent / "cache"
        """The artifact cache next to the studies, if `path` is resolved."""

    def trial_path(self, number: int) -> Path:
        """Return the folder of one trial."""
        return self.path / "trials" / f"{number:04d}"

    def network_path(self, number: int) -> Path:
        """Return the file of a trial's best network."""
        return self.trial_path(number) / "checkpoint" / "best.safetensors"

    def drop_checkpoint(self, number: int) -> None:
        """Remove the checkpoint of an ended trial; its best network stays."""
        (self.trial_path(number) / "checkpoint" / "checkpoint.pt").unlink(missing_ok=True)

    def space(self, *, data: StrPath | None = None, weights_dir: StrPath | None = None) -> Space:
        """Return the study's space, with new locations of images and official weights if given.

        Raises:
            ConfigError: The data file is invalid.
            StudyError: There is no study here, or its `study.yaml` was changed.
        """
        declare_recorded(self.path)
        if not self.space_path.exists():
            raise StudyError(
                "no study here: study.yaml is missing",
                self.path,
                "give the folder that `xraytune search` printed, such as studies/NAME",
            )
        try:
            return load_space(self.space_path, data=data, weights_dir=weights_dir)
        except ConfigError as error:
            if data and str(data) in str(error):
                raise
            what = (
                "study.yaml was changed since the search began, or written by another version of "
                "xraytune"
            )
            raise StudyError(Problem(what, self.path, "restore it"), *error.problems) from error

    def prepared(self, experiment: Experiment | None = None) -> SplitData:
        """Return the images and their split.

        For an `experiment`, the images have its size. If it is a replicate with its own draw, the
        patients of the draw are the train side.
        """
        with explain_damage(self.path / "split.json") as file:
            prepared = _read_split(file, sha256_of(file))
            if experiment is None:
                return prepared
            sized_images = prepared.sizes[experiment.settings.data.image_size]
            return sized_images.of_draw(experiment.draw)

    def environment(self) -> dict[str, Any]:
        """Return the recorded device and versions of the study's trials."""
        with explain_damage(self.path / "environment.json") as file:
            return dict(read_json(file))

    def compute(self) -> Compute:
        """Return the device, threads and precision of the study's trials."""
        with explain_damage(self.path / "environment.json"):
            return TypeAdapter(Compute).validate_python(self.environment()["compute"])

    def seconds(self) -> float:
        """Return the wall time used, over all starts; 0 if the file is missing or damaged."""
        try:
            return float(read_json(self.wall_path)["seconds"])
        except DAMAGE:
            return 0.0

    def releases(self) -> tuple[dict[str, str], ...]:
        """Return the versions of torch and torchvision that trained the trials, in order."""
        content = self.environment()
        return tuple(
            {name: start["packages"][name].partition("+")[0] for name in _NUMERIC}
            for start in (content, *content.get("continued", ()))
        )

    def experiment(self, number: int) -> Experiment:
        """Return the settings of one trial; raise StudyError if the file is missing or damaged."""
        declare_recorded(self.path)
        with explain_damage(self.trial_path(number) / "config.json") as config:
            return Experiment.model_validate(read_json(config), context=config.parent)

    def results_path(self, number: int) -> Path:
        """Return the file of a trial's results on val-B."""
        return self.trial_path(number) / "val_b.npy"

    def results(self, number: int) -> Floats:
        """Return a trial's results on val-B, float64 [N, C].

        Raises:
            StudyError: The file is missing, or is not as it was written.
        """
        file = self.results_path(number)
        with explain_damage(file, "remove it, and run the same command again"):
            require_recorded(file)
            # Memory-mapped: np.load would also open pickles and archives.
            results: Floats = np.lib.format.open_memmap(file, mode="r")
            return results


_RESTORE = "restore it from a backup, or start a study with another name"


@lru_cache(maxsize=2)
def _read_split(file: Path, _sha256: str) -> SplitData:
    return read_prepared(file)


DAMAGE = (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError)
"""The exceptions that readers raise for missing and damaged files."""


@contextmanager
def explain_damage(file: Path, fix: str = _RESTORE) -> Iterator[Path]:
    """Turn a reader's exception for a missing or damaged file into a StudyError that names it."""
    try:
        yield file
    except ArtifactError as error:  # it names the line
        raise StudyError(*error.problems) from error
    except DAMAGE as error:
        reason = f": {error}"[:200] if type(error) is ValueError else ""
        raise StudyError(f"a file of the study is missing or damaged{reason}", file, fix) from error


def environment(compute: Compute) -> dict[str, Any]:
    """Return the versions and the machine, without secrets."""
    return {
        "identity": uuid.uuid4().hex,
        "compute": asdict(compute),
        "packages": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def other_releases(study_folder: StudyFolder) -> str:
    """Return how the installed versions differ from the study's versions; "" if they do not."""
    record, setup = (
        " and ".join(f"{name} {release}" for name, release in packages.items())
        for packages in (study_folder.releases()[-1], releases(*_NUMERIC))
    )
    return "" if record == setup else f"trained with {record}, but {setup} is installed"


@contextmanager
def locked(
    study_folder: StudyFolder, work: Literal["searched", "confirmed"] = "searched"
) -> Iterator[None]:
    """Hold the study's lock; raise StudyError if another process has it.

    If an earlier search was killed, this waits until its Ray process has ended.
    """
    what = "waiting for Ray's process of an earlier search, which still runs"
    try:
        with hold(study_folder.path / _LOCK_NAME, work):
            with build_lock(study_folder.driver_lock_path, what=what):
                pass
            yield
    except LockHeldError as error:
        work_of_owner = error.owner.work if error.owner else "searched"
        raise StudyError(
            f"the study is being {work_of_owner} by {error.owner or 'another process'}",
            study_folder.path,
            "wait for it, or stop it (Ctrl-C there); `xraytune status` shows a running study",
        ) from error


def require_sole_owner(study_folder: StudyFolder) -> None:
    """Raise StudyError if another machine works on the study, too, in spite of the lock."""
    lock = study_folder.path / _LOCK_NAME
    if lock.exists() and (owner := other_owner(lock)):
        raise StudyError(
            f"{owner} works on the study, too: locks on this storage are local to each machine",
            study_folder.path,
            "stop one of the two, and mount the storage with shared locks (Lustre: -o flock)",
        )


def work_on(study_folder: StudyFolder) -> str:
    """Return what is done with the study now, `searched` or `confirmed`; "" if nothing is."""
    owner = current_owner(study_folder.path / _LOCK_NAME)
    return owner.work if owner else ""
