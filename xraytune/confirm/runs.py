"""The runs of a confirmation: trainings with fixed settings, in any order, none twice.

A folder of runs looks like a study: `trials/0007/config.json` contains a run's settings. `runs.jsonl` has a row for each
ended run; each start trains the runs that have no row, or that failed. Replicates train to their last step; top-up trials
are pruned by the ASHA of the search.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xraytune.config.load import experiment_from_json
from xraytune.config.settings import Experiment, Settings, without_gates
from xraytune.confirm.plan import Arm
from xraytune.errors import Problem, StudyError
from xraytune.files import append_jsonl, new_folder, read_json, read_jsonl, write_json
from xraytune.pipeline.prepare import Prepared, write_prepared
from xraytune.records import EpochRecord, Json, Progress, ignore_progress
from xraytune.search.asha import Rungs
from xraytune.search.messages import Status, TrialSuggestion, read_progress
from xraytune.search.study import StudyFolder, damage_explained
from xraytune.search.trial_queue import GeneratorNeeds, TrialQueue
from xraytune.seeding import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training: its number in its folder, its label, such as `gan #12, GAN seed 1, seed 0`, and its settings."""

    number: int
    label: str
    experiment: Experiment


def replicate(arm: Arm, settings: Settings, gan_seed: int, classifier_seed: int) -> Experiment:
    """Return the settings that train an arm with fresh seeds, each counted from 0, to its last step.

    A pair of seeds gives the same stream of real images in every arm, with or without a generator.
    """
    seed = derive_seed(settings.seed, "confirm", gan_seed, classifier_seed) % 2**31
    parameters = arm.parameters.model_copy(update={"early_stop_epochs": None})
    if parameters.generator is not None:
        own = derive_seed(parameters.generator.seed, "confirm", gan_seed) % 2**31
        parameters = parameters.with_generator(seed=own)
    return Experiment(
        # Without gates: excluding replicates would select among them.
        settings=without_gates(settings.model_copy(update={"seed": seed})),
        parameters=parameters,
        inherited_resolution_px=arm.resolution_px,
    )


def complete_folder(folder: StudyFolder, prepared: Prepared, machine: Callable[[], Mapping[str, Json]]) -> None:
    """Write what workers read in a folder of runs: the images and the machine."""
    if not (folder.path / "environment.json").exists():
        write_prepared(prepared, folder.path / "split.json")
        write_json(folder.path / "environment.json", {**machine()})


class TopUpRungs:
    """Decide which top-up trials ASHA prunes, on the rungs that the search's trials have already reached.

    `reports.jsonl` records each epoch of a top-up in its order of arrival, before the decision on it. After a restart these
    values are replayed in that order, after those of the search, so a resumed confirmation decides as an uninterrupted one.

    Args:
        folder: The top-up trials.
        rungs: Those of the search; top-ups are added to them.

    Raises:
        StudyError: `reports.jsonl` is damaged.
    """

    def __init__(self, folder: StudyFolder, rungs: Rungs) -> None:
        self._path, self._rungs = folder.path / "reports.jsonl", rungs
        self._reported: set[tuple[int, int]] = set()
        with damage_explained(self._path) as file:
            for row in read_jsonl(file):
                self._replay(int(row["number"]), int(row["epoch"]), float(row["value"]))

    def should_continue(self, number: int, record: EpochRecord) -> bool:
        """Return whether a top-up continues after an epoch; repeated calls return the same answer."""
        value = record.best_val_score
        if (number, record.epoch) not in self._reported:
            append_jsonl(self._path, {"version": 1, "number": number, "epoch": record.epoch, "value": value})
        return self._replay(number, record.epoch, value)

    def _replay(self, number: int, epoch: int, value: float) -> bool:
        self._reported.add((number, epoch))
        return self._rungs.should_continue(-1 - number, epoch, value)  # trials of the search have numbers from 0


