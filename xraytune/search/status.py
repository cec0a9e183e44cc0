"""What a study looks like now: read from its folder, also while another process searches it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xraytune.search.clock import Times, read_times
from xraytune.search.controller import mix_label
from xraytune.search.journal import Journal
from xraytune.search.messages import read_progress
from xraytune.search.study import StudyFolder, is_searched


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialView:
    """One trial.

    Attributes:
        number: From 0.
        mix: Such as `gan r=0.5 (500 steps) +classical 1`.
        status: `waiting` for a GAN that another trial trains; `unfinished` where the search stopped.
        epochs: Epochs that are recorded.
        values: Best val-A AUROC after each of them.
        val_b_auroc: Of a complete trial.
        busy_with: What a running trial does before its first epoch, such as `GAN 300/600`.
        seconds: Wall time of an ended trial.
        reason: Why it ended, where it did not complete.
    """

    number: int
    mix: str
    status: Literal["running", "waiting", "unfinished", "complete", "pruned", "failed"]
    epochs: int
    values: tuple[float, ...]
    val_b_auroc: float | None
    busy_with: str
    seconds: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyView:
    """A study at one moment.

    Attributes:
        name: The study's.
        trials: Those that were asked for, by number.
        trial_budget: How many will be, as far as it is known: the study tells the budget of its first start.
        max_epochs: Of a trial.
        seconds: Wall time used, over all starts.
        seconds_left: A guess from the trials so far; None before the first one ended or when nothing runs.
        is_running: Whether a search runs on it.
    """

    name: str
    trials: tuple[TrialView, ...]
    trial_budget: int
    max_epochs: int
    seconds: float
    seconds_left: float | None
    is_running: bool

    def count(self, status: str) -> int:
        """Trials of one status."""
        return sum(trial.status == status for trial in self.trials)

    @property
    def best(self) -> TrialView | None:
        """The complete trial with the best val-A AUROC."""
        complete = [trial for trial in self.trials if trial.status == "complete"]
        return max(complete, key=lambda trial: (trial.values[-1], -trial.number), default=None)


def status(study: Path) -> StudyView:
    """How a study stands.

    Raises:
        StudyError: There is no study here.
    """
    return StudyWatcher(StudyFolder(study.resolve())).look()


class StudyWatcher:
    """Looks at a study again and again; each look reads what was added to the journal since the last.

    Args:
        folder: The study.
        trial_budget: That of the start which runs, where it is known.

    Raises:
        StudyError: There is no study here.
    """

    def __init__(self, folder: StudyFolder, trial_budget: int | None = None) -> None:
        self._folder = folder
        self._space = folder.space()
        self._trial_budget = trial_budget or self._space.trial_budget()
        self._journal = Journal(folder.journal_path, self._space, writable=False)

    def look(self) -> StudyView:
        """The study now."""
        is_running = is_searched(self._folder)
        trials = tuple(
            view for frozen in self._journal.trials if (view := self._trial(frozen.number, is_running)) is not None
        )
        trial_budget = max(self._trial_budget, len(trials))
        times = self._times(is_running)
        return StudyView(
            name=self._folder.path.name,
            trials=trials,
            trial_budget=trial_budget,
            max_epochs=self._space.settings.budget.max_epochs,
            seconds=times.seconds,
            seconds_left=seconds_left(trials, trial_budget, times) if is_running else None,
            is_running=is_running,
        )

    def _times(self, is_running: bool) -> Times:
        """Time used; while a search runs, what has passed since it last wrote it down too."""
        wall = self._folder.path / "wall.json"
        times = read_times(wall)
        if not is_running or not wall.exists():
            return times
        since = max(0.0, time.time() - wall.stat().st_mtime)
        trials = {number: seconds + since for number, seconds in times.trials.items()}
        return Times(seconds=times.seconds + since, trials=trials)

    def _trial(self, number: int, is_running: bool) -> TrialView | None:
        try:
            parameters = self._journal.parameters(number)
        except ValueError:  # it is being asked for at this moment
            return None
        status = self._journal.status(number)
        values = tuple(value for _, value in sorted(self._journal.reported(number).items()))
        ended = None if status is None else self._journal.row(number)
        trial_path = self._folder.trial_path(number)
        began = (trial_path / "config.json").exists()
        progress = None if status or values or not began else read_progress(trial_path)
        return TrialView(
            number=number,
            mix=mix_label(parameters),
            status=status or ("unfinished" if not is_running else "running" if began else "waiting"),
            epochs=len(values),
            values=values,
            val_b_auroc=ended["val_b_auroc"] if ended else None,
            busy_with="{} {}/{}".format(*progress) if progress else "",
            seconds=ended["seconds"] if ended else None,
            reason=ended["reason"] if ended else "",
        )


def seconds_left(trials: Sequence[TrialView], trial_budget: int, times: Times) -> float | None:
    """If each trial takes as long as those that ended, the training of GANs included, and as many run at once as so far."""
    ended = [trial.seconds for trial in trials if trial.seconds is not None]
    if not sum(ended) or not times.seconds:
        return None
    usual = sum(ended) / len(ended)
    begun = [times.trials.get(trial.number, 0.0) for trial in trials if trial.seconds is None]
    to_come = (trial_budget - len(trials)) * usual + sum(max(usual - seconds, 0.0) for seconds in begun)
    at_once = (sum(ended) + sum(begun)) / times.seconds
    return to_come / at_once
