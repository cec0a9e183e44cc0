"""The search without Ray: draws trials, prunes them with ASHA, and records every epoch and every end in the journal."""

from __future__ import annotations

from typing import Any, Literal

from xraytune.base.records import EpochRecord
from xraytune.search.asha import rungs_of
from xraytune.search.trial_queue import GeneratorNeeds, TrialQueue
from xraytune.space.settings import Experiment
from xraytune.space.space import Space
from xraytune.study.clock import StudyClock
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.messages import NO_CALLBACKS, Callbacks, Failure, TrialSuggestion
from xraytune.study.row import Status, append_row, write_trials
from xraytune.study.trial_files import read_pool_report, read_samples
from xraytune.trial.mix import mix_label


class SearchController(TrialQueue):
    """The trials of one search, under the study's lock. The space has the budget of this start."""

    def __init__(
        self,
        folder: StudyFolder,
        space: Space,
        journal: Journal,
        *,
        generator_need: GeneratorNeeds,
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> None:
        unfinished = journal.unfinished()
        super().__init__(
            folder,
            map(journal.resume, unfinished),
            generator_need=generator_need,
            retries=space.settings.resources.retries,
            clock=StudyClock(folder.path / "wall.json", unfinished),
        )
        for number in unfinished:
            self._failures[number] = journal.failures(number)
            self._epochs[number] = max(journal.reported(number), default=0)
        self.trains_generators_first = not space.settings.objective.is_of_generator
        self.space, self.journal, self.callbacks = space, journal, callbacks
        self._without_samples, self._reported_samples = set[int](), set[str]()
        self._rungs = rungs_of(space.settings, journal.reports())
        self._points, self._trial_budget = space.points(), space.trial_budget()
        rows = journal.rows()
        self._gpu_seconds = sum(row.gpu_seconds for row in rows)
        write_trials(folder, rows)
        self._ended.update(row.status for row in rows)
        self._values = [row.value for row in rows if row.status == "complete" and row.value is not None]
        for row in rows:  # the search may have been killed between a trial's end and this
            folder.drop_checkpoint(row.number)

    @property
    def used_up(self) -> Literal["", "trials", "hours", "gpu_hours"]:
        """The part of the budget that is used up, so that no new trial starts; "" if none is."""
        budget = self.space.settings.budget
        if budget.hours is not None and self.clock.times().seconds >= budget.hours * 3600:
            return "hours"
        if budget.gpu_hours is not None:
            unfinished = sum(self.clock.times().gpu_seconds.values())
            if self._gpu_seconds + unfinished >= budget.gpu_hours * 3600:
                return "gpu_hours"
        return "trials" if self.journal.count >= self._trial_budget else ""

    def label(self, suggestion: TrialSuggestion) -> str:
        """Return number and mix: `#7 gan r=0.5 (500 steps)`."""
        return f"#{suggestion.number} {mix_label(suggestion.parameters, self.space.settings.objective)}"

    def heartbeat(self, slots: int) -> None:
        """Also report the sample grids of new generators."""
        super().heartbeat(slots)
        self._report_samples()

    def _report_samples(self) -> None:
        for number in sorted(self._without_samples):
            if samples := read_samples(self.folder.trial_path(number)):
                self._without_samples.remove(number)
                if samples not in self._reported_samples:
                    self._reported_samples.add(samples)
                    self.callbacks.on_samples(number, self.folder.path / samples)

    def statistics(self, slots: int) -> dict[str, Any]:
        """Add the best value; None until a trial is complete."""
        best = min(self._values, key=self.space.settings.objective.rank, default=None)
        return {"best_value": best, **super().statistics(slots)}

    def close(self) -> None:
        """Save the time used, and report the last sample grids."""
        self._report_samples()
        self.clock.save()

    def _has_time(self) -> bool:
        return self.used_up in ("", "trials")

    @property
    def _has_more(self) -> bool:
        return not self.used_up

    @property
    def _next_is_fixed(self) -> bool:
        return self.journal.count < len(self._points)

    def _new_trial(self) -> TrialSuggestion:
        return self.journal.ask(self._points)

    def _experiment(self, suggestion: TrialSuggestion) -> Experiment:
        return Experiment(settings=self.space.settings, parameters=suggestion.parameters)

    def _should_continue(self, number: int, record: EpochRecord) -> bool:
        value = record.best_val_score
        if record.epoch not in self.journal.reported(number):
            self.journal.report(number, record.epoch, value)
            self.callbacks.on_epoch(number, record)
        return self._rungs.should_continue(number, record.epoch, value)

    def _record(self, number: int, status: Status, outcome: dict[str, Any]) -> None:
        times = self.clock.times()
        used: dict[str, Any] = {"seconds": times.trials[number], "gpu_seconds": times.gpu_seconds[number]}
        if (report := read_pool_report(self.folder.trial_path(number))) and report.quality:
            used["quality"] = report.quality.columns()
        self.journal.tell(number, status, outcome.get("value"), outcome | used)
        self._gpu_seconds += used["gpu_seconds"]
        self.clock.drop(number)
        row = self.journal.row(number)
        if status == "complete" and row.value is not None:
            self._values.append(row.value)
        append_row(self.folder.rows_path, row)
        self.folder.drop_checkpoint(number)
        self.callbacks.on_trial_end(row)

    def _start(self, suggestion: TrialSuggestion) -> TrialSuggestion:
        super()._start(suggestion)
        if suggestion.parameters.generator and not read_samples(self.folder.trial_path(suggestion.number)):
            self._without_samples.add(suggestion.number)
        self.callbacks.on_trial_start(suggestion)
        return suggestion

    def _on_retry(self, number: int, failure: Failure, reason: str) -> None:
        self.journal.add_failure(number, failure)
        self.callbacks.note(f"retrying #{number}: {reason.splitlines()[0]}")
