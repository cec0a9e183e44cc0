"""The decisions of a search and of a confirmation: which trial starts, continues, is retried, ends.

Ray Tune asks for the decisions (`search/ray/tuning.py`). Each decision is recorded before Ray gets
it, so that a `TrialLoop` can be lost at any moment: the next loop continues from the same files.
Subclasses say where trials come from, and record what becomes of them: `search/trials.py` has the
trials of a search, and `confirm/run_list.py` has a fixed list.

A trial whose generator is not in the cache trains it first. Meanwhile, other trials that need this
generator wait without a slot, so each generator is trained only once.

An extension may hold other resources while it trains (`resources.generator`). Its trial then ends
once the generator is trained, without a result, and waits again for the room of a trial.

A slot is the room for one trial. Ray places a process on one node, and its share of a GPU on one
GPU. So a GPU has floor(1 / share) slots, whatever is left over.
"""

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias

from xraytune.base.errors import MachineError, TrialError
from xraytune.base.files import write_json
from xraytune.base.records import EpochRecord, Node, TrialResult, frozen
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.space.allocation import Allocation, Share
from xraytune.space.settings import Settings
from xraytune.study.folder import StudyFolder
from xraytune.study.row import Status
from xraytune.study.trial import (
    Cause,
    Failure,
    GeneratorTrained,
    OpenTrial,
    TrialFailed,
    TrialMessage,
    read_progress,
)
from xraytune.synth.generator_inputs import ExtensionTraining, Training

_RETRIES = 2
"""How often a trial is retried in a row without reaching a new epoch."""
_NODES_LOST = 2
"""After how many nodes in a row that die while it runs a trial is to blame, unless it got further
on the last one."""
_SAME_FAILURES = 3
_STARTED_AHEAD = 4
"""How many trials are asked for ahead for each slot while generators are being trained. The further
ahead a trial is asked for, the fewer results the sampler knows."""


LineageToTrain: TypeAlias = Callable[[Training | None, int | None, int], str | None]
"""A function that returns the lineage of a trial's generator, or None if no generator need be
trained first. Its arguments are `OpenTrial.generator_inputs`: the generator, if there is one, the
number of the replicate's draw, if it has one, and the side length of the images in
pixels."""

UsedUp: TypeAlias = Literal["", "trials", "hours"]
"""The part of the budget that is used up, so that no new trial starts; "" if none is. Once the
hours are used up, only trials that have already begun are run."""


class UnfitNodeError(MachineError):
    """A node lacks something that trials need, such as disk space or the study."""


