"""The trials of a search: Optuna proposes them, ASHA prunes them, and the journal, the only truth, records them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from xraytune.base.records import EpochRecord
from xraytune.search.asha import rungs_of
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.loop import GeneratorNeeds, TrialLoop, Upcoming
from xraytune.space.settings import Experiment, Parameters
from xraytune.space.space import Space
from xraytune.study.clock import StudyClock
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.row import Status, TrialRow, append_row, write_trials
from xraytune.study.trial import Failure, Trial
from xraytune.study.trial_files import read_pool_report
from xraytune.synth.mix import mix_label


class SearchTrials(TrialLoop):
    """The trials of one search, under the study's lock. The space has the budget of this start."""

    copies_results = True

    def __init__(
        self,
        folder: StudyFolder,
        space: Space,
        generator_need: GeneratorNeeds,
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> None:
        self.space = space
        self.callbacks = callbacks
        self.journal = Journal(folder.journal_path, space, writable=True)
        unfinished = [self.journal.resume(number) for number in self.journal.unfinished()]
        rows = self.journal.rows()
        super().__init__(
            folder,
            unfinished,
            clock=StudyClock(folder.path / "wall.json", self.journal.unfinished()),
            generator_need=generator_need,
            successful=sum(row.status != "failed" for row in rows),
        )
        self._rungs = rungs_of(space.settings, self.journal.reports(), self.journal.arm)
        self._points = space.points()
        self._trial_budget = space.trial_budget()
        self._complete: dict[Parameters, TrialRow] = {}  # the first with each settings
        write_trials(folder, rows)
        for row in rows:
            self._note_end(row)  # the search may have been killed before this

    @property
    def used_up(self) -> Literal["", "trials", "hours"]:
        """The part of the budget that is used up, so that no new trial starts; "" if none is."""
        hours = self.space.settings.budget.hours
        if hours is not None and self.clock.times().seconds >= hours * 3600:
            return "hours"
        return "trials" if self.journal.count >= self._trial_budget else ""

    def upcoming(self) -> Upcoming:
        """Return whether the next new trial is a fixed point, or drawn by the sampler."""
        if used_up := self.used_up:
            return "none" if used_up == "trials" else "out of time"
        return "fixed" if self.journal.count < len(self._points) else "drawn"

    def ask(self) -> Trial:
        """Return the next point, or a draw."""
        return self.journal.ask(self._points)

    def copy_result(self, trial: Trial) -> bool:
        """Record a trial as a copy of a complete one with the same settings: it would have the same result to the bit."""
        if trial.parameters not in self._complete:
            return False
        original = self._complete[trial.parameters]
        for epoch, value in sorted(self.journal.reported(original.number).items()):
            self._should_continue(trial.number, epoch, value)
        outcome = original.model_dump(include={"value", "val_b_score", "threshold"})
        self.record(trial.number, "complete", {**outcome, "reason": f"a copy of {original.label}"})
        self.callbacks.note(
            f"#{trial.number} has the settings of {original.label}, so its result was copied"
        )
        return True

    def label(self, trial: Trial) -> str:
        """Return number and mix: `#7 gan r=0.5 (500 steps)`."""
        return f"#{trial.number} {mix_label(trial.parameters)}"

    def begin(self, trial: Trial) -> Experiment:
        """Report a trial that starts or resumes, and return its settings."""
        self.callbacks.on_trial_start(trial)
        return Experiment(settings=self.space.settings, parameters=trial.parameters)

    def should_continue(self, number: int, record: EpochRecord) -> bool:
        """Record the value of an epoch in the journal, and let ASHA decide."""
        is_repeated = record.epoch in self.journal.reported(number)
        continues = self._should_continue(number, record.epoch, record.best_val_score)
        if not is_repeated:
            self.callbacks.on_epoch(number, record)
        return continues

    def _should_continue(self, number: int, epoch: int, value: float) -> bool:
        if epoch not in self.journal.reported(number):
            self.journal.report(number, epoch, value)
        return self._rungs.should_continue(number, epoch, value, arm=self.journal.arm(number))

    def record(self, number: int, status: Status, outcome: Mapping[str, Any]) -> None:
        """Record the end of a trial in the journal, and its row in `trials.jsonl`."""
        times = self.clock.times()
        used: dict[str, Any] = {
            "seconds": times.trials.get(number, 0.0),  # a copy takes no time
            "gpu_seconds": times.gpu_seconds.get(number, 0.0),
        }
        if (report := read_pool_report(self.folder.trial_path(number))) and report.quality:
            used["quality"] = report.quality.columns()
        self.journal.tell(number, status, outcome.get("value"), {**outcome, **used})
        self.clock.drop(number)
        row = self.journal.row(number)
        append_row(self.folder.rows_path, row)
        self._note_end(row)
        self.callbacks.on_trial_end(row)

    def _note_end(self, row: TrialRow) -> None:
        if row.status == "complete":
            self._complete.setdefault(row.parameters, row)
        self.folder.drop_checkpoint(row.number)

    def on_retry(self, number: int, failure: Failure, reason: str) -> None:
        """Record a failed attempt in the journal."""
        self.journal.add_failure(number, failure)
        self.callbacks.note(f"retrying #{number}: {reason.splitlines()[0]}")
