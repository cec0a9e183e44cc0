"""Runs of fixed settings, such as the replicates of a confirmation: trained in any order, none twice.

A folder of runs looks like a study: `trials/0007/config.json` contains a run's settings. `runs.jsonl` has a row for each
ended run; each start trains the runs that have no row, or that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xraytune.base.errors import Problem, StudyError
from xraytune.base.files import write_json
from xraytune.base.records import EpochRecord, Json, Progress, ignore_progress
from xraytune.data.prepare import Prepared, write_prepared
from xraytune.search.trial_queue import GeneratorNeeds, TrialQueue
from xraytune.space.settings import Experiment
from xraytune.study.folder import StudyFolder
from xraytune.study.messages import TrialSuggestion
from xraytune.study.row import RunRow, Status, append_row, ended_runs
from xraytune.study.trial_files import read_progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training: its number in its folder, its label, such as `gan #12, GAN seed 1, seed 0`, and its settings."""

    number: int
    label: str
    experiment: Experiment


def complete_folder(folder: StudyFolder, prepared: Prepared, machine: Callable[[], Mapping[str, Json]]) -> None:
    """Write what workers read in a folder of runs: the images and the machine."""
    if not (folder.path / "environment.json").exists():
        write_prepared(prepared, folder.path / "split.json")
        write_json(folder.path / "environment.json", {**machine()})


class RunList(TrialQueue):
    """A fixed list of runs, including those that have ended; StudyError if one of these had other settings.

    `what` is their name in progress bars and errors. `asha` returns whether a run continues after an epoch; without it every
    run trains to its last step.
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
        asha: Callable[[int, EpochRecord], bool] | None = None,
    ) -> None:
        self._runs = {run.number: run for run in runs}
        self._what, self._on_progress, self._asha = what, on_progress, asha
        self._shown = dict[int, int]()  # steps of generators that were reported last
        done = {
            number: row.status
            for number, row in ended_runs(folder).items()
            if number in self._runs and row.status != "failed"
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

    def label(self, suggestion: TrialSuggestion) -> str:
        """Return the label of a run."""
        return self._runs[suggestion.number].label

    def heartbeat(self, slots: int) -> None:
        """Also report the progress of the generators in training."""
        super().heartbeat(slots)
        for number, suggestion in self._running.items():
            progress = read_progress(self.folder.trial_path(number)) if suggestion.only_generator else None
            if progress and progress.done and progress.done != self._shown.get(number):
                self._shown[number] = progress.done
                generator = self._runs[number].label.partition(", seed ")[0]  # which several classifier seeds share
                self._on_progress(f"{generator} (steps)", progress.done, progress.total)

    def _experiment(self, suggestion: TrialSuggestion) -> Experiment:
        self._require_same(suggestion.number)
        return self._runs[suggestion.number].experiment

    def _should_continue(self, number: int, record: EpochRecord) -> bool:
        return self._asha is None or self._asha(number, record)

    def _record(self, number: int, status: Status, outcome: dict[str, Any]) -> None:
        seconds = round(self.clock.times().trials[number], 3)
        row = RunRow(
            number=number,
            label=self._runs[number].label,
            status=status,
            seconds=seconds,
            at_once=len(self._running) + 1,
            **outcome,
        )
        append_row(self.folder.runs_path, row)
        if status != "failed":  # a failed run resumes from its checkpoint at the next start
            self.folder.drop_checkpoint(number)
        self._report_progress()

    def _require_same(self, number: int) -> None:
        """Refuse a run that was started earlier with other settings."""
        config = self.folder.trial_path(number) / "config.json"
        if config.exists() and self.folder.experiment(number).identity() != self._runs[number].experiment.identity():
            what = "this run was started with other settings: the study or the options have changed since"
            fix = f"use the same options, or move {self.folder.path.name}/ away to start over"
            raise StudyError(Problem(what, config, fix))

    def _report_progress(self) -> None:
        left = len(self._waiting) + len(self._running)
        self._on_progress(f"training {self._what}", len(self._runs) - left, len(self._runs))
