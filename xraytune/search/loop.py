"""The decisions of a search and of a confirmation: which trial starts next, whether one continues, is retried, or ends.

Ray Tune asks for them (`search/ray/tuning.py`). Each is recorded before it is answered, so that a
`TrialLoop` can be lost at any moment: the next one, from the same files, continues. Its subclasses
say where trials come from, and record what becomes of them: `search/trials.py` draws the trials of
a search, `confirm/run_list.py` has a fixed list.

A trial whose generator is not in the cache trains it first, and then
waits for a slot. Meanwhile, other trials that need this generator wait without a slot, so each
generator is trained only once.
"""

from __future__ import annotations

import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Literal, TypeAlias

from xraytune.base.errors import MachineError, Problem, TrialError
from xraytune.base.files import write_json
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.search.messages import GeneratorTrained, TrialFailed, TrialMessage
from xraytune.space.load import experiment_to_json
from xraytune.space.settings import Experiment, GanSettings
from xraytune.study.clock import StudyClock
from xraytune.study.folder import StudyFolder
from xraytune.study.row import Status
from xraytune.study.trial import Cause, Failure, Trial

_RETRIES = 2
"""How often a trial is retried without a new epoch in between."""
_SAME_FAILURES = 3
_DRAWN_AHEAD = 4
"""Trials drawn ahead for each slot while generators are being trained: the further ahead, the less the sampler knows."""


GeneratorNeeds: TypeAlias = Callable[[GanSettings | None], str | None]
"""From a trial's generator, if it has one, to its lineage; None if it need not be trained first."""

Upcoming: TypeAlias = Literal["fixed", "drawn", "none", "out of time"]
"""The next new trial: does not depend on results, does, or does not exist; out of time, only trials that have begun run."""


