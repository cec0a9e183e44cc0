"""Trainings that are decided beforehand, run in any order, and none twice.

A folder of runs looks like a study: `trials/0007/config.json` says what a run is. `runs.jsonl` has a row for each run that
ended and is the only truth: a start takes up the runs that have none. Runs that need a GAN which another trains wait.
Replicates run to their last step; top-up trials are pruned by the ASHA of the search.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from xraytune.config.load import experiment_from_json, experiment_to_json
from xraytune.config.settings import Experiment, Settings
from xraytune.confirm.plan import Arm
from xraytune.errors import Problem, StudyError
from xraytune.files import append_jsonl, read_json, read_jsonl, write_json
from xraytune.records import EpochRecord, Json, Progress, TrialResult, ignore_progress
from xraytune.search.asha import Rungs
from xraytune.search.messages import Answer, Cause, Message, TrialSuggestion, read_message
from xraytune.search.study import StudyFolder, damage_explained
from xraytune.search.trial_queue import Ends, Failure, GanNeeds, TrialQueue, may_try_again, share, why_lost
from xraytune.seeding import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training.

    Attributes:
        number: Of its folder.
        label: What a person sees, such as `gan #12, GAN seed 1, seed 0`.
        experiment: What is trained.
    """

    number: int
    label: str
    experiment: Experiment


def replicate(arm: Arm, settings: Settings, gan_seed: int, classifier_seed: int) -> Experiment:
    """An arm trained with seeds that no trial of the search had, over all of its steps.

    In every arm the pair (g, c) gives the same stream of real images; an arm without a GAN only takes its name from g.

    Args:
        arm: What is trained.
        settings: The study's.
        gan_seed: g, from 0 on.
        classifier_seed: c, from 0 on.
    """
    seed = derive_seed(settings.seed, "confirm", gan_seed, classifier_seed) % 2**31
    parameters = arm.parameters.model_copy(update={"early_stop_epochs": None})
    if parameters.gan is not None:
        own = derive_seed(parameters.gan.seed, "confirm", gan_seed) % 2**31
        # To leave out those replicates whose GAN fails a test would choose among them.
        gan = parameters.gan.model_copy(update={"seed": own, "allow_memorised": True})
        parameters = parameters.model_copy(update={"gan": gan})
    return Experiment(
        settings=settings.model_copy(update={"seed": seed}),
        parameters=parameters,
        inherited_resolution_px=arm.resolution_px,
    )


class TopUpRungs:
    """Decide which top-up trials ASHA prunes, on the rungs that the search's trials have already reached.

    `reports.jsonl` records each epoch of a top-up in its order of arrival, before the decision on it. After a restart these
    values are replayed in that order, after those of the search, so a resumed confirm decides as an unbroken one.

    Args:
        folder: Where the top-ups lie.
        rungs: Those of the search; top-ups are added to them.

    Raises:
        StudyError: `reports.jsonl` is damaged.
    """

    def __init__(self, folder: StudyFolder, rungs: Rungs) -> None:
        self._folder, self._rungs = folder, rungs
        self._path = folder.path / "reports.jsonl"
        self._reported: set[tuple[int, int]] = set()
        with damage_explained(self._path) as file:
            for row in read_jsonl(file):
                self._on_result(int(row["number"]), int(row["epoch"]), float(row["value"]))

    def goes_on(self, number: int, record: EpochRecord) -> bool:
        """Return whether a top-up continues after an epoch; repeated calls return the same answer."""
        value = record.best_val_auroc
        if (number, record.epoch) not in self._reported:
            append_jsonl(self._path, {"version": 1, "number": number, "epoch": record.epoch, "value": value})
        return self._on_result(number, record.epoch, value)

    def require_own(self, numbers: Iterable[int]) -> None:
        """Refuse top-ups that ran to their end without these rungs.

        Raises:
            StudyError: Earlier versions trained top-ups without pruning; they would compete with pruned ones.
        """
        unpruned = completed_rows(self._folder).keys() & set(numbers) - {number for number, _ in self._reported}
        if self._rungs.reached() and unpruned:
            what = f"an earlier version trained {len(unpruned)} of these top-up trials without pruning them by ASHA"
            fix = f"move {self._folder.path.name}/ away; the same command then trains the top-up trials anew"
            raise StudyError(Problem(what, self._folder.path, fix))

    def _on_result(self, number: int, epoch: int, value: float) -> bool:
        self._reported.add((number, epoch))
        return self._rungs.goes_on(-1 - number, epoch, value)  # the trials of the search count from 0 up


def to_its_last_step(number: int, record: EpochRecord) -> bool:
    """Prune no run."""
    del number, record
    return True


