"""One trial in a worker process; each `step` trains one epoch and returns a message.

Errors of the trial are messages, too, with a cause, so that the search can retry the trial. Once a
later attempt at the trial has begun, this attempt fails at its next write, even if it was suspended
meanwhile.
"""

import platform
import time
import traceback
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from xraytune.base.errors import (
    ConfigError,
    MachineError,
    TrialError,
    XraytuneError,
    is_out_of_memory,
)
from xraytune.base.files import explain_disk_errors, sync, write_text
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.data.prepare import RunContext, restore_pixels
from xraytune.nets.compute import configure_torch, require_device, require_precision
from xraytune.search.trackers import Trackers
from xraytune.search.tracking import TrackedRun
from xraytune.space.recorded import declare_recorded
from xraytune.space.settings import Experiment
from xraytune.study.folder import other_releases
from xraytune.study.trial import (
    Cause,
    GeneratorTrained,
    Job,
    ProgressFile,
    TakenOverError,
    TrialFailed,
    TrialMessage,
    attempt,
    write_samples,
)
from xraytune.synth.sources.registry import source_of
from xraytune.trial.run import trial_epochs
from xraytune.trial.samples import save_generator_grid

Epochs: TypeAlias = Generator[EpochRecord, None, TrialResult | GeneratorTrained]


class TrialWorker:
    """A trial, started or resumed; a process has one at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._study = job.study_folder
        self._folder = job.study_folder.trial_path(job.number)
        self._open = ExitStack()
        self._trackers: Trackers | None = None
        self._summary: dict[str, Any] = {"status": "pruned"}  # without a last message
        self._epochs = self._run()

    def _run(self) -> Epochs:
        """Begin an attempt at the trial and yield its epochs."""
        study = self._study
        compute = study.compute()
        require_device(compute, study.path)
        if self._job.has_choice:
            require_precision(compute, study.path)
        if other := other_releases(study):
            raise MachineError(
                f"the trials of this study are {other} here",
                study.path,
                "install the same versions on every machine that runs trials, "
                "then run the same command again",
            )
        declare_recorded(study.path, runs_code=True)
        configure_torch(compute, gpu_share=self._job.resources.get("GPU", 1.0))
        experiment = study.experiment(self._job.number)
        settings = experiment.settings
        context = RunContext(
            prepared=study.prepared(experiment),
            cache=self._job.cache,
            compute=compute,
            on_progress=ProgressFile(self._folder),
        )
        self._open.enter_context(attempt(self._folder))
        restore_pixels(settings, context.prepared, context.cache, on_progress=context.on_progress)
        if self._job.trains_alone:
            source_of(experiment.parameters).trained(settings, context)
            return GeneratorTrained()
        run = TrackedRun(
            metric=settings.objective.metric,
            study=(settings.name, study.environment()["identity"]),
            parameters=experiment.parameters,
            folder=self._folder,
            key=self._key(),
            name=self._job.label,
        )
        self._trackers = Trackers(settings.tracking, run)
        show_samples = partial(self._show_samples, experiment, context)
        return (yield from trial_epochs(experiment, context, self._folder, show_samples))

    def _key(self) -> int | str:
        """Return what identifies the trial, or the run of a confirmation, in its study."""
        number = self._job.number
        is_run = not self._study.journal_path.exists()
        return f"{self._study.path.name} {number}" if is_run else number

    def _show_samples(self, experiment: Experiment, context: RunContext) -> None:
        grid = save_generator_grid(experiment, context, self._study.path / "samples")
        write_samples(self._folder, grid)
        if self._trackers:
            self._trackers.log_samples(grid)

    def step(self) -> TrialMessage:
        """Train an epoch, or all epochs of one second, and return the trial's last message.

        The first call also prepares everything that the first epoch needs.
        """
        started = time.monotonic()
        while True:
            message = next_message(self._epochs, self._folder)
            if not isinstance(message, EpochRecord):
                break
            if self._trackers:
                self._trackers.log(message)
            if self._job.reports_every_epoch or time.monotonic() > started + 1:
                # The search may end the trial here, and would not train it again after a power cut.
                sync(self._folder / "epochs.jsonl")
                return message
        if isinstance(message, TrialFailed):
            self._summary["status"] = "failed"
        if isinstance(message, TrialResult):
            self._summary = {"status": "complete", **asdict(message)}
        return message

    def close(self) -> None:
        """End the trial between two epochs, and wait for its trackers.

        At this point, the checkpoint is saved, and the search has all messages.
        """
        self._epochs.close()
        self._open.close()
        if self._trackers:
            self._trackers.finish(self._summary)


def next_message(epochs: Epochs, trial_dir: Path) -> TrialMessage:
    """Return the trial's next message.

    The traceback of an error is saved in `error.txt`, if the study is found on this machine.
    """
    try:
        with explain_disk_errors(trial_dir):
            return next(epochs)
    except StopIteration as end:
        result: TrialResult | GeneratorTrained = end.value
        return result
    except TakenOverError:
        raise
    except MachineError as error:
        return TrialFailed(reason=f"on {platform.node()}: {error}", cause="machine")
    except Exception as error:  # noqa: BLE001  the trial boundary: the search continues
        if not (trial_dir / "config.json").exists():
            reason = (
                f"on {platform.node()}: the study that is searched is not at "
                f"{trial_dir.parent.parent}"
            )
            fix = "mount the storage of the search there, at the same path"
            return TrialFailed(reason=f"{reason}\n  fix: {fix}", cause="machine")
        write_text(trial_dir / "error.txt", traceback.format_exc())
        reason = (
            str(error) if isinstance(error, XraytuneError) else f"{type(error).__name__}: {error}"
        )
        cause: Cause = "memory" if is_out_of_memory(error) else "fault"
        if isinstance(error, ConfigError | TrialError):
            cause = "settings"
        return TrialFailed(reason=reason, cause=cause)