class TrialLoop(ABC):
    """The trials of a search or a confirmation, from the first start to the last end.

    All calls must come from one thread.

    Args:
        study_folder: Folder that contains the trials.
        unfinished: The trials to run first.
        lineage_to_train: Called anew each time, since a generator may have been trained meanwhile.
        callbacks: Called when a trial starts or is retried.

    Attributes:
        stops_trials: Whether `should_continue` may return False, so that it must be called after
            every epoch.
    """

    stops_trials = True

    def __init__(
        self,
        study_folder: StudyFolder,
        unfinished: Iterable[OpenTrial],
        *,
        lineage_to_train: LineageToTrain,
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> None:
        self.study_folder = study_folder
        self.callbacks = callbacks
        self._lineage_to_train = lineage_to_train
        self._waiting = {trial.number: trial for trial in unfinished}
        self._running: dict[int, OpenTrial] = {}
        self._reasons: list[str] = []  # why each trial that has ended failed, "" if it did not
        self._busy_seconds = 0.0
        self._counted = time.monotonic()

    @property
    def used_up(self) -> UsedUp:
        """The part of the budget that is used up, so that no new trial starts."""
        return "trials"

    def ask(self) -> OpenTrial | None:
        """Return a new trial; None if it repeats an ended trial and was given its result."""
        raise LookupError("all trials are known")

    @abstractmethod
    def should_continue(self, trial: OpenTrial, record: EpochRecord) -> bool:
        """Record an epoch, which may be recorded already; return whether the trial continues."""

    @abstractmethod
    def record(self, trial: OpenTrial, status: Status, outcome: Mapping[str, Any]) -> None:
        """Record the end of a trial."""

    def on_retry(self, trial: OpenTrial) -> None:  # noqa: B027  a list of runs has nothing to do
        """Record the failed attempts at a trial that is to be retried."""

    def heartbeat(self) -> None:  # noqa: B027  as above
        """Do periodic work; called at least once a second while trials run."""

    @property
    def is_done(self) -> bool:
        """Whether all trials are over: none is running, none can start, and none will be new."""
        return bool(self.used_up) and not self._running and not self._startable()

    def next_trial(
        self, slots: int = sys.maxsize, reserve: Callable[[OpenTrial], None] | None = None
    ) -> OpenTrial | Literal["wait", "done"]:
        """Ask for a trial and start it: one that trains a generator, a waiting one, or a new one.

        `slots` is the number of all slots, free or not. `reserve` sets the resources and slots that
        a trial holds; by default, a trial holds one slot and no resources. Returns `wait` if no
        trial can start now, and `done` if there is none left.
        """
        if self.is_done:
            return "done"
        free_slots = slots - self.slots_in_use()
        if free_slots <= 0:
            return "wait"
        runnable = self._runnable()
        most_ahead = _STARTED_AHEAD * slots
        while not runnable and not self.used_up and len(self._waiting) < most_ahead:
            if new_trial := self.ask():
                self._waiting[new_trial.number] = new_trial
            runnable = self._runnable()
        if not runnable:
            return "wait"
        trial = runnable[0]
        lineage = self._lineage_to_train(*trial.generator_inputs)
        trial.trains_generator = lineage is not None
        if reserve:
            reserve(trial)
        if self._running and trial.slots > free_slots:
            return "wait"
        self.callbacks.on_trial_start(trial)
        # Written at each start, since resources, tracking and the locations of files may have
        # changed since the last one.
        path = self.study_folder.trial_path(trial.number)
        config = trial.experiment.model_dump(mode="json", context=path)
        write_json(path / "config.json", config)
        self._running[trial.number] = self._waiting.pop(trial.number)
        return trial

    def on_placed(self, number: int) -> None:
        """Count a trial's time from now on, since Ray has found room for it and started it."""
        if trial := self._running.get(number):
            self.busy_seconds()
            trial.placed = time.monotonic()

    def busy_seconds(self) -> float:
        """Return the time during which any trial ran.

        It stands still while all trials wait for room in a cluster, or no node is there.
        """
        now = time.monotonic()
        if any(trial.placed is not None for trial in self._running.values()):
            self._busy_seconds += now - self._counted
        self._counted = now
        return self._busy_seconds

    def _startable(self) -> list[OpenTrial]:
        """Return the waiting trials that may still start, by number.

        Once the hours are used up, only trials that have begun may still start.
        """
        must_have_begun = self.used_up == "hours"
        return [
            trial
            for _, trial in sorted(self._waiting.items())
            if not must_have_begun or self._has_begun(trial)
        ]

    def _has_begun(self, trial: OpenTrial) -> bool:
        return (self.study_folder.trial_path(trial.number) / "config.json").exists()

    def _runnable(self) -> list[OpenTrial]:
        """Return the trials that can start now, the best one first.

        Trials that have begun come first, so that a restart does not change the order. Of the
        others, trials that train their generator come before trials that train none. Generators
        that differ only in their length form a chain: the longest chains come first, each
        with its shortest training, from which the others continue. A trial waits while another
        trial trains its generator, or a shorter training in its chain.
        """
        find_lineage = cache(self._lineage_to_train)
        in_training = {find_lineage(*trial.generator_inputs) for trial in self._running.values()}
        ready_trials: list[OpenTrial] = []
        chains: dict[str, list[OpenTrial]] = {}
        for trial in self._startable():
            lineage = find_lineage(*trial.generator_inputs)
            if lineage is None:
                ready_trials.append(trial)
            elif lineage not in in_training:
                chains.setdefault(lineage, []).append(trial)
        length = attrgetter("generator_length")
        by_length = [sorted(chain, key=length) for chain in chains.values()]
        by_length.sort(key=lambda chain: length(chain[-1]), reverse=True)
        runnable = [*(chain[0] for chain in by_length), *ready_trials]
        return sorted(runnable, key=self._has_begun, reverse=True)

    def on_result(self, number: int, message: TrialMessage) -> bool:
        """Record a trial's message, and return whether the trial continues.

        Repeated messages change nothing.

        Raises:
            UnfitNodeError: The node cannot run trials; the trial waits for another one.
            TrialError: Three trials in a row failed for the same reason.
        """
        trial = self._running.get(number)
        if trial is None:
            return False
        if isinstance(message, TrialResult):
            self._end(trial, "complete", asdict(message))
            return False
        if isinstance(message, GeneratorTrained):
            self._wait_again(trial)
            return False
        if isinstance(message, TrialFailed):
            if message.cause == "machine":
                self._wait_again(trial)
                raise UnfitNodeError(message.reason)
            self._fail(trial, message.reason, message.cause)
            return False
        value = message.best_val_score
        if not math.isfinite(value):
            self._fail(trial, f"val_score is {value} after epoch {message.epoch}", "settings")
            return False
        continues = self.should_continue(trial, message)
        trial.epochs = max(trial.epochs, message.epoch)
        if not continues:
            reason = f"stopped by ASHA after epoch {message.epoch}"
            self._end(trial, "pruned", {"value": value, "epochs": message.epoch, "reason": reason})
        return continues

    def _wait_again(self, trial: OpenTrial) -> None:
        self._stop(trial)
        self._waiting[trial.number] = trial

    def _stop(self, trial: OpenTrial) -> None:
        self.busy_seconds()
        del self._running[trial.number]
        if trial.placed is not None:
            seconds = time.monotonic() - trial.placed
            trial.seconds += seconds
            trial.gpu_seconds += seconds * trial.resources.get("GPU", 0.0)
            trial.placed = None

    def _fail(self, trial: OpenTrial, reason: str, cause: Cause) -> None:
        """Retry a trial, or end it; a new epoch resets the count of retries.

        If the last three trials failed for the same reason, the next ones would probably fail, too,
        so TrialError is raised. After the first three trials, only a fault raises it, since
        settings may fail in only one corner of the space.
        """
        steps = self._generator_steps(trial)
        retries = _RETRIES
        attempts = [failure for failure in trial.failures if failure["epochs"] == trial.epochs]
        if cause == "node":
            retries = _NODES_LOST - 1
            on_nodes = [failure for failure in attempts if failure["cause"] == "node"]
            attempts = [failure for failure in on_nodes if failure["steps"] >= steps]
        if cause != "settings" and len(attempts) < retries:
            failure: Failure = {"epochs": trial.epochs, "steps": steps, "cause": cause}
            trial.failures = [*trial.failures, failure]
            self.on_retry(trial)
            self.callbacks.note(f"retrying {trial.label}: {reason.splitlines()[0]}")
            self._wait_again(trial)
            return
        self._end(trial, "failed", {"reason": reason})
        is_repeated = self._reasons[-_SAME_FAILURES:] == [reason] * _SAME_FAILURES
        if is_repeated and (cause == "fault" or len(self._reasons) == _SAME_FAILURES):
            raise TrialError(
                f"{_SAME_FAILURES} trials in a row failed for the same reason, so no more were "
                f"started: {reason}",
                self.study_folder.path,
                "fix the cause, then run the same command again; see trials/*/error.txt",
            )

    def _end(self, trial: OpenTrial, status: Status, outcome: dict[str, Any]) -> None:
        self._stop(trial)
        spent = {"seconds": trial.seconds, "gpu_seconds": trial.gpu_seconds}
        self.record(trial, status, {**outcome, **spent})
        self._reasons.append(outcome["reason"] if status == "failed" else "")

    def _generator_steps(self, trial: OpenTrial) -> int:
        """Return how far the training of a trial's generator got; 0 if it trained none."""
        progress = read_progress(self.study_folder.trial_path(trial.number))
        return progress.done if progress and trial.trains_generator else 0

    def slots_in_use(self) -> int:
        """Return the slots that running trials occupy."""
        return sum(trial.slots for trial in self._running.values())


@frozen
class Survey:
    """A request to Ray's process: say what trials compute on in a cluster.

    Attributes:
        has_gpu: Whether trials use GPUs; None lets the cluster decide.
    """

    settings: Settings
    has_gpu: bool | None


@frozen
class Call:
    """A message of Ray's process: call one of the search's callbacks."""

    name: str
    arguments: tuple[Any, ...]


@frozen
class Progressed:
    """A message of Ray's process: a trial has reported something."""


@frozen
class Answer:
    """The last message of Ray's process on a request."""

    value: Any = None


@frozen
class TuneRun:
    """A request to Ray's process: run the trials of a loop, which it makes from the study's files.

    The folder of a confirmation's trials is inside that of the study.
    """

    make_loop: Callable[[Callbacks], TrialLoop]
    study_folder: StudyFolder
    cache: Path
    allocation: Allocation


def count_slots(allocation: Allocation, nodes: Sequence[Node]) -> int:
    """Return how many trials run at once, each on one node; 0 if no node has room for one."""
    count = sum(_slots_on(node, allocation.trial) for node in nodes)
    return min(count, allocation.concurrent or count)


def reserve(allocation: Allocation, nodes: Sequence[Node], trial: OpenTrial) -> None:
    """Set the resources that a trial holds while it runs, by Ray's names, and its slots.

    A trial that ran out of memory gets a GPU for itself or, without GPUs, the largest node.
    """
    share = allocation.trial
    trial.trains_alone = False
    if allocation.generator and trial.trains_generator:
        trial.trains_alone = isinstance(trial.generator_inputs[0], ExtensionTraining)
    if allocation.generator and trial.trains_alone:
        share = allocation.generator
    cpus = float(share.cpus)
    gpus = share.gpus
    trial.slots = _slots_for(share, allocation.trial)
    lacks_memory = any(failure["cause"] == "memory" for failure in trial.failures)
    if lacks_memory and 0 < gpus < 1:
        trial.slots = math.floor(1 / gpus)
        gpus = 1.0
    elif lacks_memory and not gpus:
        largest = max(nodes, key=lambda node: node.cpus)
        trial.slots = _slots_on(largest, allocation.trial)
        cpus = largest.cpus
    trial.resources = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


def _slots_on(node: Node, trial: Share) -> int:
    """Return how many trials fit on a node."""
    slots = math.floor(node.cpus / trial.cpus)
    if trial.gpus:
        slots = min(slots, math.floor(node.gpus) * math.floor(1 / trial.gpus))
    return slots


def _slots_for(share: Share, trial: Share) -> int:
    """Return how many slots for trials a share takes."""
    slots = math.ceil(share.cpus / trial.cpus)
    if share != trial and trial.gpus:
        slots = max(slots, math.ceil(share.gpus) * math.floor(1 / trial.gpus))
    return slots
