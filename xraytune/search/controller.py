"""Who runs next, and who goes on: the search itself, without Ray.

The director asks the journal for trials, hears each epoch, answers whether the trial goes on, and writes every end.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from xraytune.config.load import experiment_to_json
from xraytune.config.settings import Experiment, Parameters
from xraytune.config.space import Space
from xraytune.files import append_jsonl, write_json
from xraytune.records import EpochRecord, TrialResult
from xraytune.search.asha import rungs_of
from xraytune.search.clock import StudyClock
from xraytune.search.journal import Journal, Status
from xraytune.search.messages import Answer, Callbacks, Cause, Message, TrialSuggestion, read_message
from xraytune.search.study import StudyFolder, project_rows
from xraytune.search.trial_queue import Ends, Failure, GanNeeds, TrialQueue, may_try_again, why_lost

# Trials that are asked for and held back, at most, so that the sampler is not asked far ahead of what is known.
_HELD_BACK = 4


def mix_label(parameters: Parameters) -> str:
    """A trial's mix in the words of its arm: `real_only`, `classical 2`, `gan r=0.5 (500 steps) +classical 2`."""
    if parameters.source == "none":
        return f"classical {parameters.classical}" if parameters.classical else "real_only"
    mix = f"{parameters.source} r={parameters.synthetic_ratio:g}"
    if parameters.gan:
        mix += f" ({parameters.gan.steps} steps)"
    return f"{mix} +classical {parameters.classical}" if parameters.classical else mix


