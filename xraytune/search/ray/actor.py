"""A trial as a Ray actor, `search/worker.py`, and what Ray's dashboard and metrics show of it.

The driver process imports this file but not what a trial needs: that is imported where the trial
runs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.util.metrics import Gauge

from xraytune.base.records import EpochRecord
from xraytune.search.ray.internals import name_next_epoch
from xraytune.study.trial import Job

if TYPE_CHECKING:
    from xraytune.search.worker import TrialWorker

_logger = logging.getLogger(__name__)


class TrialActor(tune.Trainable):
    """One trial after the other."""

    _job: Job
    _worker: TrialWorker

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return the resources that a node must have free."""
        job: Job = config["job"]
        bundles = [dict(job.resources)]
        if not job.nodes_left_out:
            return tune.PlacementGroupFactory(bundles)
        others = {"ray.io/node-id": f"!in({','.join(job.nodes_left_out)})"}
        return tune.PlacementGroupFactory(bundles, bundle_label_selector=[others])

    def setup(self, config: dict[str, Any]) -> None:
        """Read the trial's settings; nothing is computed yet."""
        from xraytune.search.worker import TrialWorker

        # The dashboard shows stdout.
        logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s")
        _logger.setLevel(logging.INFO)
        self._job = config["job"]
        _logger.info("%s: start", self._job.label)
        self._worker = TrialWorker(self._job)

    def __repr__(self) -> str:
        """Return the name in the dashboard, which Ray fixes when the process starts."""
        return f"{self._job.study_folder.path}: several trials in turn"

    def step(self) -> dict[str, Any]:
        """Train until the trial has a message, such as an epoch, and return it."""
        message = self._worker.step()
        text = str(message)
        if isinstance(message, EpochRecord):
            scores = f"val-A {message.val_score:.4f} (best {message.best_val_score:.4f})"
            text = f"epoch {message.epoch}: {scores}"
        _logger.info("%s: %s", self._job.label, text)
        return {"message": message, "node": ray.get_runtime_context().get_node_id()}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Run another trial in the same process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Stop between two epochs."""
        self._worker.close()


class ShowTrials(tune.Callback):
    """Show which trial each process trains, and its score; one is made once Ray runs.

    Processes are reused, and Ray fixes the name of an actor when it starts. So each call of an
    actor, one step of its trial, is named after it.
    """

    def __init__(self, on_placed: Callable[[int], None]) -> None:
        self._on_placed = on_placed
        self._score = Gauge("xraytune_val_score", "Best score on val-A so far", tag_keys=("trial",))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Name the first epoch, or the training of a generator."""
        job: Job = trial.config["job"]
        self._on_placed(job.number)
        name_next_epoch(trial, f"{job.label}: starts")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Name the epoch that follows after the trial's score so far."""
        message = result["message"]
        if isinstance(message, EpochRecord):
            label = trial.config["job"].label
            score = message.best_val_score
            self._score.set(score, {"trial": label})
            name_next_epoch(trial, f"{label}: {score:.4f} after epoch {message.epoch}")
