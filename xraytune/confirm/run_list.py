"""Runs of fixed settings, such as a confirmation's replicates: trained in any order, none twice.

A folder of runs looks like a study: `trials/0007/config.json` contains a run's settings.
`runs.jsonl` has a row for each ended run; each start trains the runs that have no row, or that
failed. `reports.jsonl` has each epoch of runs that ASHA may prune, in its order of arrival, before
the decision on it: a restart replays them and decides as an uninterrupted confirmation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xraytune.base.errors import Problem, StudyError, TrialError
from xraytune.base.files import append_jsonl, read_jsonl, sha256_of, write_json
from xraytune.base.records import Compute, EpochRecord, Json
from xraytune.confirm.arms import CONFIRM_FOLDER, Plan, replicate
from xraytune.data.prepare import Prepared, write_prepared
from xraytune.search.asha import Rungs
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.loop import GeneratorNeeds, TrialLoop
from xraytune.search.ray.runner import Runner
from xraytune.space.settings import Experiment, Settings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, damage_explained, other_releases
from xraytune.study.row import RunRow, Status, TrialRow, append_row, ended_rows, reasons_of
from xraytune.study.start import environment
from xraytune.study.trial import Trial
from xraytune.synth.synthesize import generator_need


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStudy:
    """A locked study whose search has ended.

    Attributes:
        space: Its space, with the locations given for this confirmation.
        compute: That of its trials.
        searched: The ended trials of the search.
        rungs: ASHA's rungs of the search; they decide which top-up trials are pruned.
    """

    folder: StudyFolder
    space: Space
    prepared: Prepared
    compute: Compute
    cache: Path
    searched: Sequence[TrialRow]
    rungs: Rungs
    runner: Runner
    callbacks: Callbacks

    @property
    def settings(self) -> Settings:
        """The study's settings."""
        return self.space.settings

    @property
    def runs_folder(self) -> StudyFolder:
        """The folder of the replicates."""
        return StudyFolder(self.folder.path / CONFIRM_FOLDER)

    def describe_machine(self) -> dict[str, Json]:
        """Return the `environment` of a machine that trains."""
        where = environment(self.compute)
        if self.runner.address is not None:
            where = self.runner.survey(self.settings, has_gpu=self.compute.device == "cuda")
        return {**where, "compute": asdict(self.compute)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training: its number in its folder, its label and its settings.

    A label is such as `gan #12, replicate 1`.
    """

    number: int
    label: str
    experiment: Experiment


class RunList(TrialLoop):
    """A fixed list of runs, including those that have ended.

    StudyError if one was started with other settings.

    `what` is their name in progress bars and errors. ASHA may prune them on `rungs`; without it
    every run trains to its last step.
    """

    def __init__(
        self,
        folder: StudyFolder,
        runs: Sequence[Run],
        callbacks: Callbacks = NO_CALLBACKS,
        *,
        what: str,
        generator_need: GeneratorNeeds,
        rungs: Rungs | None = None,
    ) -> None:
        self._runs = {run.number: run for run in runs}
        self._what = what
        self._on_progress = callbacks.on_progress
        self._ended = {
            number
            for number, row in ended_rows(folder.runs_path).items()
            if number in self._runs and row.status != "failed"
        }
        for run in runs:
            config = folder.trial_path(run.number) / "config.json"
            if (
                config.exists()
                and folder.experiment(run.number).identity() != run.experiment.identity()
            ):
                what = (
                    "this run was started with other settings: the study or the options have "
                    "changed since"
                )
                fix = f"use the same options, or move {folder.path.name}/ away to start over"
                raise StudyError(Problem(what, config, fix))
        super().__init__(
            folder,
            [
                Trial(number=run.number, parameters=run.experiment.parameters)
                for run in runs
                if run.number not in self._ended
            ],
            generator_need=generator_need,
        )
        self._rungs = rungs
        self.stops_trials = rungs is not None
        self._reports_path = folder.path / "reports.jsonl"
        self._reported: set[tuple[int, int]] = set()
        if rungs:
            with damage_explained(self._reports_path) as file:
                for row in read_jsonl(file):
                    self._decide(rungs, row["number"], row["epoch"], row["value"])
        self._report_progress()

    def label(self, trial: Trial) -> str:
        """Return the label of a run."""
        return self._runs[trial.number].label

    def begin(self, trial: Trial) -> Experiment:
        """Return the settings of a run."""
        return self._runs[trial.number].experiment

    def should_continue(self, number: int, record: EpochRecord) -> bool:
        """Let ASHA decide, if there are rungs; repeated calls return the same answer."""
        if self._rungs is None:
            return True
        epoch = record.epoch
        value = record.best_val_score
        if (number, epoch) not in self._reported:
            row = {"version": 1, "number": number, "epoch": epoch, "value": value}
            append_jsonl(self._reports_path, row)
        return self._decide(self._rungs, number, epoch, value)

    def _decide(self, rungs: Rungs, number: int, epoch: int, value: float) -> bool:
        self._reported.add((number, epoch))
        arm = self._runs[number].experiment.parameters.arm
        return rungs.should_continue(f"top-up {number}", epoch, value, arm=arm)

    def record(self, number: int, status: Status, outcome: Mapping[str, Any]) -> None:
        """Record the end of a run in `runs.jsonl`."""
        network = self.folder.network_path(number)
        row = RunRow(
            number=number,
            label=self._runs[number].label,
            status=status,
            network_sha256=sha256_of(network)
            if status == "complete" and network.exists()
            else None,
            **outcome,
        )
        append_row(self.folder.runs_path, row)
        self._ended.add(number)
        if status != "failed":  # a failed run resumes from its checkpoint at the next start
            self.folder.drop_checkpoint(number)
        self._report_progress()

    def _report_progress(self) -> None:
        self._on_progress(f"training {self._what}", len(self._ended), len(self._runs))


def train_runs(
    study: OpenStudy,
    folder: StudyFolder,
    runs: Sequence[Run],
    what: str,
    rungs: Rungs | None = None,
) -> dict[int, RunRow]:
    """Train the runs that have not ended and return the rows of all.

    `what` and `rungs` are those of `RunList`.

    Raises StudyError if the versions of packages have changed since the first run, TrialError if
    runs failed.
    """
    if not runs:
        return {}
    if not (folder.path / "environment.json").exists():
        write_prepared(study.prepared, folder.path / "split.json")
        write_json(folder.path / "environment.json", study.describe_machine())
    make_loop = partial(
        RunList,
        folder,
        runs,
        what=what,
        rungs=rungs,
        generator_need=partial(
            generator_need, prepared=study.prepared, compute=folder.compute(), cache=study.cache
        ),
    )
    if not make_loop(study.callbacks).is_done:
        if other := other_releases(folder):
            what = f"the runs of this confirmation are {other}, so their AUROCs are not comparable"
            fix = (
                f"install those versions, or move {folder.path.name}/ away to train all runs with "
                "the current ones"
            )
            raise StudyError(Problem(what, folder.path, fix))
        study.runner.run(make_loop)
    ended = ended_rows(folder.runs_path)
    rows = {run.number: ended[run.number] for run in runs}
    if failed := [row for row in rows.values() if row.status == "failed"]:
        what = f"{len(failed)} of {len(runs)} {what} failed:{reasons_of(failed)}"
        fix = "run the same command again to retry them; see trials/*/error.txt there"
        raise TrialError(Problem(what, folder.path, fix))
    return rows


def train_replicates(study: OpenStudy, plan: Plan) -> None:
    """Train the runs of a plan that have not ended, each to its last step.

    Raises TrialError if some failed.
    """
    runs: list[Run] = []
    for number in range(plan.replicates):
        for arm, name in plan.trainings.items():
            experiment = replicate(arm, study.settings, number, plan.test)
            label = f"{name}, replicate {number}"
            runs.append(Run(number=len(runs), label=label, experiment=experiment))
    train_runs(study, study.runs_folder, runs, "replicates")
