"""The queue that a search and a confirmation share: which trial runs next, which continues, and which is retried.

A trial whose generator is not in the cache trains it first, with `resources.generator`, and then waits for a slot.
Meanwhile, other trials that need this generator wait without a slot, so each generator is trained only once.

`SearchController` draws its trials and records them in the journal; `RunList` has a fixed list.
"""

from __future__ import annotations

import math
import re
import sys
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import cache
from typing import Any, Literal, TypeAlias

from xraytune.base.errors import MachineError, Problem, TrialError
from xraytune.base.files import write_json
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.space.load import experiment_to_json
from xraytune.space.settings import Experiment, GeneratorSettings
from xraytune.space.space import Space
from xraytune.study.clock import StudyClock
from xraytune.study.folder import StudyFolder
from xraytune.study.messages import HANG_FILE, Cause, Failure, Message, TrialSuggestion, resource_share
from xraytune.study.row import Status
from xraytune.study.trial_files import read_progress

_SAME_FAILURES = 3
_DRAWN_AHEAD = 4
"""Trials drawn ahead for each slot while generators are being trained: the further ahead, the less the sampler knows."""

GeneratorNeeds: TypeAlias = Callable[[GeneratorSettings | None], str | None]
"""From a trial's generator, if it has one, to its lineage; None if it need not be trained first."""


def reuses_processes(space: Space) -> bool:
    """Return whether a process runs several trials: those on cached features take less time than its start."""
    return set(space.combinations("trainable")) == {("head",)}