class RunList(TrialQueue):
    """A fixed list of runs.

    Args:
        folder: Contains the runs.
        runs: All of them, including those that have ended.
        what: Their name in progress bars and errors.
        generator_need: See `TrialQueue`.
        retries: See `TrialQueue`.
        on_progress: Called with `what` and how many runs have ended.
        asha: Prunes runs; without it every run trains to its last step.

    Raises:
        StudyError: A run that has ended had other settings.
    """

    def __init__(
        self,
        folder: StudyFolder,
        runs: Sequence[Run],
        *,
        what: str,
        generator_need: GeneratorNeeds,
        retries: int,
        on_progress: Progress = ignore_progress,
        asha: TopUpRungs | None = None,
    ) -> None:
        self._runs = {run.number: run for run in runs}
        self._what, self._on_progress, self._asha = what, on_progress, asha
        self._started, self._seconds = dict[int, float](), defaultdict[int, float](float)
        self._shown = dict[int, int]()  # steps of generators that were reported last
        done = {
            number: row["status"]
            for number, row in ended_rows(folder).items()
            if number in self._runs and row["status"] != "failed"
        }
        waiting = (
            TrialSuggestion(number=run.number, parameters=run.experiment.parameters)
            for run in runs
            if run.number not in done
        )
        super().__init__(folder, waiting, generator_need=generator_need, retries=retries)
        self._ended.update(done.values())
        for number in done:
            self._require_same(number)
            folder.drop_checkpoint(number)  # the confirmation may have been killed between a run's end and this
        self._report_progress()

    def heartbeat(self, slots: int) -> None:
        """Report the progress of the generators in training."""
        del slots
        for number, suggestion in self._running.items():
            progress = read_progress(self._folder.trial_path(number)) if suggestion.only_generator else None
            if progress and progress.done and progress.done != self._shown.get(number):
                self._shown[number] = progress.done
                generator = self._runs[number].label.partition(", seed ")[0]  # which several classifier seeds share
                self._on_progress(f"{generator} (steps)", progress.done, progress.total)

    def _experiment(self, suggestion: TrialSuggestion) -> Experiment:
        self._require_same(suggestion.number)
        return self._runs[suggestion.number].experiment

    def _should_continue(self, number: int, record: EpochRecord) -> bool:
        return self._asha is None or self._asha.should_continue(number, record)

    def _on_start(self, suggestion: TrialSuggestion) -> None:
        self._started[suggestion.number] = time.monotonic()

    def _on_stop(self, number: int) -> None:
        self._seconds[number] += time.monotonic() - self._started.pop(number)

    def _record(self, number: int, status: Status, outcome: dict[str, Any]) -> None:
        self._on_stop(number)
        seconds = round(self._seconds.pop(number), 3)
        row = {"version": 1, "number": number, "label": self._runs[number].label, "status": status, **outcome}
        at_once = len(self._running) + 1
        append_jsonl(self._folder.runs_path, row | {"seconds": seconds, "at_once": at_once})
        if status != "failed":  # a failed run resumes from its checkpoint at the next start
            self._folder.drop_checkpoint(number)
        self._report_progress()

    def _require_same(self, number: int) -> None:
        """Refuse a run that was started earlier with other settings."""
        config = self._folder.trial_path(number) / "config.json"
        if not config.exists():
            return
        with damage_explained(config):
            started = experiment_from_json(read_json(config), config.parent)
        if started.identity() != self._runs[number].experiment.identity():
            what = "this run was begun with other settings: the study or the options have changed since"
            fix = f"use the same options, or move {self._folder.path.name}/ away to start over"
            raise StudyError(Problem(what, config, fix))

    def _report_progress(self) -> None:
        left = len(self._waiting) + len(self._running)
        self._on_progress(f"training {self._what}", len(self._runs) - left, len(self._runs))


def adopt_runs(folder: StudyFolder, runs: Sequence[Run], other: StudyFolder) -> int:
    """Copy from another folder the complete runs that equal ones that were not started here; return how many.

    Equal runs have the same settings and seeds, device and releases of torch: training them again would repeat them.
    """
    if not other.runs_path.exists() or (other.compute(), other.releases()) != (folder.compute(), folder.releases()):
        return 0
    ended = completed_rows(other)
    known = {_identity(other.experiment(number)): number for number in ended}
    adopted = 0
    for run in runs:
        number = known.get(_identity(run.experiment))
        if number is None or folder.trial_path(run.number).exists():
            continue
        with new_folder(folder.trial_path(run.number)) as path:
            unwanted = shutil.ignore_patterns("*.npy")  # scores belong to the device that scored them
            shutil.copytree(other.trial_path(number), path, dirs_exist_ok=True, ignore=unwanted)
        row = {**ended[number], "number": run.number, "label": run.label, "adopted": True}
        append_jsonl(folder.runs_path, row)
        adopted += 1
    return adopted


def _identity(experiment: Experiment) -> str:
    return json.dumps(experiment.identity(), sort_keys=True)


def ended_rows(folder: StudyFolder) -> dict[int, dict[str, Any]]:
    """Return the last row of each ended run by number."""
    with damage_explained(folder.runs_path) as file:
        rows = {int(row["number"]): row for row in read_jsonl(file)}
        if all(row["status"] in {"complete", "pruned", "failed"} for row in rows.values()):
            return rows
        raise ValueError("unknown status")


def completed_rows(folder: StudyFolder) -> dict[int, dict[str, Any]]:
    """Return the rows of the complete runs."""
    return {number: row for number, row in ended_rows(folder).items() if row["status"] == "complete"}


def finished_label(name: str) -> str:
    """Return the label of the run that trains a pruned trial, such as `#12`, to the end."""
    return f"{name} to its end"