class TrialLoop(ABC):
    """Trials from the first to the end of the last. All calls come from one thread.

    Args:
        folder: Contains the trials.
        unfinished: The trials to run first.
        clock: Measures the time of the trials.
        generator_need: Called each time anew, since a generator may have been trained meanwhile.
        successful: How many trials have ended in earlier starts, except failed ones.

    Attributes:
        stops_trials: Whether `should_continue` may return False, so that it must hear of every
            epoch.
        copies_results: Whether trials with the same settings have the same result, so that
            `copy_result` may copy it.
    """

    stops_trials = True
    copies_results = False

    def __init__(
        self,
        folder: StudyFolder,
        unfinished: Iterable[Trial],
        *,
        clock: StudyClock,
        generator_need: GeneratorNeeds,
        successful: int,
    ) -> None:
        self.folder = folder
        self.clock = clock
        self.generator_need = generator_need
        self._waiting = {trial.number: trial for trial in unfinished}
        self._running: dict[int, Trial] = {}
        # Why each ended trial failed, "" if it did not; earlier failures do not count.
        self._reasons = [""] * successful

    def upcoming(self) -> Upcoming:
        """Return what the next new trial is."""
        return "none"

    def ask(self) -> Trial:
        """Return a new trial, if there is one."""
        raise LookupError("all trials are known")

    def copy_result(self, trial: Trial) -> bool:
        """Record a trial as a copy of a complete one with the same settings; return whether there is one."""
        del trial
        return False

    @abstractmethod
    def label(self, trial: Trial) -> str:
        """Return a trial's name in the dashboard and in trackers, without that of the study."""

    @abstractmethod
    def begin(self, trial: Trial) -> Experiment:
        """Return the settings to write to the `config.json` of a trial that starts or resumes."""

    @abstractmethod
    def should_continue(self, number: int, record: EpochRecord) -> bool:
        """Record an epoch, which may be a repeated one, and return whether the trial continues."""

    @abstractmethod
    def record(self, number: int, status: Status, outcome: Mapping[str, Any]) -> None:
        """Record the end of a trial."""

    def on_retry(self, number: int, failure: Failure, reason: str) -> None:
        """Record a failed attempt at a trial that is to be retried."""
        del number, failure, reason

    def heartbeat(self) -> None:
        """Save the time used every few seconds; called at least once a second while trials run."""
        self.clock.heartbeat()

    @property
    def is_done(self) -> bool:
        """Whether no trial is running, may still start, or is still to be drawn."""
        return (
            not self._running
            and not self._startable()
            and self.upcoming() in {"none", "out of time"}
        )

    def next_trial(
        self, slots: int = sys.maxsize, slots_of: Callable[[Trial], int] = lambda _: 1
    ) -> Trial | Literal["wait", "done"]:
        """Ask for a trial and start it: first one that trains a generator, then a waiting one, else a new one.

        `slots` is the number of all slots, free or not, `slots_of` how many of them a trial
        occupies.
        """
        if self.is_done:
            return "done"
        free = slots - self.slots_in_use()
        if free <= 0:
            return "wait"
        while self.upcoming() == "fixed":  # at once, in case it needs a generator
            self._ask()
        runnable = self._runnable()
        while (
            not runnable
            and self.upcoming() == "drawn"
            and len(self._waiting) < _DRAWN_AHEAD * slots
        ):
            self._ask()
            runnable = self._runnable()
        if not runnable:
            return "wait"
        trial = runnable[0]
        if self.copy_result(trial):
            del self._waiting[trial.number]
            return self.next_trial(slots, slots_of)
        trial.lineage = self.generator_need(trial.parameters.gan)
        trial.only_generator = trial.lineage is not None and not trial.has_trained_generator
        trial.slots = slots_of(trial)
        if self._running and trial.slots > free:
            return "wait"
        # At each start: resources, tracking and the locations of files may have changed since the
        # last one.
        path = self.folder.trial_path(trial.number)
        write_json(path / "config.json", experiment_to_json(self.begin(trial), path))
        self._running[trial.number] = self._waiting.pop(trial.number)
        self.clock.start(trial.number, 0.0)
        return trial

    def _ask(self) -> None:
        trial = self.ask()
        self._waiting[trial.number] = trial

    def _startable(self) -> list[Trial]:
        """Return the waiting trials that may still start, by number: once the time is used up, those that have begun."""
        waiting = [self._waiting[number] for number in sorted(self._waiting)]
        if self.upcoming() != "out of time":
            return waiting
        return [
            trial
            for trial in waiting
            if (self.folder.trial_path(trial.number) / "config.json").exists()
        ]

    def _runnable(self) -> list[Trial]:
        """Return the trials that can start now, the best one first.

        Those that train their generator come before those that need none: the longest chain of
        runs first, and of a chain the shortest run, from which the others continue. A trial waits
        if its generator is in training, or a running trial has its settings, whose result it gets.
        """
        running = self._running.values()
        in_training = {trial.lineage for trial in running}
        settings = {trial.parameters for trial in running} if self.copies_results else set()
        ready: list[Trial] = []
        chains: dict[str, list[Trial]] = {}
        needs: dict[GanSettings | None, str | None] = {}
        for trial in self._startable():
            gan = trial.parameters.gan
            if trial.parameters in settings:
                continue
            if not trial.has_trained_generator and gan not in needs:
                needs[gan] = self.generator_need(gan)
            lineage = None if trial.has_trained_generator else needs[gan]
            if lineage is None:
                ready.append(trial)
            elif lineage not in in_training:
                chains.setdefault(lineage, []).append(trial)
        by_steps = [
            sorted(chain, key=lambda trial: trial.generator_steps) for chain in chains.values()
        ]
        by_steps.sort(key=lambda chain: chain[-1].generator_steps, reverse=True)
        return [*(chain[0] for chain in by_steps), *ready]

    def on_result(self, number: int, message: TrialMessage, *, other_nodes: bool = False) -> bool:
        """Report what a trial says, and decide whether it continues. Repeated messages change nothing.

        Raises:
            MachineError: Its machine cannot run trials, and there are no `other_nodes`; it stays
                unfinished.
            TrialError: Three trials in a row failed for the same reason.
        """
        if number not in self._running:
            return False
        if isinstance(message, TrialFailed) and message.cause == "machine":
            if not other_nodes:
                raise MachineError(message.reason)
            self._wait_again(number)
            return False
        match message:
            case EpochRecord():
                return self._on_epoch(number, message)
            case GeneratorTrained():
                self._running[number].has_trained_generator = True
                self._wait_again(number)
            case TrialResult():
                self._end(number, "complete", asdict(message))
            case TrialFailed(reason=reason, cause=cause):
                assert cause != "machine"
                self._fail(number, reason, cause)
        return False

    def _on_epoch(self, number: int, record: EpochRecord) -> bool:
        trial = self._running[number]
        value = record.best_val_score
        if not math.isfinite(value):
            self._fail(number, f"val_score is {value} after epoch {record.epoch}", "settings")
            return False
        trial.epochs = max(trial.epochs, record.epoch)
        if self.should_continue(number, record):
            return True
        reason = f"stopped by ASHA after epoch {record.epoch}"
        self._end(number, "pruned", {"value": value, "epochs": record.epoch, "reason": reason})
        return False

    def on_trial_lost(self, number: int, *, out_of_memory: bool) -> None:
        """Handle a trial's process that ended without a message."""
        if number not in self._running:
            return
        if out_of_memory:
            self._fail(number, "its process was killed: out of memory", "memory")
        else:
            self._fail(number, "its process was lost (killed, or its node)", "lost")

    def on_node_left(self, number: int) -> None:
        """Restart a trial whose node is lost elsewhere, without counting a failure."""
        if number in self._running:
            self._wait_again(number)

    def _fail(self, number: int, reason: str, cause: Cause) -> None:
        """Retry a trial, or end it; a new epoch resets the count of retries."""
        trial = self._running[number]
        attempts = sum(earlier.epochs == trial.epochs for earlier in trial.failures)
        if cause == "settings" or attempts >= _RETRIES:
            self._end(number, "failed", {"reason": reason}, is_of_machine=cause == "fault")
            return
        failure = Failure(epochs=trial.epochs, cause=cause)
        trial.failures.append(failure)
        self.on_retry(number, failure, reason)
        self._wait_again(number)

    def _wait_again(self, number: int) -> None:
        self.clock.stop(number)
        self._waiting[number] = self._running.pop(number)

    def _end(
        self, number: int, status: Status, outcome: dict[str, Any], *, is_of_machine: bool = False
    ) -> None:
        """Record the end of a trial. If the last three failed for the same reason, the next ones would too: stop.

        After the first three, only failures of the machine count: settings may fail in one corner
        of the space.
        """
        self.clock.stop(number)
        del self._running[number]
        self.record(number, status, outcome)
        reason = outcome["reason"] if status == "failed" else ""
        self._reasons.append(re.sub(r"\d+", "#", reason.partition("\n")[0]))
        are_first = len(self._reasons) == _SAME_FAILURES
        last = self._reasons[-_SAME_FAILURES:]
        if reason and (are_first or is_of_machine) and last == [last[-1]] * _SAME_FAILURES:
            which = f"the {'first' if are_first else 'last'} {_SAME_FAILURES} trials"
            what = f"{which} all failed for the same reason, so no more were started: {reason}"
            raise TrialError(
                Problem(what, self.folder.path, "fix the cause, then run the same command again")
            )

    def slots_in_use(self) -> int:
        """Return the slots that running trials occupy."""
        return sum(trial.slots for trial in self._running.values())
