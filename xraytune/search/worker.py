"""One trial in a worker process; each `step` trains one epoch and returns a message.

Errors of the trial are messages too, with a cause, so that the search can retry it. The process
ends itself when nobody waits for it any more: its parent is gone, or a later attempt at the trial
has begun. It then writes nothing, even if it was suspended for a while and did not notice.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

from xraytune.base.cores import repeated
from xraytune.base.errors import ConfigError, MachineError, Problem, TrialError, XraytuneError, is_out_of_memory
from xraytune.base.files import explain_disk_errors, fenced, write_text
from xraytune.base.records import EpochRecord, Json, TrialResult
from xraytune.data.prepare import RunContext, restore_pixels
from xraytune.nets.compute import pin, require_device
from xraytune.search import messages
from xraytune.search.wandb import RunStatus, TrackedRun, WandbRun, enabled
from xraytune.space.fields import flat_values
from xraytune.space.settings import Experiment, ObjectiveName
from xraytune.study.folder import StudyFolder, other_releases
from xraytune.study.row import EndedRow, ended_runs, ended_trials
from xraytune.study.trial import Cause
from xraytune.study.trial_files import (
    HANG_FILE,
    ProgressFile,
    TakenOverError,
    begin_attempt,
    is_last_attempt,
    write_samples,
)
from xraytune.trial.run import train_own_generator, trial_epochs
from xraytune.trial.samples import save_generator_grid

_LOOK_SECONDS = 0.25
_SUMMARY = ("value", "val_b_score", "threshold", "best_epoch")


Epochs: TypeAlias = Generator[EpochRecord, None, TrialResult | None]
"""The epochs of a trial; the training of a generator has none, and no result."""


class TrialWorker:
    """A trial, started or resumed. One at a time in a process. `metric` is the objective, once it has begun."""

    metric: ObjectiveName

    def __init__(self, job: messages.Job) -> None:
        self._job, self._study = job, StudyFolder(Path(job.study))
        self._folder = self._study.trial_path(job.number)
        self._show_progress = ProgressFile(self._folder)
        self._outcome: tuple[RunStatus, dict[str, Json]] | None = None
        self._parent = os.getppid()
        self._open = ExitStack()
        self._tracker: WandbRun | None = None
        self._epochs = self._run()

    def _run(self) -> Epochs:
        """Begin an attempt at the trial and yield its epochs."""
        compute = self._study.compute()
        require_device(compute, self._study.path)
        if other := other_releases(self._study):
            fix = "install the same versions on every machine that runs trials, then run the same command again"
            raise MachineError(Problem(f"the trials of this study are {other} here", self._study.path, fix))
        pin(compute, gpu_share=self._job.gpu_share)
        experiment = self._study.experiment(self._job.number)
        self.metric = experiment.settings.objective.metric
        prepared = self._study.prepared(experiment.draw)
        cache = Path(self._job.cache)
        self._attempt = begin_attempt(self._folder)
        self._open.enter_context(repeated(self._end_unless_wanted, _LOOK_SECONDS))
        self._open.enter_context(fenced(self._require_last))
        hang_seconds = experiment.settings.resources.hang_minutes * 60
        self._guard = self._open.enter_context(closing(HangGuard(self._folder, hang_seconds)))
        with self._guard:
            restore_pixels(experiment.settings, prepared, cache, on_progress=self._on_progress)
        context = RunContext(
            prepared=prepared,
            cache=cache,
            compute=compute,
            on_progress=self._on_progress,
            on_generator=self._show_samples,
        )
        if self._job.only_generator:
            with self._guard:
                train_own_generator(experiment, context)
            self._show_progress("waiting for a slot", 0, 0)
            return None
        self._tracker = self._tracked(experiment)
        with closing(trial_epochs(experiment, context, self._folder)) as epochs:
            while True:
                with self._guard:  # not while it waits between two epochs
                    try:
                        record = next(epochs)
                    except StopIteration as end:
                        result: TrialResult = end.value
                        return result
                yield record

    def _on_progress(self, what: str, done: int, total: int) -> None:
        self._guard.alive()
        self._show_progress(what, done, total)

    def _show_samples(self, experiment: Experiment, context: RunContext) -> None:
        grid = save_generator_grid(experiment, context, self._study.path / "samples")
        write_samples(self._folder, grid)
        if self._tracker:
            self._tracker.log_samples(grid)

    def step(self) -> messages.TrialMessage:
        """Train one epoch, the first one after all preparation, or those of a second; return the trial's last message."""
        started, message = time.monotonic(), self._next()
        while isinstance(message, messages.EpochEnded) and not self._job.every_epoch and time.monotonic() < started + 1:
            message = self._next()
        match message:
            case messages.TrialEnded(result=result):
                summary = asdict(result)
                self._outcome = "complete", {name: summary[name] for name in _SUMMARY}
            case messages.TrialFailed():
                self._outcome = "failed", {}
        return message

    def _next(self) -> messages.TrialMessage:
        message = next_message(self._epochs, self._folder, self._sees_study)
        if isinstance(message, messages.EpochEnded) and self._tracker:
            self._tracker.log(message.record)
        return message

    def close(self) -> None:
        """Stop between two epochs and wait for W&B; the checkpoint is saved, and the search has all messages."""
        self._epochs.close()
        self._open.close()
        if self._tracker:
            status, outcome = self._outcome or (self._recorded_status(), {})
            self._tracker.finish(status, outcome)

    def _sees_study(self) -> bool:
        return (self._study.path / "environment.json").exists()

    def _end_unless_wanted(self) -> None:
        if os.getppid() != self._parent or not is_last_attempt(self._folder, self._attempt):
            os._exit(1)

    def _require_last(self) -> None:
        if not is_last_attempt(self._folder, self._attempt):
            raise TakenOverError

    def _recorded_status(self) -> RunStatus:
        """Return how the search ended the trial; "unfinished" if it did not, as after Ctrl-C."""
        ended: dict[int, EndedRow] = {**ended_trials(self._study), **ended_runs(self._study)}  # of a search or confirm
        return ended[self._job.number].status if self._job.number in ended else "unfinished"

    def _tracked(self, experiment: Experiment) -> WandbRun | None:
        settings, parameters = experiment.settings, experiment.parameters
        if (tracking := enabled(settings.tracking.wandb)) is None:
            return None
        run = TrackedRun(
            study=self._study.path.name,
            study_identity=self._study.identity(),
            key=self._job.number,
            label=self._job.label,
            parameters={**flat_values(parameters, self._folder), "arm": parameters.arm},
            metric=settings.objective.metric,
            folder=self._folder,
        )
        return WandbRun(tracking, run)


