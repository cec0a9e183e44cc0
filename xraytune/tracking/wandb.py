"""Weights & Biases on request: one run for each trial, grouped by study; the only file that imports wandb.

A run has the same id each time, so that a resumed trial goes on in it. Without a key it is written to the trial's folder
(`wandb sync` uploads it). What goes wrong with W&B is said once and harms nothing: the numbers are in `epochs.jsonl`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xraytune.config.settings import Experiment, WandbSettings
from xraytune.records import EpochRecord

if TYPE_CHECKING:
    import wandb

_logger = logging.getLogger(__name__)


class WandbRun:
    """The W&B run of one trial.

    Args:
        settings: Project and mode.
        experiment: Its parameters are the run's configuration.
        study: The study's name, which is the group.
        name: Of the run, such as `gan-ratio #7 gan r=0.5`.
        folder: Where offline runs are written.
    """

    def __init__(self, settings: WandbSettings, experiment: Experiment, *, study: str, name: str, folder: Path) -> None:
        self._run: wandb.Run | None = None
        self._safely(lambda: self._start(settings, experiment, study, name, folder))

    def log(self, record: EpochRecord) -> None:
        """Send one epoch; one that was sent before a restart is overwritten with the same."""
        values = asdict(record)
        self._safely(lambda: self._run and self._run.log(values, step=record.epoch))

    def finish(self, summary: dict[str, Any]) -> None:
        """End the run with its final values."""

        def end() -> None:
            if self._run is not None:
                self._run.summary.update(summary)
                self._run.finish()

        self._safely(end)
        self._run = None  # finished once, however often it is asked

    def _start(self, settings: WandbSettings, experiment: Experiment, study: str, name: str, folder: Path) -> None:
        import wandb

        is_offline = settings.mode == "offline" or (settings.mode == "auto" and not has_key())
        self._run = wandb.init(
            project=settings.project,
            group=study,
            name=name,
            id=hashlib.sha256(f"{study} {folder.name}".encode()).hexdigest()[:16],
            resume="allow",
            mode="offline" if is_offline else "online",
            dir=str(folder),
            config=experiment.parameters.model_dump(mode="json", exclude_none=True),
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def _safely(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  a tracker's failure is never the trial's
            _logger.warning("W&B is off for this trial: %s", error)
            self._run = None


def has_key() -> bool:
    """Whether W&B would find a key: in the environment, or in the netrc file that `wandb login` writes."""
    netrc = Path.home() / ".netrc"
    return bool(os.environ.get("WANDB_API_KEY")) or (netrc.exists() and "api.wandb.ai" in netrc.read_text("utf-8"))
