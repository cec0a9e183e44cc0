"""Tracking with MLflow: one run per trial, in one experiment.

Only this file imports mlflow.
"""

import os
import time
from pathlib import Path
from typing import Any

from xraytune.search.tracking import TrackedRun, Values
from xraytune.space.search_settings import MlflowSettings

_ID = "xraytune.id"
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}
"""A server that does not answer must not delay a trial, which Tune kills 10 s after its end."""


class MlflowRun:
    """The run of a trial, which a resumed trial finds by its tag."""

    def __init__(self, settings: MlflowSettings, run: TrackedRun) -> None:
        for variable, value in _PATIENCE.items():
            os.environ.setdefault(variable, value)
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = mlflow.MlflowClient(settings.uri)
        experiment_id = self._experiment(settings.experiment)
        found = self._client.search_runs([experiment_id], f"tags.`{_ID}` = '{run.id}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {_ID: run.id, "kind": run.kind, "group": run.study[0]}
            created = self._client.create_run(experiment_id, tags=tags, run_name=run.name)
            self._id = created.info.run_id
            params = [Param(name, str(value)) for name, value in run.config.items()]
            self._client.log_batch(self._id, params=params)
        history = self._client.get_metric_history(self._id, "epoch")
        self._last_epoch = max((metric.step for metric in history), default=0)

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, which another trial may be creating."""
        import mlflow

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name))
            except mlflow.exceptions.MlflowException:
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def log(self, epoch: int, values: Values) -> None:
        """Send an epoch, unless the run has it from before a restart."""
        if epoch > self._last_epoch:
            self._log_numbers(values, epoch)

    def log_samples(self, grid: Path) -> None:
        """Send the sample grid as an artifact."""
        self._client.log_artifact(self._id, str(grid), "samples")

    def finish(self, summary: Values, model: Path | None) -> None:
        """End the run: numbers are metrics, and texts are tags."""
        if model:
            self._client.log_artifacts(self._id, str(model), "model")
        self._log_numbers(summary, self._last_epoch)
        for name, value in summary.items():
            if isinstance(value, str):
                self._client.set_tag(self._id, name, value)
        status = "FAILED" if summary["status"] == "failed" else "FINISHED"
        self._client.set_terminated(self._id, status)

    def _log_numbers(self, values: Values, step: int) -> None:
        now = int(time.time() * 1000)
        numbers: list[Any] = [
            self._metric(name, float(value), now, step)
            for name, value in values.items()
            if isinstance(value, int | float)
        ]
        self._client.log_batch(self._id, metrics=numbers)
