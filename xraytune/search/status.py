"""The current state of a study, read from its folder, even while another process runs the search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xraytune.pipeline.sides import SideSize, side_sizes
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
        status: `waiting` for a GAN that another trial trains; `unfinished` if the search has stopped.
        epochs: Number of recorded epochs.
        values: Best val-A AUROC after each of them.
        val_b_auroc: AUROC on val-B of a complete trial.
        busy_with: What a running trial does before its first epoch, such as `GAN 300/600`.
        seconds: Wall time of an ended trial.
        reason: Why it ended, unless it is complete.
        simplicity: See `Parameters.simplicity`.
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
    simplicity: tuple[int, int, float] = (0, 0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyView:
    """A study at one moment.

    Attributes:
        name: The study's.
        sides: Sizes of train, val-A and val-B.
        trials: By number.
        trial_budget: That of the running start if known, else of the first one, and at least the number of trials.
        max_epochs: Maximum number of epochs of a trial.
        seconds: Wall time used, over all starts.
        seconds_left: An estimate from the trials so far; None before the first one has ended or if no search runs.
        is_running: Whether a search runs on it.
    """

    name: str
    sides: tuple[SideSize, ...] = ()
    trials: tuple[TrialView, ...]
    trial_budget: int
    max_epochs: int
    seconds: float
    seconds_left: float | None
    is_running: bool

    def count(self, status: str) -> int:
        """Return the number of trials with a status."""
        return sum(trial.status == status for trial in self.trials)

    @property
    def best(self) -> TrialView | None:
        """The complete trial with the best val-A AUROC, the simplest of equals."""
        complete = [trial for trial in self.trials if trial.status == "complete"]
        return min(complete, key=lambda trial: (-trial.values[-1], trial.simplicity, trial.number), default=None)


def status(study: Path) -> StudyView:
    """Return the state of a study; a StudyError if there is none."""
    return StudyWatcher(StudyFolder(study.resolve())).look()


class StudyWatcher:
    """Observe a study; each look reads only what was added to the journal since the last one.

    Args:
        folder: The study.
        trial_budget: That of the running start, if known.
    """

    def __init__(self, folder: StudyFolder, trial_budget: int | None = None) -> None:
        self._folder = folder
        self._space = folder.space()
        self._sides = side_sizes(folder.prepared())
        self._trial_budget = trial_budget or self._space.trial_budget()
        self._journal = Journal(folder.journal_path, self._space, writable=False)

    def look(self) -> StudyView:
        """Return the study now."""
        is_running = is_searched(self._folder)
        views = (self._trial(frozen.number, is_running) for frozen in self._journal.trials)
        trials = tuple(view for view in views if view is not None)
        trial_budget = max(self._trial_budget, len(trials))
        times = self._times(is_running)
        return StudyView(
            name=self._folder.path.name,
            sides=self._sides,
            trials=trials,
            trial_budget=trial_budget,
            max_epochs=self._space.settings.budget.max_epochs,
            seconds=times.seconds,
            seconds_left=seconds_left(trials, trial_budget, times) if is_running else None,
            is_running=is_running,
        )

    def _times(self, is_running: bool) -> Times:
        """Return the time used; during a search, including the time since it was last saved."""
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
        except ValueError:  # they are just being drawn
            return None
        status = self._journal.status(number)
        values = tuple(value for _, value in sorted(self._journal.reported(number).items()))
        ended = None if status is None else self._journal.row(number)
        trial_path = self._folder.trial_path(number)
        has_started = (trial_path / "config.json").exists()
        progress = None if status or values or not has_started else read_progress(trial_path)
        return TrialView(
            number=number,
            mix=mix_label(parameters),
            status=status or ("unfinished" if not is_running else "running" if has_started else "waiting"),
            epochs=len(values),
            values=values,
            val_b_auroc=ended["val_b_auroc"] if ended else None,
            busy_with="{} {}/{}".format(*progress) if progress else "",
            seconds=ended["seconds"] if ended else None,
            reason=ended["reason"] if ended else "",
            simplicity=parameters.simplicity,
        )


def seconds_left(trials: Sequence[TrialView], trial_budget: int, times: Times) -> float | None:
    """Estimate the time left from the mean time of ended trials and how many ran at once; None before the first end."""
    ended = [trial.seconds for trial in trials if trial.seconds is not None]
    if not sum(ended) or not times.seconds:
        return None
    mean = sum(ended) / len(ended)
    begun = [times.trials.get(trial.number, 0.0) for trial in trials if trial.seconds is None]
    to_come = (trial_budget - len(trials)) * mean + sum(max(mean - seconds, 0.0) for seconds in begun)
    at_once = (sum(ended) + sum(begun)) / times.seconds
    return to_come / at_once
