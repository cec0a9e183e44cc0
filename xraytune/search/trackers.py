"""The trackers that the settings of a study name: whatever they do, the trial continues.

A tracker may raise anything: then a warning is logged once, and the rest of the run goes to the
other trackers alone.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from xraytune.base.records import EpochRecord, name_scores
from xraytune.search.mlflow import MlflowRun
from xraytune.search.tensorboard import TensorboardRun
from xraytune.search.tracking import TrackedRun, Tracker, Values
from xraytune.search.wandb import WandbRun
from xraytune.space.search_settings import Tracking

_logger = logging.getLogger(__name__)


class Trackers:
    """All trackers of a run, each of which begins or resumes it."""

    def __init__(self, settings: Tracking, run: TrackedRun) -> None:
        begin: dict[str, Callable[[TrackedRun], Tracker]] = {}
        if settings.wandb:
            begin["W&B"] = partial(WandbRun, settings.wandb)
        if settings.mlflow:
            begin["MLflow"] = partial(MlflowRun, settings.mlflow)
        if settings.tensorboard:
            begin["TensorBoard"] = TensorboardRun
        self._metric = run.metric
        self._trackers: dict[str, Tracker] = {}
        for name, begin_run in begin.items():
            try:
                self._trackers[name] = begin_run(run)
            except Exception as error:  # noqa: BLE001  whatever a tracker raises
                self._warn(name, error)

    def log(self, record: EpochRecord) -> None:
        """Send an epoch."""
        values = name_scores(asdict(record), self._metric)
        self._send(lambda tracker: tracker.log(record.epoch, values))

    def log_samples(self, grid: Path) -> None:
        """Send the sample grid of the trial's generator."""
        self._send(lambda tracker: tracker.log_samples(grid))

    def finish(self, summary: Values, model: Path | None = None) -> None:
        """End the run; `summary` has its `status`."""
        values = name_scores(summary, self._metric)
        self._send(lambda tracker: tracker.finish(values, model))

    def _send(self, send: Callable[[Tracker], None]) -> None:
        for name, tracker in [*self._trackers.items()]:
            try:
                send(tracker)
            except Exception as error:  # noqa: BLE001  whatever a tracker raises
                del self._trackers[name]
                self._warn(name, error)

    def _warn(self, name: str, error: Exception) -> None:
        _logger.warning("%s failed: %r; its metrics are in epochs.jsonl", name, error)