class SearchController:
    """Runs one search. All calls come from one thread, under the study's lock.

    Args:
        folder: The study.
        space: Its space, with the budget of this start.
        journal: Its journal, writable.
        gan_need: Tells the GANs that are not there yet.
        gpu_share: GPUs that a trial usually occupies.
        callbacks: Called as trials start and end.
    """

    def __init__(
        self,
        folder: StudyFolder,
        space: Space,
        journal: Journal,
        *,
        gan_need: GanNeeds,
        gpu_share: float,
        callbacks: Callbacks,
    ) -> None:
        self._folder, self._space, self._journal = folder, space, journal
        self._gpu_share, self._callbacks = gpu_share, callbacks
        self._rungs = rungs_of(space.settings, journal.reports())
        self._points, self._trial_budget = space.points(), space.trial_budget()
        self._queue = TrialQueue(gan_need, map(journal.again, journal.unfinished()))
        self._clock = StudyClock(folder.path / "wall.json", unfinished=journal.unfinished(), gpus=gpu_share)
        self._ends = Ends(folder.path)
        rows = journal.rows()
        project_rows(folder, rows)
        for row in rows:  # a kill may have come between a trial's end and this
            folder.drop_checkpoint(row["number"])

    @property
    def running(self) -> int:
        """Trials that run now."""
        return len(self._queue.running)

    @property
    def is_done(self) -> bool:
        """Whether nothing runs, waits or is still to be asked for."""
        return not self._queue.running and not self._queue.waiting and bool(self.used_up)

    @property
    def used_up(self) -> Literal["", "trials", "hours", "gpu_hours"]:
        """Of which part of the budget nothing is left, so that no new trial is begun; empty where all have some."""
        budget = self._space.settings.budget
        if len(self._journal.trials) >= self._trial_budget:
            return "trials"
        if budget.hours is not None and self._clock.seconds() >= budget.hours * 3600:
            return "hours"
        if budget.gpu_hours is not None and self._gpu_seconds() >= budget.gpu_hours * 3600:
            return "gpu_hours"
        return ""

    def next(self) -> TrialSuggestion | Answer:
        """A trial for a free slot: an unfinished one first, then new ones until the budget is spent."""
        if suggestion := self._queue.take():
            return self._start(suggestion)
        while not self.used_up:
            if len(self._queue.waiting) >= _HELD_BACK:
                return Answer.WAIT
            suggestion = self._journal.ask(self._points)
            if not self._queue.must_wait(suggestion):
                return self._start(suggestion)
            self._queue.waiting.append(suggestion)
        # What runs now may be lost, and is then to be begun again.
        return Answer.WAIT if self._queue.waiting or self._queue.running else Answer.DONE

    def on_placed(self, number: int, gpus: float) -> None:
        """Count so many GPUs for the trial that was started last under this number."""
        self._clock.hold(number, gpus)

    def on_result(self, number: int, message: Message) -> bool:
        """Take what a trial says and answer whether it goes on. Anything may be said again; nothing is recorded twice.

        Raises:
            MachineError: The trial could not go on, nor could any other; it stays unfinished.
            TrialError: Three trials in a row failed for one reason.
        """
        if number not in self._queue.running:
            return False
        return read_message(
            message,
            epoch=partial(self._on_epoch, number),
            ended=partial(self._complete, number),
            failed=partial(self._fail, number),
        )

    def lost(self, number: int, *, out_of_memory: bool) -> None:
        """The process of a trial ended without a word."""
        if number in self._queue.running:
            reason = why_lost(self._folder.trial_path(number), out_of_memory=out_of_memory)
            self._fail(number, reason, "memory" if out_of_memory else "fault", was_told=False)

    def interrupted(self) -> None:
        """What ran is to be started again, before anything new."""
        for number in self._queue.running:
            self._clock.stop(number)
        self._queue.start_over()

    def beat(self) -> None:
        """Write down the time used, now and then."""
        self._clock.beat()

    def close(self) -> None:
        """Write down the time used; the same command goes on from here."""
        self._clock.save()

    def _on_epoch(self, number: int, record: EpochRecord) -> bool:
        value = record.best_val_auroc
        if record.epoch not in self._journal.reported(number):
            self._journal.report(number, record.epoch, value)
            self._callbacks.on_epoch(number, record)
        if self._rungs.goes_on(number, record.epoch, value):
            return True
        self._end(number, "pruned", value, {"reason": f"stopped by ASHA after epoch {record.epoch}"})
        return False

    def _complete(self, number: int, result: TrialResult) -> None:
        outcome = {"val_b_auroc": result.val_b_auroc, "threshold": result.threshold}
        self._end(number, "complete", result.value, outcome)

    def _start(self, suggestion: TrialSuggestion) -> TrialSuggestion:
        trial = self._folder.trial_path(suggestion.number)
        experiment = Experiment(settings=self._space.settings, parameters=suggestion.parameters)
        # Each time: resources, tracking and where things lie may be others than at the start that asked for it.
        write_json(trial / "config.json", experiment_to_json(experiment, trial))
        self._queue.start(suggestion)
        self._clock.start(suggestion.number, gpus=self._gpu_share)
        self._callbacks.on_trial_start(suggestion)
        return suggestion

    def _fail(self, number: int, reason: str, cause: Cause, *, was_told: bool = True) -> None:
        """Try a trial again, or end it."""
        failures, now = self._journal.failures(number), Failure(epochs=len(self._journal.reported(number)), cause=cause)
        if not may_try_again(failures, now, self._space.settings.resources.retries):
            self._end(number, "failed", None, {"reason": reason})
            self._ends.add(reason, is_of_machine=was_told and cause == "fault")
            return
        self._journal.add_failure(number, now)
        self._queue.end(number)
        self._clock.stop(number)
        self._queue.waiting.appendleft(self._journal.again(number))
        self._callbacks.note(f"#{number} is tried again: {reason.splitlines()[0]}")

    def _end(self, number: int, status: Status, value: float | None, outcome: dict[str, Any]) -> None:
        used = {"seconds": self._clock.seconds_of(number), "gpu_seconds": self._clock.gpu_seconds_of(number)}
        self._journal.tell(number, status, value, {**outcome, **used})
        self._queue.end(number)
        self._clock.end(number)
        row = self._journal.row(number)
        append_jsonl(self._folder.rows_path, row)
        self._folder.drop_checkpoint(number)
        self._callbacks.on_trial_end(row)
        if status != "failed":
            self._ends.add()

    def _gpu_seconds(self) -> float:
        return self._journal.gpu_seconds(self._gpu_share) + self._clock.unfinished_gpu_seconds()
