"""The trials of a search: Optuna proposes them, ASHA prunes them, and the journal records them."""

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

from xraytune.base.files import copy_file, write_json
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.search.asha import Rungs
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.loop import LineageToTrain, TrialLoop, UsedUp
from xraytune.search.tracking import TRACKER_FOLDERS
from xraytune.space.parameters import Parameters
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, require_sole_owner
from xraytune.study.journal import Journal
from xraytune.study.row import Status, TrialRow, append_trial, write_trials
from xraytune.study.trial import OpenTrial, read_pool_report

_SAVE_EVERY_SECONDS = 5.0


def _link(file: str, new: str) -> None:
    """Link a file of an ended trial, which is never changed, or copy it if links are impossible.

    A log is copied: it grows if the process is killed here, and the new trial is trained.
    """
    if not file.endswith(".jsonl"):
        with suppress(OSError):  # a file system without links
            os.link(file, new)
            return
    copy_file(Path(file), Path(new))


class SearchTrials(TrialLoop):
    """The trials of one search, under the study's lock; the space has the budget of this start."""

    def __init__(
        self,
        study_folder: StudyFolder,
        space: Space,
        lineage_to_train: LineageToTrain,
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> None:
        self.space = space
        self._earlier_seconds = study_folder.seconds()
        self._saved = time.monotonic()
        self.journal = Journal(study_folder.journal_path, space, is_writable=True)
        rows = sorted(self.journal.rows(), key=attrgetter("ended_at"))
        self._complete: dict[Parameters, int] = {}
        for row in rows:
            self._keep(row)
        unfinished = self.journal.resume()
        super().__init__(
            study_folder, unfinished, lineage_to_train=lineage_to_train, callbacks=callbacks
        )
        self._rungs = Rungs(
            space.settings.scheduler,
            max_epochs=space.settings.budget.max_epochs,
            reports=self.journal.rung_reports(),
        )
        self._trial_budget = space.trial_budget()
        point_count = len(space.points())
        while self.journal.count < point_count and not self.used_up:
            trial = self.journal.ask()  # at once, in case it needs a generator
            self._waiting[trial.number] = trial
        write_trials(study_folder, rows)
        for row in rows:
            study_folder.drop_checkpoint(row.number)  # the search may have been killed before this
        for trial in unfinished:
            has_begun = study_folder.trial_path(trial.number).is_dir()
            if not has_begun and self._repeat(trial):  # it was killed before this
                del self._waiting[trial.number]

    @property
    def used_up(self) -> UsedUp:
        """The part of the budget that is used up."""
        hours = self.space.settings.budget.hours
        if hours is not None and self._seconds() >= hours * 3600:
            return "hours"
        return "trials" if self.journal.count >= self._trial_budget else ""

    def ask(self) -> OpenTrial | None:
        """Return the next trial: a listed point, or one that the sampler suggests.

        In a small space, it may repeat a complete trial. It ends at once then, and None is
        returned.
        """
        trial = self.journal.ask()
        return None if self._repeat(trial) else trial

    def _repeat(self, trial: OpenTrial) -> bool:
        """End a trial that repeats a complete one; return whether it does.

        Trained again, it would end with the same bits, so it gets the values, files and result of
        the complete trial, but not its runs in trackers. If the folder of the complete trial was
        removed, the trial has to be trained.
        """
        earlier_number = self._complete.get(trial.parameters)
        if earlier_number is None or not self.study_folder.trial_path(earlier_number).is_dir():
            return False
        shutil.copytree(
            self.study_folder.trial_path(earlier_number),
            self.study_folder.trial_path(trial.number),
            copy_function=_link,
            ignore=shutil.ignore_patterns(*TRACKER_FOLDERS),
        )
        for epoch, value in self.journal.values(earlier_number).items():
            self.journal.report(trial.number, epoch, value)
        row = self.journal.row(earlier_number)
        result = {name: getattr(row, name) for name in TrialResult.__dataclass_fields__}
        self.record(trial, "complete", {**result, "seconds": 0.0, "gpu_seconds": 0.0})
        self.callbacks.note(
            f"#{trial.number} repeats #{earlier_number}, so it was not trained again"
        )
        return True

    def should_continue(self, trial: OpenTrial, record: EpochRecord) -> bool:
        """Record the value of an epoch in the journal, and let ASHA decide."""
        epoch = record.epoch
        value = record.best_val_score
        if epoch > trial.epochs:
            self.journal.report(trial.number, epoch, value)
            self.callbacks.on_epoch(trial.number, record)
        return self._rungs.should_continue(
            trial.parameters, epoch, value, trial.parameters.rung_group
        )

    def record(self, trial: OpenTrial, status: Status, outcome: Mapping[str, Any]) -> None:
        """Record the end of a trial in the journal, and its row in `trials.jsonl`."""
        number = trial.number
        attributes = dict(outcome)
        if (report := read_pool_report(self.study_folder.trial_path(number))) and report.quality:
            attributes["quality"] = report.quality.columns()
        self.journal.tell(number, status, outcome.get("value"), attributes)
        row = self.journal.row(number)
        self._keep(row)
        append_trial(self.study_folder, row)
        self.study_folder.drop_checkpoint(number)
        self.save_seconds()
        self.callbacks.on_trial_end(row)

    def _keep(self, row: TrialRow) -> None:
        if row.status == "complete":
            self._complete.setdefault(row.parameters, row.number)

    def on_retry(self, trial: OpenTrial) -> None:
        """Record a failed attempt in the journal."""
        self.journal.record_failures(trial)

    def heartbeat(self) -> None:
        """Save the time used every few seconds, so that the time of a killed search counts, too.

        Raises StudyError if another machine works on the study.
        """
        if time.monotonic() - self._saved >= _SAVE_EVERY_SECONDS:
            require_sole_owner(self.study_folder)
            self.save_seconds()

    def save_seconds(self) -> None:
        """Save the time during which trials of the study ran, summed over all starts."""
        self._saved = time.monotonic()
        write_json(self.study_folder.wall_path, {"seconds": self._seconds()})

    def _seconds(self) -> float:
        return self._earlier_seconds + self.busy_seconds()
