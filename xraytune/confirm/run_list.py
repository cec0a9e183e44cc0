"""Runs of fixed settings, such as a confirmation's replicates: trained in any order, none twice.

A folder of runs looks like a study: `trials/0007/config.json` contains a run's settings.
`runs.jsonl` has a row for each ended run; each start trains the runs that failed or have no row.
If ASHA may prune the runs, `reports.jsonl` has the scores that they report at its rungs. A report
is written before ASHA decides on it. A restart replays the reports in the order of arrival, so that
it decides as an uninterrupted confirmation would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from xraytune.base.errors import StudyError, TrialError
from xraytune.base.files import append_jsonl, read_jsonl, sha256_of, write_json
from xraytune.base.records import Compute, EpochRecord, frozen, progress_text
from xraytune.confirm.arms import Plan, replicate
from xraytune.confirm.record import Confirmation
from xraytune.data.prepare import SplitData, write_prepared
from xraytune.search.asha import Rungs
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks, RunsView
from xraytune.search.loop import LineageToTrain, TrialLoop
from xraytune.search.ray.runner import Runner
from xraytune.space.cost import usual_seconds
from xraytune.space.recorded import write_extensions
from xraytune.space.search_settings import SchedulerSettings
from xraytune.space.settings import Experiment, Settings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, environment, explain_damage, other_releases
from xraytune.study.row import RunRow, Status, TrialRow, append_run, ended_runs, reasons_of
from xraytune.study.trial import OpenTrial, read_progress
from xraytune.synth.generator_inputs import GAN_PROGRESS, lineage_to_train

NO_RUNGS = Rungs(SchedulerSettings(name="none"), max_epochs=0)


@frozen
class OpenStudy:
    """A locked study whose search has ended.

    Attributes:
        space: The study's space, with the locations given for this confirmation.
        compute: Device and precision that the study's trials computed with.
        searched: The ended trials of the search.
        rungs: ASHA's rungs of the search, which decide which top-up trials are pruned.
        earlier_plan, earlier_verdict: Those of an earlier call, which decide what this one may
            still choose; None before there are any.
        reason: Why test images are scored, for the test-set access log.
    """

    study_folder: StudyFolder
    space: Space
    prepared: SplitData
    compute: Compute
    cache: Path
    searched: Sequence[TrialRow]
    rungs: Rungs
    runner: Runner
    callbacks: Callbacks
    earlier_plan: Plan | None = None
    earlier_verdict: Confirmation | None = None
    reason: str = ""

    @property
    def settings(self) -> Settings:
        """The study's settings."""
        return self.space.settings

    @property
    def runs_folder(self) -> StudyFolder:
        """The folder of the replicates."""
        return StudyFolder(self.study_folder.confirm_path)

    def experiment(self, number: int) -> Experiment:
        """Return the experiment of a replicate's run, with the weights where they are now."""
        experiment = self.runs_folder.experiment(number)
        return experiment.with_values({"settings.weights_dir": self.settings.weights_dir})


