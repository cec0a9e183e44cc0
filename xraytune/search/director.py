"""Who runs next, and who goes on: the search itself, without Ray.

The director asks the journal for trials, hears each epoch, answers whether the trial goes on, and writes every end. A trial
whose GAN another trial is training is held back until that GAN is there; meanwhile those that do not need it run, so that
no slot waits and nothing can deadlock.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from xraytune.config.load import experiment_to_json
from xraytune.config.settings import Experiment, Parameters
from xraytune.config.space import Space
from xraytune.files import append_jsonl, read_json, read_jsonl, write_json
from xraytune.pipeline.synthesize import GanNeed
from xraytune.pipeline.trial import TrialResult
from xraytune.records import EpochRecord
from xraytune.search.journal import Asked, Journal, Status
from xraytune.search.rungs import Rungs
from xraytune.search.study import StudyFolder, project_rows
from xraytune.search.work import Answer

# Trials that are asked for and held back, at most, so that the sampler is not asked far ahead of what is known.
_HELD_BACK = 4


GanNeeds: TypeAlias = Callable[[Parameters], GanNeed | None]
"""From a trial's settings to the GAN that has yet to be trained for it; None where it needs none, or it is there."""


class Observer(Protocol):
    """Who wants to see the search happen."""

    def note(self, text: str) -> None:
        """Something that a person should know."""

    def opened(self, folder: StudyFolder, dashboard: str) -> None:
        """The study is open and Ray runs; `dashboard` is its address, empty where there is none."""

    def began(self, asked: Asked) -> None:
        """A trial starts, or goes on after a restart."""

    def epoch(self, number: int, record: EpochRecord) -> None:
        """A trial ended an epoch."""

    def ended(self, row: Mapping[str, Any]) -> None:
        """A trial ended; the row of `trials.jsonl`."""


def mix_label(parameters: Parameters) -> str:
    """A trial's mix in a few characters: `real only`, `gan r=0.5 (500 steps)`, `duplicate r=1 +classical 2`."""
    mix = "real only" if parameters.source == "none" else f"{parameters.source} r={parameters.synthetic_ratio:g}"
    if parameters.gan:
        mix += f" ({parameters.gan.steps} steps)"
    return f"{mix} +classical {parameters.classical}" if parameters.classical else mix


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    asked: Asked
    need: GanNeed | None
    started: float
    earlier_seconds: float


