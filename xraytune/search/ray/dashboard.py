"""What Ray's dashboard and metrics show of the trials.

Which one each process trains, and its score.

Processes are reused, and Ray fixes the name of an actor when it starts. So each call of an actor,
one epoch, is named after its trial.
"""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.util.metrics import Gauge

from xraytune.base.records import EpochRecord
from xraytune.search.ray.internals import name_next_epoch


class ShowTrials(tune.Callback):
    """Name the next epoch of each trial, and export its score. Made once Ray runs."""

    def __init__(self) -> None:
        self._score = Gauge("xraytune_val_score", "Best score on val-A so far", tag_keys=("trial",))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Name the first epoch, or the training of a generator."""
        name_next_epoch(trial, f"{trial.config['job'].label}: starts")

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