class RunList(TrialLoop):
    """A fixed list of runs, including the runs that have ended.

    `what` is the name of the runs in progress bars and errors. ASHA may prune the runs at `rungs`;
    by default, every run trains to its last step.

    Raises StudyError if a run was started with other settings.
    """

    def __init__(
        self,
        study_folder: StudyFolder,
        runs: Sequence[OpenTrial],
        callbacks: Callbacks = NO_CALLBACKS,
        *,
        what: str,
        lineage_to_train: LineageToTrain,
        rungs: Rungs = NO_RUNGS,
    ) -> None:
        self._runs = {run.number: run for run in runs}
        self._what = what
        self._seconds: dict[str, list[float]] = {}  # of the ended runs, by arm
        self._epoch_seconds: list[float] = []  # of the same, without their generators
        self._ended: set[int] = set()
        rows = ended_runs(study_folder).values()
        kept_rows = {row.number: row for row in rows if row.status != "failed"}
        for number, run in self._runs.items():
            config = study_folder.trial_path(number) / "config.json"
            identity = run.experiment.identity()
            if config.exists() and study_folder.experiment(number).identity() != identity:
                raise _other_settings(study_folder, config)
        waiting_runs = [run for run in runs if run.number not in kept_rows]
        super().__init__(
            study_folder, waiting_runs, lineage_to_train=lineage_to_train, callbacks=callbacks
        )
        for run in runs:
            if run.number in kept_rows:
                self._add_end(run, kept_rows[run.number].seconds)
        self._rungs = rungs
        self.stops_trials = bool(rungs.epochs)
        self._reports_path = study_folder.path / "reports.jsonl"
        if self.stops_trials:
            with explain_damage(self._reports_path) as file:
                for row in read_jsonl(file, is_chained=True):
                    if row["number"] not in self._runs:
                        raise _other_settings(study_folder, file)
                    self._decide(row["number"], row["epoch"], row["value"])
        self._report_progress()

    def should_continue(self, trial: OpenTrial, record: EpochRecord) -> bool:
        """Let ASHA decide; repeated calls return the same answer."""
        number = trial.number
        epoch = record.epoch
        value = record.best_val_score
        if epoch in self._rungs.epochs:
            row = {"version": 1, "number": number, "epoch": epoch, "value": value}
            append_jsonl(self._reports_path, row, is_chained=True)
        return self._decide(number, epoch, value)

    def _decide(self, number: int, epoch: int, value: float) -> bool:
        parameters = self._runs[number].parameters
        return self._rungs.should_continue(parameters, epoch, value, parameters.rung_group)

    def record(self, trial: OpenTrial, status: Status, outcome: Mapping[str, Any]) -> None:
        """Record the end of a run in `runs.jsonl`."""
        number = trial.number
        network = self.study_folder.network_path(number)
        digest = sha256_of(network) if status == "complete" and network.exists() else None
        row = RunRow(
            number=number, label=trial.label, status=status, network_sha256=digest, **outcome
        )
        append_run(self.study_folder, row)
        self._add_end(trial, row.seconds)
        if status != "failed":  # a failed run resumes from its checkpoint at the next start
            self.study_folder.drop_checkpoint(number)
        self._report_progress()

    def heartbeat(self) -> None:
        """Report what each running run is doing, and the time that is left."""
        states: dict[str, str] = {}
        shares: dict[int, float] = {}
        for run in self._running.values():
            epochs = run.experiment.settings.budget.max_epochs
            text = f"epoch {run.epochs}/{epochs}" if run.epochs else "starting"
            share = run.epochs / epochs
            progress = read_progress(self.study_folder.trial_path(run.number))
            if progress and not run.epochs:
                what, done, total, _ = progress
                text = progress_text(what, done, total)
                if run.trains_generator and what == GAN_PROGRESS:
                    share = done / total / 2  # the network is trained after it
                    self.callbacks.on_progress(f"GAN of {run.label} (steps)", done, total)
            states[run.label] = text
            shares[run.number] = share
        self.callbacks.on_runs(
            RunsView(
                what=self._what,
                ended=len(self._ended),
                running=states,
                waiting=len(self._waiting),
                seconds_left=self._seconds_left(shares),
            )
        )

    def _seconds_left(self, shares: Mapping[int, float]) -> float | None:
        """Return the time left; `shares` has the completed share of each running run.

        A run is expected to take as long as the ended runs of its arm. If there are none, it is
        expected to take as long as all ended runs; for a run without a generator, the time of
        their generators does not count.
        """
        if not self._seconds:
            return None
        all_seconds = [*chain(*self._seconds.values())]
        work = 0.0
        for run in (*self._waiting.values(), *self._running.values()):
            default_seconds = all_seconds if run.trains_generator else self._epoch_seconds
            run_seconds = self._seconds.get(run.parameters.arm, default_seconds)
            work += usual_seconds(run_seconds) * (1 - shares.get(run.number, 0))
        return work / max(1, len(self._running))

    def _add_end(self, run: OpenTrial, seconds: float | None) -> None:
        self._ended.add(run.number)
        if seconds is not None:
            self._seconds.setdefault(run.parameters.arm, []).append(seconds)
            epochs = read_jsonl(self.study_folder.trial_path(run.number) / "epochs.jsonl")
            self._epoch_seconds.append(sum(epoch["seconds"] for epoch in epochs))

    def _report_progress(self) -> None:
        self.callbacks.on_progress(f"training {self._what}", len(self._ended), len(self._runs))
        self.heartbeat()