class RunList:
    """The `Work` of a list of runs.

    Args:
        folder: Where they lie.
        runs: All of them, also those that ended earlier.
        what: What a person calls them, for the progress.
        gan_need: Tells the GANs that are not there yet.
        retries: How often a run is tried again after a fault that is not of its settings.
        on_progress: Called with `what` and how many runs have ended.
        goes_on: Returns whether a run continues after an epoch; by default every run trains to its last step.
    """

    def __init__(
        self,
        folder: StudyFolder,
        runs: Sequence[Run],
        *,
        what: str,
        gan_need: GanNeeds,
        retries: int,
        on_progress: Progress = ignore_progress,
        goes_on: Callable[[int, EpochRecord], bool] = to_its_last_step,
    ) -> None:
        self._folder, self._on_progress, self._what = folder, on_progress, what
        self._goes_on = goes_on
        self._retries, self._failures = retries, defaultdict[int, list[Failure]](list)
        self._ends = Ends(folder.path)
        self._runs = {run.number: run for run in runs}
        done = self._runs.keys() & settled_rows(folder)
        for number in done:
            self._own_content(number)  # refuses what another list of runs trained
            folder.drop_checkpoint(number)  # a kill may have come between its end and this
        self._queue = TrialQueue(gan_need, (self._suggestion(run) for run in runs if run.number not in done))
        self._started: dict[int, float] = {}
        self._tell()

    @property
    def running(self) -> int:
        """Runs that run now."""
        return len(self._queue.running)

    @property
    def is_done(self) -> bool:
        """Whether all runs have ended, well or not."""
        return not self._queue.waiting and not self._queue.running

    def next(self) -> TrialSuggestion | Answer:
        """The first run whose GAN nobody else is training."""
        if suggestion := self._queue.take():
            return self._start(suggestion)
        return Answer.WAIT if self._queue.waiting or self._queue.running else Answer.DONE

    def on_placed(self, number: int, gpus: float) -> None:
        """Nothing: a confirm has no budget of GPU time."""

    def on_result(self, number: int, message: Message) -> bool:
        """Handle a message of a run and return whether the run continues.

        Raises:
            MachineError: The run could not go on, nor could any other.
            TrialError: Three runs in a row failed for one reason.
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
        """The process of a run ended without a word."""
        if number in self._queue.running:
            reason = why_lost(self._folder.trial_path(number), out_of_memory=out_of_memory)
            self._fail(number, reason, "memory" if out_of_memory else "fault", was_told=False)

    def interrupted(self) -> None:
        """What ran is to be started again."""
        self._queue.start_over()

    def beat(self) -> None:
        """Nothing: a confirm has no budget of time."""

    def _on_epoch(self, number: int, record: EpochRecord) -> bool:
        if self._goes_on(number, record):
            return True
        reason = f"stopped by ASHA after epoch {record.epoch}"
        self._end(
            number,
            {"status": "pruned", "value": record.best_val_auroc, "epochs": record.epoch, "reason": reason},
        )
        return False

    def _complete(self, number: int, result: TrialResult) -> None:
        names = ("value", "best_epoch", "epochs", "val_b_auroc")
        self._end(number, {"status": "complete", **{name: getattr(result, name) for name in names}})

    def _suggestion(self, run: Run) -> TrialSuggestion:
        failures = self._failures[run.number]
        return TrialSuggestion(number=run.number, parameters=run.experiment.parameters, share=share(failures))

    def _start(self, suggestion: TrialSuggestion) -> TrialSuggestion:
        write_json(self._folder.trial_path(suggestion.number) / "config.json", self._own_content(suggestion.number))
        self._queue.start(suggestion)
        self._started[suggestion.number] = time.monotonic()
        return suggestion

    def _own_content(self, number: int) -> dict[str, Json]:
        """What `config.json` of a run is to hold; a run of that number that was begun earlier has to be the same.

        Raises:
            StudyError: It was begun with other settings.
        """
        trial = self._folder.trial_path(number)
        config, content = trial / "config.json", experiment_to_json(self._runs[number].experiment, trial)
        if config.exists():
            with damage_explained(config):
                begun = experiment_from_json(read_json(config), trial)
            if begun.identity() != experiment_from_json(content, trial).identity():
                what = "this run was begun with other settings: the study, or what is asked for, has changed since"
                fix = f"ask for the same, or move {self._folder.path.name}/ away to begin anew"
                raise StudyError(Problem(what, config, fix))
        return content

    def _fail(self, number: int, reason: str, cause: Cause, *, was_told: bool = True) -> None:
        """Try a run again, or end it."""
        epochs = len(read_jsonl(self._folder.trial_path(number) / "epochs.jsonl"))
        failures, now = self._failures[number], Failure(epochs=epochs, cause=cause)
        if may_try_again(failures, now, self._retries):
            failures.append(now)
            self._queue.end(number)
            self._queue.waiting.appendleft(self._suggestion(self._runs[number]))
        else:
            self._end(number, {"status": "failed", "reason": reason})
            self._ends.add(reason, is_of_machine=was_told and cause == "fault")

    def _end(self, number: int, outcome: dict[str, Any]) -> None:
        self._queue.end(number)
        seconds = round(time.monotonic() - self._started.pop(number), 3)
        row = {"version": 1, "number": number, "label": self._runs[number].label, **outcome, "seconds": seconds}
        append_jsonl(self._folder.runs_path, row)
        if outcome["status"] != "failed":  # a failed run resumes from its checkpoint at the next start
            self._folder.drop_checkpoint(number)
            self._ends.add()
        self._tell()

    def _tell(self) -> None:
        left = len(self._queue.waiting) + len(self._queue.running)
        self._on_progress(self._what, len(self._runs) - left, len(self._runs))


def ended_rows(folder: StudyFolder) -> dict[int, dict[str, Any]]:
    """The last row of each run that ended, by number."""
    with damage_explained(folder.runs_path) as file:
        rows = {int(row["number"]): row for row in read_jsonl(file)}
        if all(row["status"] in {"complete", "pruned", "failed"} for row in rows.values()):
            return rows
        raise ValueError("a status that no run has")


def settled_rows(folder: StudyFolder) -> dict[int, dict[str, Any]]:
    """The rows of the runs that no start takes up again; a run that failed is tried again at the next one."""
    return {number: row for number, row in ended_rows(folder).items() if row["status"] != "failed"}


def completed_rows(folder: StudyFolder) -> dict[int, dict[str, Any]]:
    """The rows of the runs that ran to their end."""
    return {number: row for number, row in ended_rows(folder).items() if row["status"] == "complete"}


def run_label(runs: Sequence[Run], prefix: str) -> Callable[[TrialSuggestion], str]:
    """What the dashboard calls a run."""
    names = {run.number: run.label for run in runs}
    return lambda suggestion: f"{prefix} {names[suggestion.number]}"