class TrialQueue:
    """Trials to run. All calls come from one thread.

    A subclass overrides the hooks at the end: where trials come from and where results are recorded.

    Args:
        folder: Contains the trials.
        waiting: The first trials to run, by number.
        generator_need: Called each time anew, since the generator may have been trained in the meantime.
        retries: How often a trial is retried without a new epoch in between.
        clock: Measures the time of the trials; by default one that is not saved.

    Attributes:
        generator_slots: The slots that the training of a generator occupies; a trial occupies one.
        trains_generators_first: False if the trials themselves train generators.
    """

    generator_slots = 1
    trains_generators_first = True

    def __init__(
        self,
        folder: StudyFolder,
        waiting: Iterable[TrialSuggestion],
        *,
        generator_need: GeneratorNeeds,
        retries: int,
        clock: StudyClock | None = None,
    ) -> None:
        self.folder, self.generator_need, self._retries = folder, generator_need, retries
        self.clock = clock or StudyClock()
        self._waiting = list(waiting)  # by number
        self._running: dict[int, TrialSuggestion] = {}
        self._lineages: dict[int, str] = {}  # of the generators that running trials started to train
        self._have_trained = set[int]()  # trials that have reported their generator as trained
        self._epochs = defaultdict[int, int](int)
        self._failures = defaultdict[int, list[Failure]](list)
        self._ended = Counter[Status]()
        self._reasons: list[str] = []  # why each ended trial failed, "" if it did not

    @property
    def is_done(self) -> bool:
        """Whether no trial is running, may still start, or is still to be drawn."""
        return not self._running and not self._startable() and not self._has_more

    def slots_in_use(self) -> int:
        """Return the slots that running trials occupy."""
        return sum(self._slots(suggestion) for suggestion in self._running.values())

    def statistics(self, slots: int) -> dict[str, Any]:
        """Return gauges of `search/ray/metrics.py`; `slots` is the number of all slots, free or not."""
        waiting, busy = self._startable(), self.slots_in_use()
        return {
            "trials": {"running": len(self._running), "waiting": len(waiting), **self._ended},
            "trials_waiting_for_generator": len(waiting) - len(self._runnable()),
            "slots": {"running": busy, "idle": max(slots - busy, 0)},
            "generator_steps_per_second": sum(map(self._generator_speed, self._running.values())),
        }

    def _generator_speed(self, suggestion: TrialSuggestion) -> float:
        """Return the steps per second of the generator that a running trial is training; 0.0 if there is none."""
        generator, progress = suggestion.parameters.generator, read_progress(self.folder.trial_path(suggestion.number))
        if not (generator and progress and progress.what.startswith(f"training the {generator.noun}")):
            return 0.0
        return (progress.total - progress.done) / progress.seconds_left if progress.seconds_left else 0.0

    def next_trial(self, slots: int = sys.maxsize) -> TrialSuggestion | Literal["wait", "done"]:
        """Return a trial to start now: first one that trains a generator, then a waiting one, else a new one.

        `slots` is the number of all slots, free or not.
        """
        if self.is_done:
            return "done"
        free = slots - self.slots_in_use()
        if free <= 0:
            return "wait"
        while self._has_more and self._next_is_fixed:
            self._waiting.append(self._new_trial())
        runnable = self._runnable()
        while not runnable and self._has_more and len(self._waiting) < _DRAWN_AHEAD * slots:
            self._waiting.append(self._new_trial())
            runnable = self._runnable()
        if not runnable or (self._running and self._slots(runnable[0]) > free):
            return "wait"
        self._waiting = [one for one in self._waiting if one.number != runnable[0].number]
        return self._start(runnable[0])

    def on_trial_placed(self, number: int, gpus: float) -> None:
        """Start counting the time of a trial that has just been placed, and of the GPUs that it holds."""
        self.clock.start(number, gpus)

    def on_result(self, number: int, message: Message) -> bool:
        """Handle a message from a trial and return whether the trial continues. Repeated messages change nothing.

        Raises:
            MachineError: No trial can run on this machine; this one stays unfinished.
            TrialError: Three trials in a row failed for the same reason.
        """
        if number not in self._running:
            return False
        match message:
            case {"stopped": why}:
                raise MachineError(why)
            case {"generator": _}:
                self._have_trained.add(number)
                self._wait_again(number)
            case {"failed": reason, "cause": cause}:
                self._fail(number, reason, cause)
            case {"ended": content}:
                outcome = asdict(TrialResult(**content))
                del outcome["seconds"]
                self._end(number, "complete", outcome)
            case {"epoch": content}:
                return self._on_epoch(number, EpochRecord(**content))
        return False

    def _on_epoch(self, number: int, record: EpochRecord) -> bool:
        value = record.best_val_score
        if not math.isfinite(value):
            self._fail(number, f"val_score is {value} after epoch {record.epoch}", "settings")
            return False
        self._epochs[number] = max(self._epochs[number], record.epoch)
        if self._should_continue(number, record):
            return True
        reason = f"stopped by ASHA after epoch {record.epoch}"
        self._end(number, "pruned", {"value": value, "epochs": record.epoch, "reason": reason})
        return False

    def on_trial_lost(self, number: int, *, out_of_memory: bool) -> None:
        """Handle a trial's process that ended without a message."""
        if number not in self._running:
            return
        hang = self.folder.trial_path(number) / HANG_FILE
        if hang.exists() and hang.stat().st_size:
            reason = f"it hung (traceback: {hang.parent.name}/{HANG_FILE})"
        elif out_of_memory:
            reason = "its process was killed: out of memory"
        else:
            reason = "its process was lost (killed, or its node)"
        self._fail(number, reason, "memory" if out_of_memory else "fault", is_lost=True)

    def on_ray_lost(self) -> None:
        """Handle the loss of all processes: running trials are restarted, without counting a failure."""
        for number in tuple(self._running):
            self._wait_again(number)

    def heartbeat(self, slots: int) -> None:
        """Save the time used every few seconds; called at least once a second while trials run."""
        self.clock.heartbeat(slots, max(slots - self.slots_in_use(), 0))

    def _startable(self) -> list[TrialSuggestion]:
        """Return the waiting trials that may still start, by number: once the time is used up, those that have begun."""
        if self._has_time():
            return self._waiting
        return [one for one in self._waiting if (self.folder.trial_path(one.number) / "config.json").exists()]

    def _slots(self, suggestion: TrialSuggestion) -> int:
        return (self.generator_slots if suggestion.only_generator else 1) * suggestion.share

    def _runnable(self) -> list[TrialSuggestion]:
        """Return the waiting trials that can start now, the best one first.

        Those that train their generator come before those that need none: the longest chain of runs first, and of a chain
        the shortest run, from which the others continue. Trials whose generator is being trained wait.
        """
        need = cache(self.generator_need)
        ready, chains = list[TrialSuggestion](), defaultdict[str, list[TrialSuggestion]](list)
        for trial in self._startable():
            has_trained = trial.number in self._have_trained  # perhaps into another cache
            lineage = None if has_trained else need(trial.parameters.generator)
            if lineage is None:
                ready.append(trial)
            elif lineage not in self._lineages.values():
                chains[lineage].append(trial)

        def steps(trial: TrialSuggestion) -> int:
            return trial.parameters.generator.steps if trial.parameters.generator else 0

        longest_first = sorted(chains.values(), key=lambda chain: max(map(steps, chain)), reverse=True)
        first = (min(chain, key=steps) for chain in longest_first)
        return [*(replace(trial, only_generator=self.trains_generators_first) for trial in first), *ready]

    def _start(self, suggestion: TrialSuggestion) -> TrialSuggestion:
        trial = self.folder.trial_path(suggestion.number)
        # At each start: resources, tracking and the locations of files may have changed since the last one.
        write_json(trial / "config.json", experiment_to_json(self._experiment(suggestion), trial))
        self._running[suggestion.number] = suggestion
        if lineage := self.generator_need(suggestion.parameters.generator):
            self._lineages[suggestion.number] = lineage
        self.on_trial_placed(suggestion.number, 0.0)
        return suggestion

    def _wait_again(self, number: int, **changes: Any) -> None:
        suggestion = replace(self._remove(number), only_generator=False, **changes)
        insort(self._waiting, suggestion, key=lambda one: one.number)

    def _remove(self, number: int) -> TrialSuggestion:
        self.clock.stop(number)
        self._lineages.pop(number, None)
        return self._running.pop(number)

    def _fail(self, number: int, reason: str, cause: Cause, *, is_lost: bool = False) -> None:
        """Retry a trial, or end it; a new epoch resets the count of retries."""
        failures, failure = self._failures[number], Failure(epochs=self._epochs[number], cause=cause)
        if cause == "settings" or sum(earlier.epochs == failure.epochs for earlier in failures) >= self._retries:
            self._end(number, "failed", {"reason": reason}, is_of_machine=cause == "fault" and not is_lost)
            return
        failures.append(failure)
        self._on_retry(number, failure, reason)
        self._wait_again(number, share=resource_share(failures))

    def _end(self, number: int, status: Status, outcome: dict[str, Any], *, is_of_machine: bool = False) -> None:
        """End a trial. If the last three failed for the same reason, the next ones would too: stop.

        After the first three, only failures of the machine count: settings may fail in one corner of the space.
        """
        self._remove(number)
        self._record(number, status, outcome)
        self._ended[status] += 1
        reason = outcome["reason"] if status == "failed" else ""
        self._reasons.append(re.sub(r"\d+", "#", reason.partition("\n")[0]))
        last, are_first = self._reasons[-_SAME_FAILURES:], len(self._reasons) == _SAME_FAILURES
        if reason and (are_first or is_of_machine) and last == [last[-1]] * _SAME_FAILURES:
            which = f"the {'first' if are_first else 'last'} {_SAME_FAILURES} trials"
            what = f"{which} all failed for the same reason, so no more were started: {reason}"
            raise TrialError(Problem(what, self.folder.path, "fix the cause, then run the same command again"))

    def label(self, suggestion: TrialSuggestion) -> str:
        """Return a trial's name in the dashboard and in trackers, without that of the study."""
        raise NotImplementedError

    def _has_time(self) -> bool:
        """Return whether the budget's time allows further trials."""
        return True

    @property
    def _has_more(self) -> bool:
        """Whether `_new_trial` has a further trial."""
        return False

    @property
    def _next_is_fixed(self) -> bool:
        """Whether the next new trial does not depend on results; it is drawn at once, in case it needs a generator."""
        return False

    def _new_trial(self) -> TrialSuggestion:
        raise NotImplementedError

    def _experiment(self, suggestion: TrialSuggestion) -> Experiment:
        """Return the settings to write to the trial's `config.json`."""
        raise NotImplementedError

    def _should_continue(self, number: int, record: EpochRecord) -> bool:
        """Record an epoch, which may be a repeated one, and return whether the trial continues."""
        raise NotImplementedError

    def _record(self, number: int, status: Status, outcome: dict[str, Any]) -> None:
        raise NotImplementedError

    def _on_retry(self, number: int, failure: Failure, reason: str) -> None: ...