def _other_settings(study_folder: StudyFolder, file: Path) -> StudyError:
    return StudyError(
        "this run was started with other settings: the study or the options changed",
        file,
        f"use the same options, or move {study_folder.path.name}/ away to start over",
    )


def train_runs(
    study: OpenStudy,
    study_folder: StudyFolder,
    runs: Sequence[OpenTrial],
    what: str,
    rungs: Rungs = NO_RUNGS,
) -> dict[int, RunRow]:
    """Train the runs that have not ended, and return the rows of all runs.

    `what` and `rungs` are as for `RunList`.

    Raises StudyError if the versions of packages have changed since the first run, TrialError if
    runs failed.
    """
    if not runs:
        return {}
    path = study_folder.path
    write_extensions(path, (name for run in runs for name in run.parameters.extensions), path)
    if not (path / "environment.json").exists():
        write_prepared(study.prepared, path / "split.json")
        _write_machine(study, path / "environment.json")
    make_loop = partial(
        RunList,
        study_folder,
        runs,
        what=what,
        rungs=rungs,
        lineage_to_train=partial(
            lineage_to_train,
            prepared=study.prepared,
            compute=study_folder.compute(),
            cache=study.cache,
        ),
    )
    if not make_loop(study.callbacks).is_done:
        _require_same_releases(study_folder)
        study.runner.run(make_loop)
    ended_rows = ended_runs(study_folder)
    rows = {run.number: ended_rows[run.number] for run in runs}
    failed_rows = [row for row in rows.values() if row.status == "failed"]
    if failed_rows:
        raise TrialError(
            f"{len(failed_rows)} of {len(runs)} {what} failed:{reasons_of(failed_rows)}",
            path,
            "run the same command again to retry them; see trials/*/error.txt there",
        )
    return rows


def _write_machine(study: OpenStudy, file: Path) -> None:
    """Record what the runs compute with: the machine, or those of a cluster, and the versions."""
    machine = environment(study.compute)
    if study.runner.address is not None:
        machine = study.runner.survey(study.settings, has_gpu=study.compute.device == "cuda")
    identity = study.study_folder.environment()["identity"]
    write_json(file, {**machine, "identity": identity, "compute": asdict(study.compute)})


def _require_same_releases(study_folder: StudyFolder) -> None:
    """Refuse (StudyError) to go on with other versions of packages than the first run had."""
    change = other_releases(study_folder)
    if change:
        raise StudyError(
            f"the runs of this confirmation are {change}, so their scores are not comparable",
            study_folder.path,
            f"install those versions, or move {study_folder.path.name}/ away to train all runs "
            "with the current ones",
        )


def train_replicates(study: OpenStudy, plan: Plan) -> None:
    """Train the runs of a plan that have not ended, each to its last step.

    Raises TrialError if any run failed.
    """
    runs: list[OpenTrial] = []
    for number in range(plan.replicates):
        for arm, name in plan.trainings.items():
            experiment = replicate(arm, study.settings, number, plan.test)
            label = f"{name}, replicate {number}"
            runs.append(OpenTrial(number=len(runs), label=label, experiment=experiment))
    train_runs(study, study.runs_folder, runs, "replicates")