class Director:
    """Runs one search. All calls come from one thread, under the study's lock.

    Args:
        folder: The study.
        space: Its space, with the budget of this start.
        journal: Its journal, writable.
        gan_need: Tells the GANs that are not there yet.
        gpu_share: GPUs that a trial occupies.
        observer: Told what happens.
    """

    def __init__(
        self,
        folder: StudyFolder,
        space: Space,
        journal: Journal,
        *,
        gan_need: GanNeeds,
        gpu_share: float,
        observer: Observer,
    ) -> None:
        settings = space.settings
        self._folder, self._space, self._journal = folder, space, journal
        self._gan_need, self._gpu_share, self._observer = gan_need, gpu_share, observer
        scheduler, last = settings.scheduler, settings.budget.max_epochs
        grace = scheduler.grace if scheduler.name == "asha" else last
        self._rungs = Rungs(grace=grace, reduction=scheduler.reduction, max_epochs=last)
        for number, epoch, value in journal.reports():
            self._rungs.goes_on(number, epoch, value)
        grid = space.grid() if settings.sampler.name == "grid" else ()
        self._points = (*space.start_points(), *grid)
        self._trial_budget = min(settings.budget.trials, len(self._points)) if grid else settings.budget.trials
        self._queue = deque(journal.again(number) for number in journal.unfinished())
        self._running: dict[int, _Running] = {}
        self._clock = _WallClock(folder)
        project_rows(folder, journal.rows())

    @property
    def running(self) -> int:
        """Trials that run now."""
        return len(self._running)

    @property
    def is_done(self) -> bool:
        """Whether nothing runs, waits or is still to be asked for."""
        return not self._running and not self._queue and self._is_spent()

    def note(self, text: str) -> None:
        """Something that a person should know."""
        self._observer.note(text)

    def next(self) -> Asked | Answer:
        """A trial for a free slot: an unfinished one first, then new ones until the budget is spent."""
        for asked in self._queue:
            if not self._waits(asked):
                self._queue.remove(asked)
                return self._start(asked)
        while not self._is_spent():
            if len(self._queue) >= _HELD_BACK:
                return Answer.WAIT
            asked = self._journal.ask(self._points)
            if not self._waits(asked):
                return self._start(asked)
            self._queue.append(asked)
        return Answer.WAIT if self._queue else Answer.DONE

    def hear(self, number: int, message: Mapping[str, Any]) -> bool:
        """Take what a trial says and answer whether it goes on. Anything may be said again; nothing is recorded twice.

        Args:
            number: The trial.
            message: `{"epoch": EpochRecord}`, `{"ended": TrialResult}` or `{"failed": reason}`, as plain values.
        """
        if "failed" in message:
            self._end(number, "failed", None, {"reason": message["failed"]})
            return False
        if "ended" in message:
            result = TrialResult(**message["ended"])
            outcome = {"val_b_auroc": result.val_b_auroc, "threshold": result.threshold}
            self._end(number, "complete", result.value, outcome)
            return False
        record = EpochRecord(**message["epoch"])
        return self._hear_epoch(number, record)

    def lost(self, number: int) -> None:
        """A trial whose worker was lost as often as `resources.retries` allows has failed."""
        if number in self._running:
            self._end(number, "failed", None, {"reason": "its worker process was lost (killed, or out of memory)"})

    def close(self) -> None:
        """Write down the time used; the same command goes on from here."""
        self._clock.save()

    def _hear_epoch(self, number: int, record: EpochRecord) -> bool:
        value = record.best_val_auroc
        if not math.isfinite(value):
            self._end(number, "failed", None, {"reason": f"val_auroc is {value} after epoch {record.epoch}"})
            return False
        if record.epoch not in self._journal.reported(number):
            self._journal.report(number, record.epoch, value)
            self._observer.epoch(number, record)
        if self._rungs.goes_on(number, record.epoch, value):
            return True
        self._end(number, "pruned", value, {"reason": f"stopped by ASHA after epoch {record.epoch}"})
        return False

    def _start(self, asked: Asked) -> Asked:
        trial = self._folder.trial_path(asked.number)
        config = trial / "config.json"
        if not config.exists():
            experiment = Experiment(settings=self._space.settings, parameters=asked.parameters)
            write_json(config, experiment_to_json(experiment, trial))
        earlier = sum(row["seconds"] for row in read_jsonl(trial / "epochs.jsonl"))
        need = self._gan_need(asked.parameters)
        self._running[asked.number] = _Running(
            asked=asked, need=need, started=time.monotonic(), earlier_seconds=earlier
        )
        self._observer.began(asked)
        return asked

    def _end(self, number: int, status: Status, value: float | None, outcome: dict[str, Any]) -> None:
        run = self._running.pop(number)
        seconds = run.earlier_seconds + time.monotonic() - run.started
        self._journal.tell(number, status, value, {**outcome, "seconds": seconds})
        self._clock.save()
        row = self._journal.row(number)
        append_jsonl(self._folder.rows_path, row)
        self._observer.ended(row)

    def _waits(self, asked: Asked) -> bool:
        """Whether another trial is training the GAN that this one needs, or a longer or shorter run of it."""
        need = self._gan_need(asked.parameters)
        if need is None:
            return False
        lineages = {
            run.need.lineage for run in self._running.values() if run.need and self._gan_need(run.asked.parameters)
        }
        return need.lineage in lineages

    def _is_spent(self) -> bool:
        budget = self._space.settings.budget
        if len(self._journal.trials) >= self._trial_budget:
            return True
        if budget.hours is not None and self._clock.seconds() >= budget.hours * 3600:
            return True
        if budget.gpu_hours is None:
            return False
        ended = sum(row["seconds"] for row in self._folder.rows())
        now = time.monotonic()
        running = sum(run.earlier_seconds + now - run.started for run in self._running.values())
        return bool((ended + running) * self._gpu_share >= budget.gpu_hours * 3600)


class _WallClock:
    """Wall time that a study has used, over all its starts; `wall.json` holds it between them."""

    def __init__(self, folder: StudyFolder) -> None:
        self._path = folder.path / "wall.json"
        self._before: float = read_json(self._path)["seconds"] if self._path.exists() else 0.0
        self._started = time.monotonic()
        self.save()

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def save(self) -> None:
        write_json(self._path, {"version": 1, "seconds": round(self.seconds(), 1)})
