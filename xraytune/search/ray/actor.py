"""A trial as a Ray actor: `search/worker.py` under the name that the dashboard shows.

The driver process imports this class but not what a trial needs: that is imported where the trial
runs.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from ray import tune

from xraytune.base.records import EpochRecord
from xraytune.search.messages import Job

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
        return tune.PlacementGroupFactory([config["job"].resources])

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
        return f"{self._job.study}: several trials in turn"

    def step(self) -> dict[str, Any]:
        """Train one epoch, and return the trial's message."""
        message = self._worker.step()
        text = str(message)
        if isinstance(message, EpochRecord):
            scores = f"val-A {message.val_score:.4f} (best {message.best_val_score:.4f})"
            text = f"epoch {message.epoch}: {scores}"
        _logger.info("%s: %s", self._job.label, text)
        return {"message": message}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Run another trial in the same process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Stop between two epochs."""
        self._worker.close()
