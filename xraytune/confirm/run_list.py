"""Runs of fixed settings, such as the replicates of a confirmation: trained in any order, none twice.

A folder of runs looks like a study: `trials/0007/config.json` contains a run's settings.
`runs.jsonl` has a row for each ended run; each start trains the runs that have no row, or that
failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from xraytune.base.errors import Problem, StudyError, TrialError
from xraytune.base.files import sha256_of, write_json
from xraytune.base.records import EpochRecord, Json
from xraytune.confirm.arms import Plan, replicate
from xraytune.confirm.study import OpenStudy
from xraytune.data.prepare import Prepared, write_prepared
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.loop import GeneratorNeeds, TrialLoop
from xraytune.space.settings import Experiment
from xraytune.study.clock import StudyClock
from xraytune.study.folder import StudyFolder, other_releases
from xraytune.study.row import RunRow, Status, TrialStatus, append_row, ended_runs, reasons_of
from xraytune.study.trial import Trial
from xraytune.study.trial_files import read_progress
from xraytune.synth.synthesize import generator_need

Asha: TypeAlias = Callable[[int, EpochRecord], bool]
"""Returns whether a run continues after an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training: its number in its folder, its label, such as `gan #12, replicate 1`, and its settings."""

    number: int
    label: str
    experiment: Experiment


def complete_folder(
    folder: StudyFolder, prepared: Prepared, machine: Callable[[], Mapping[str, Json]]
) -> None:
    """Write what workers read in a folder of runs: the images and the machine."""
    if not (folder.path / "environment.json").exists():
        write_prepared(prepared, folder.path / "split.json")
        write_json(folder.path / "environment.json", {**machine()})


class RunList(TrialLoop):
    """A fixed list of runs, including those that have ended; StudyError if one of these had other settings.

    `what` is their name in progress bars and errors. `make_asha` returns what decides whether a run
    continues after an epoch; without it every run trains to its last step.
    """

    def __init__(
        self,
        folder: StudyFolder,
        runs: Sequence[Run],
        callbacks: Callbacks = NO_CALLBACKS,
        *,
        what: str,
        retries: int,
        generator_need: GeneratorNeeds,
        make_asha: Callable[[], Asha] | None = None,
    ) -> None:
        self._runs = {run.number: run for run in runs}
        self._what = what
        self._on_progress = callbacks.on_progress
        self._asha = make_asha() if make_asha else None
        self.stops_trials = make_asha is not None
        self._shown: dict[int, int] = {}  # steps of generators that were reported last
        self._ended: dict[int, TrialStatus] = {
            number: row.status
            for number, row in ended_runs(folder).items()
            if number in self._runs and row.status != "failed"
        }
        unfinished = [
            Trial(number=run.number, parameters=run.experiment.parameters)
            for run in runs
            if run.number not in self._ended
        ]
        super().__init__(
            folder,
            unfinished,
            clock=StudyClock(),
            retries=retries,
            generator_need=generator_need,
            successful=len(self._ended),
        )
        for number in self._ended:
            self._require_same(number)
            # The confirmation may have been killed between a run's end and this.
            folder.drop_checkpoint(number)
        self._report_progress()

    def label(self, trial: Trial) -> str:
        """Return the label of a run."""
        return self._runs[trial.number].label

    def begin(self, trial: Trial) -> Experiment:
        """Return the settings of a run; StudyError if it was started with others."""
        self._require_same(trial.number)
        return self._runs[trial.number].experiment

    def should_continue(self, number: int, record: EpochRecord) -> bool:
        """Let ASHA decide, if this is a list of top-up trials."""
        return self._asha is None or self._asha(number, record)

    def record(self, number: int, status: Status, outcome: Mapping[str, Any]) -> None:
        """Record the end of a run in `runs.jsonl`."""
        seconds = round(self.clock.times().trials[number], 3)
        label = self._runs[number].label
        network = self.folder.network_path(number)
        sha256 = sha256_of(network) if status == "complete" and network.exists() else None
        row = RunRow(
            number=number,
            label=label,
            status=status,
            seconds=seconds,
            network_sha256=sha256,
            **outcome,
        )
        append_row(self.folder.runs_path, row)
        self._ended[number] = status
        if status != "failed":  # a failed run resumes from its checkpoint at the next start
            self.folder.drop_checkpoint(number)
        self._report_progress()

    def heartbeat(self) -> None:
        """Report the progress of the generators in training."""
        for trial in self._running.values():
            number = trial.number
            progress = (
                read_progress(self.folder.trial_path(number)) if trial.only_generator else None
            )
            if progress and progress.done and progress.done != self._shown.get(number):
                self._shown[number] = progress.done
                self._on_progress(
                    f"{self._runs[number].label} (steps)", progress.done, progress.total
                )

    def _require_same(self, number: int) -> None:
        config = self.folder.trial_path(number) / "config.json"
        if (
            config.exists()
            and self.folder.experiment(number).identity()
            != self._runs[number].experiment.identity()
        ):
            what = "this run was started with other settings: the study or the options have changed since"
            fix = f"use the same options, or move {self.folder.path.name}/ away to start over"
            raise StudyError(Problem(what, config, fix))

    def _report_progress(self) -> None:
        self._on_progress(f"training {self._what}", len(self._ended), len(self._runs))


def train_runs(
    study: OpenStudy,
    folder: StudyFolder,
    runs: Sequence[Run],
    what: str,
    make_asha: Callable[[], Asha] | None = None,
) -> dict[int, RunRow]:
    """Train the runs that have not ended and return the rows of all; `what` and `make_asha` are those of `RunList`.

    Raises StudyError if the versions of packages have changed since the first run, TrialError if
    runs failed.
    """
    if not runs:
        return {}
    complete_folder(folder, study.prepared, study.machine)
    make_loop = partial(
        RunList,
        folder,
        runs,
        what=what,
        retries=study.settings.resources.retries,
        make_asha=make_asha,
        generator_need=partial(
            generator_need, prepared=study.prepared, compute=folder.compute(), cache=study.cache
        ),
    )
    loop = make_loop(study.callbacks)
    if not loop.is_done:
        if other := other_releases(folder):
            fix = f"install those versions, or move {folder.path.name}/ away to train all runs with the current ones"
            problem = (
                f"the runs of this confirmation are {other}, so their AUROCs are not comparable"
            )
            raise StudyError(Problem(problem, folder.path, fix))
        study.runner.run(folder, make_loop)
    numbers = {run.number for run in runs}
    rows = {
        number: row for number, row in ended_runs(folder).items() if number in numbers
    }  # of this list alone
    if failed := [row for row in rows.values() if row.status == "failed"]:
        fix = "run the same command again to retry them; see trials/*/error.txt there"
        raise TrialError(
            Problem(
                f"{len(failed)} of {len(runs)} {what} failed:{reasons_of(failed)}", folder.path, fix
            )
        )
    return rows


def train_replicates(study: OpenStudy, plan: Plan) -> None:
    """Train the runs of a plan that have not ended, each to its last step; raise TrialError if some failed."""
    trainings = plan.trainings.values()
    pairs = ((number, arm) for number in range(plan.replicates) for arm in trainings)
    runs = [
        Run(
            number=place,
            label=f"{arm.name}, replicate {number}",
            experiment=replicate(arm, study.settings, number, plan.test),
        )
        for place, (number, arm) in enumerate(pairs)
    ]
    train_runs(study, study.runs_folder, runs, "replicates")
