"""Optional tracking with Weights & Biases: one run per trial, grouped by study.

Only this file imports wandb.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from xraytune.search.tracking import TrackedRun, Values
from xraytune.space.search_settings import WandbSettings

_OUTER_RUN = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE")
"""Environment variables of a run or a sweep in which the search was started. If they were kept, all
trials would become that run."""
# Tune kills a trial 10 s after its end.
_SECONDS = {"init": 15.0, "end": 30.0, "trial": 8.0, "train": 120.0}
_logger = logging.getLogger(__name__)


class WandbRun:
    """The run of a trial, which a resumed trial continues, or of a final training."""

    def __init__(self, settings: WandbSettings, run: TrackedRun) -> None:
        for variable in _OUTER_RUN:
            os.environ.pop(variable, None)
        import wandb

        self._wandb = wandb
        start: Callable[..., Any] = partial(
            wandb.init,
            resume="allow",
            job_type=run.kind,
            project=settings.project,
            group=f"{run.study[0]} {run.study[1][:6]}",
            id=run.id,
            name=run.name,
            dir=str(run.folder),
            config=run.config,
            settings=wandb.Settings(
                init_timeout=_SECONDS["init"],
                finish_timeout=_SECONDS[run.kind],
                stop_fn=str,  # else "stop run" on the page is Ctrl-C in the middle of a step
                # Nothing about the machine or its code is sent.
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        mode = os.environ.get("WANDB_MODE")
        try:
            # Sends the key, if there is one, to W&B.
            mode = mode or ("online" if wandb.login(prompt=False) else "offline")
            self._run = start(mode=mode)
        except Exception as error:
            if mode not in (None, "online"):
                raise
            _logger.warning("W&B failed: %r; written offline, for `wandb sync`", error)
            _end_process(wandb)  # which still has the run
            self._run = start(mode="offline")
        self._run.define_metric("*", step_metric="epoch")

    def log(self, epoch: int, values: Values) -> None:
        """Send an epoch; W&B ignores epochs that the run already has from before a restart."""
        self._run.log(values, step=epoch, commit=True)  # else it waits for the next

    def log_samples(self, grid: Path) -> None:
        """Send the sample grid of the trial's generator, before the first epoch."""
        picture = self._wandb.Image(str(grid), caption="training images, then generated")
        self._run.log({"epoch": 0, "samples": picture}, step=0, commit=True)

    def finish(self, summary: Values, model: Path | None) -> None:
        """End the run with its status, scores and other results, and `model` as an artifact."""
        if model:
            self._run.log_artifact(model, name=self._run.config["study"], type="model")
        self._run.summary.update(summary)
        self._run.finish(exit_code=int(summary["status"] == "failed"))
        _end_process(self._wandb)  # so that the file of the run is whole


def _end_process(wandb: Any) -> None:
    """End W&B's own process. Without a network it may never end by itself; then it is killed."""
    killing = threading.Timer(_SECONDS["end"], _kill_process)
    killing.daemon = True
    killing.start()
    try:
        with suppress(SystemExit):  # of a process that was killed
            wandb.teardown()
    finally:
        killing.cancel()


def _kill_process() -> None:
    """Kill W&B's own process, where the system lists processes in /proc."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = file.read_text().partition(" (")[2].rpartition(") ")
            parent = int(rest.split()[1])
            if name.startswith("wandb") and parent == os.getpid():
                os.kill(int(file.parent.name), signal.SIGKILL)