def next_message(
    epochs: Epochs, trial_dir: Path, sees_study: Callable[[], bool] = lambda: True
) -> messages.TrialMessage:
    """Return the trial's next message; the traceback of an error is saved in `error.txt`, where the study is seen."""
    node = platform.node()
    try:
        with explain_disk_errors(trial_dir):
            return messages.EpochEnded(record=next(epochs))
    except StopIteration as end:
        result: TrialResult | None = end.value
        return messages.TrialEnded(result=result) if result else messages.GeneratorTrained()
    except TakenOverError:
        raise
    except MachineError as error:
        return messages.MachineStopped(reason=f"on {node}: {error}")
    except Exception as error:  # noqa: BLE001  the trial boundary: the search continues
        if not sees_study():
            return messages.MachineStopped(reason=f"on {node}: the study that is searched is not at {trial_dir.parent}")
        write_text(trial_dir / "error.txt", traceback.format_exc())
        reason = str(error) if isinstance(error, XraytuneError) else f"{type(error).__name__}: {error}"
        return messages.TrialFailed(reason=f"{reason} (traceback: {trial_dir.name}/error.txt)", cause=_cause(error))


def _cause(error: Exception) -> Cause:
    if isinstance(error, ConfigError | TrialError):
        return "settings"
    return "memory" if is_out_of_memory(error) else "fault"


class HangGuard:
    """A context manager that ends the process, with its traceback in `hang.txt`, unless it is `alive` every few seconds.

    The timer is faulthandler's: it does not need the interpreter lock, which a hanging library may
    hold.
    """

    def __init__(self, trial_dir: Path, seconds: float) -> None:
        self._path, self._seconds = trial_dir / HANG_FILE, seconds
        with explain_disk_errors(self._path):
            self._file = self._path.open("w", encoding="utf-8")
        self._is_on, self._restarted = False, 0.0

    def alive(self) -> None:
        """Restart the timer, at most once a second; outside the block, do nothing."""
        now = time.monotonic()
        if self._is_on and now - self._restarted > min(1.0, self._seconds / 10):
            self._restarted = now
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)

    def __enter__(self) -> HangGuard:
        self._is_on, self._restarted = True, 0.0
        self.alive()
        return self

    def __exit__(self, *error: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._is_on = False

    def close(self) -> None:
        """Remove the file of the traceback."""
        self._file.close()
        self._path.unlink(missing_ok=True)
