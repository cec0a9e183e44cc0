"""Run one trial of a study again, outside Ray, and compare every number: what a study says can be made again.

The trial gets the study's settings, images, thread count and artifacts, and a folder of its own that vanishes; the study
is only read, also while it is searched.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from xraytune.classifier.train import TRAINING_STEPS
from xraytune.compute import pin, require_device
from xraytune.config.settings import Experiment
from xraytune.errors import MachineError, Problem, StudyError
from xraytune.files import explained_disk_errors, make_folder, read_jsonl, require_writable, temporary_name
from xraytune.pipeline.trial import run_trial
from xraytune.records import EpochRecord, Json, Progress, TrialResult, ignore_progress
from xraytune.search.inputs import inputs_of_trials, read_inputs, require_same_inputs
from xraytune.search.journal import Journal
from xraytune.search.messages import reason_of, traceback_note
from xraytune.search.study import StudyFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedEpoch:
    """One epoch, then and now; None where there was none.

    Attributes:
        epoch: 1-based.
        recorded_val_auroc: In the study.
        replayed_val_auroc: Now.
        is_identical: Whether all figures of the epoch but its seconds are equal to the bit.
    """

    epoch: int
    recorded_val_auroc: float | None
    replayed_val_auroc: float | None
    is_identical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A trial, then and now.

    Attributes:
        study: The study's folder.
        trial: The number of the trial.
        status: How it ended; None where it still runs, or was interrupted.
        epochs: Its epochs, recorded or replayed.
        recorded_val_b_auroc: Of a complete trial.
        replayed_val_b_auroc: Of a complete trial.
        recorded_failure: Why a failed trial ended.
        replayed_failure: Why it ended now; empty where it did not fail.
        device: What it ran on.
    """

    study: Path
    trial: int
    status: str | None
    epochs: tuple[ReplayedEpoch, ...]
    recorded_val_b_auroc: float | None
    replayed_val_b_auroc: float | None
    recorded_failure: str
    replayed_failure: str
    device: str

    @property
    def is_identical(self) -> bool:
        """Whether everything came out as it is recorded."""
        return (
            all(epoch.is_identical for epoch in self.epochs)
            and self.recorded_val_b_auroc == self.replayed_val_b_auroc
            and self.recorded_failure == self.replayed_failure
        )

    def to_json(self) -> dict[str, Json]:
        """The record as JSON values."""
        return asdict(self) | {
            "study": str(self.study),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "is_identical": self.is_identical,
        }


def replay(
    study: Path,
    trial: int,
    *,
    data: Path | None = None,
    weights_dir: Path | None = None,
    cache: Path | None = None,
    on_progress: Progress = ignore_progress,
) -> Replay:
    """Run a trial again, for as many epochs as the study has of it; a failed one until it fails.

    Args:
        study: The study's folder.
        trial: The number of the trial.
        data: Where the study's images lie now, if they moved.
        weights_dir: Where the official weight files lie now, if they moved.
        cache: The artifact cache of the search; by default the one beside the studies.
        on_progress: Told the training steps, and before them what is made again, because it is not in the cache.

    Raises:
        StudyError: There is no such study or trial, it has no epoch yet, or its images or weights changed.
        DataError: A folder of extra images that cannot be used any more.
        MachineError: The study was searched on a GPU and there is none; weights are missing, or the disk is full.
    """
    folder = StudyFolder(study.resolve())
    cache = (cache or folder.default_cache).resolve()
    require_writable(cache)
    space = folder.space(data=data, weights_dir=weights_dir)
    journal = Journal(folder.journal_path, space, writable=False)
    if trial not in {known.number for known in journal.trials}:
        fix = f"it has {len(journal.trials)} trials, numbered from 0"
        raise StudyError(Problem(f"there is no trial {trial}", study, fix))
    status = journal.status(trial)
    recorded = read_jsonl(folder.trial_path(trial) / "epochs.jsonl")
    if not recorded and status != "failed":
        fix = "wait until it has ended its first epoch; `xraytune status` shows how far it is"
        raise StudyError(Problem(f"trial {trial} has no epoch yet", study, fix))
    experiment = Experiment(settings=space.settings, parameters=journal.parameters(trial))
    prepared, compute = folder.prepared(), folder.compute()
    require_device(compute, folder.path)
    inputs = inputs_of_trials([experiment.parameters])
    require_same_inputs(folder, read_inputs(inputs, space.settings, prepared, cache))
    pin(compute)

    replayed: list[EpochRecord] = []
    # A complete trial must end by itself; one epoch more is enough to see that it does not.
    last_epoch = math.inf if status == "failed" else len(recorded) + (status == "complete")

    def on_result(record: EpochRecord) -> None:
        replayed.append(record)

    def show(what: str, done: int, total: int) -> None:
        recorded_steps = recorded[-1]["steps"] if recorded and what == TRAINING_STEPS else total
        on_progress(what, done, max(done, recorded_steps))

    result: TrialResult | None = None
    failure = ""
    with _passing_folder(cache) as work:
        try:
            result = run_trial(
                experiment,
                prepared,
                trial_dir=work,
                cache=cache,
                compute=compute,
                on_epoch=on_result,
                should_stop=lambda: len(replayed) >= last_epoch,
                on_progress=show,
            )
        except MachineError:  # no trial fails of this
            raise
        except Exception as error:
            if status != "failed":
                raise
            failure = reason_of(error)
    row = journal.row(trial) if status else {}
    reason = row["reason"] if status == "failed" else ""
    return Replay(
        study=study,
        trial=trial,
        status=status,
        epochs=_compared(recorded, replayed),
        recorded_val_b_auroc=row.get("val_b_auroc"),
        replayed_val_b_auroc=result.val_b_auroc if result and status == "complete" else None,
        recorded_failure=reason.removesuffix(traceback_note(folder.trial_path(trial))),
        replayed_failure=failure,
        device=compute.device,
    )


@contextmanager
def _passing_folder(cache: Path) -> Iterator[Path]:
    """A folder that vanishes with the block; what a killed replay leaves has a name that `clean` finds."""
    folder = temporary_name(cache / "replay")
    with explained_disk_errors(folder):
        make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compared(recorded: list[dict[str, Any]], replayed: list[EpochRecord]) -> tuple[ReplayedEpoch, ...]:
    now_rows = [{"version": 1, **asdict(record)} for record in replayed]
    return tuple(
        ReplayedEpoch(
            epoch=epoch,
            recorded_val_auroc=then["val_auroc"] if then else None,
            replayed_val_auroc=now["val_auroc"] if now else None,
            is_identical=_figures(then) == _figures(now),
        )
        for epoch, (then, now) in enumerate(zip_longest(recorded, now_rows), 1)
    )


def _figures(row: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if row is None else {name: value for name, value in row.items() if name != "seconds"}
