"""Optional tracking with Weights & Biases: one run per trial, grouped by study.

Only this file imports wandb.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from xraytune.base.records import EpochRecord, name_scores
from xraytune.space.fields import flat_values
from xraytune.space.settings import ObjectiveName, Parameters, WandbSettings

WANDB_FOLDER = "wandb"
"""The folder of offline runs, in a trial's folder; W&B chooses its name."""
_OUTER_RUN = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE")
"""Environment variables of a run or a sweep in which the search was started. If they were kept, all
trials would become that run."""
_NOTHING_ELSE = "silent disable_git disable_code x_disable_stats x_disable_machine_info".split()
_SETTINGS = dict.fromkeys(_NOTHING_ELSE, True) | {"console": "off", "x_save_requirements": False}
_SECONDS = {"init": 15.0, "trial": 8.0, "train": 120.0}  # Tune kills a trial 10 s after its end
_logger = logging.getLogger(__name__)


class WandbRun:
    """The run of a trial, which a resumed trial continues, or of a final training.

    A run is identified by its `kind` and `key`, and by the name and identity of its `study`. If W&B
    fails, a warning is logged and the rest of the run is not tracked.
    """

    def __init__(
        self,
        settings: WandbSettings,
        metric: ObjectiveName,
        study: tuple[str, str],
        parameters: Parameters,
        folder: Path,
        *,
        kind: str = "trial",
        key: int | str,
        name: str,
    ) -> None:
        self._metric = metric
        self._run: Any = None
        run_id = hashlib.sha256("\n".join((*study, f"{kind} {key}")).encode()).hexdigest()[:16]
        for variable in _OUTER_RUN:
            os.environ.pop(variable, None)
        with self._surviving():
            import wandb

            self._wandb = wandb
            start: Callable[..., Any] = partial(
                wandb.init,
                resume="allow",
                job_type=kind,
                project=settings.project,
                group=f"{study[0]} {study[1][:6]}",
                id=run_id,
                name=name,
                dir=str(folder),
                config=flat_values(parameters, folder)
                | {"arm": parameters.arm, "study": study[0], kind: key},
                settings=wandb.Settings(
                    init_timeout=_SECONDS["init"],
                    finish_timeout=_SECONDS[kind],
                    stop_fn=str,  # else "stop run" on the page is Ctrl-C in the middle of a step
                    **_SETTINGS,
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
                wandb.teardown()  # its process still has the run
                self._run = start(mode="offline")
            self._run.define_metric("*", step_metric="epoch")

    def log(self, record: EpochRecord) -> None:
        """Send an epoch; W&B ignores epochs that the run already has from before a restart."""
        with self._surviving():
            if self._run:
                values = name_scores(asdict(record), self._metric)
                self._run.log(values, step=record.epoch, commit=True)  # else it waits for the next

    def log_samples(self, grid: Path) -> None:
        """Send the sample grid of the trial's generator, before the first epoch."""
        with self._surviving():
            if self._run:
                picture = self._wandb.Image(str(grid), caption="training images, then generated")
                self._run.log({"epoch": 0, "samples": picture}, step=0, commit=True)

    def finish(self, summary: dict[str, Any], *, model: Path | None = None) -> None:
        """End the run with its status, scores and other results, and `model` as an artifact."""
        with self._surviving():
            if self._run:
                if model:
                    self._run.log_artifact(model, name=self._run.config["study"], type="model")
                self._run.summary.update(name_scores(summary, self._metric))
                self._run.finish(exit_code=int(summary["status"] == "failed"))
                # Ends W&B's own process, so that the file of the run is whole.
                self._wandb.teardown()

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever W&B raises
            self._run = None
            _logger.warning("W&B failed: %r; its metrics are in epochs.jsonl", error)
