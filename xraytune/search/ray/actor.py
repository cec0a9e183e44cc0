"""A trial as a Ray actor: `search/worker.py` under the name that the dashboard shows.

The driver process imports this class but not what a trial needs: that is imported where the trial
runs.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from xraytune.base.records import EpochRecord, TrialResult, name_scores
from xraytune.search.messages import Job, TrialMessage

if TYPE_CHECKING:
    from xraytune.search.worker import TrialWorker

_logger = logging.getLogger(__name__)


class TrialActor(tune.Trainable):
    """One trial after the other, or the training of a trial's generator."""

    _worker: TrialWorker | None = None

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return the resources that a node must have free, and which nodes are avoided."""
        elsewhere: dict[str, Any] = {}
        if config["avoided"]:
            selector = {"ray.io/node-id": f"!in({','.join(config['avoided'])})"}
            elsewhere["bundle_label_selector"] = [selector]
        return tune.PlacementGroupFactory([config["resources"]], **elsewhere)

    def setup(self, config: dict[str, Any]) -> None:
        """Read the trial's settings; nothing is computed yet."""
        from xraytune.search.worker import TrialWorker

        logging.basicConfig(
            stream=sys.stdout, format="%(asctime)s %(message)s"
        )  # the dashboard shows stdout
        _logger.setLevel(logging.INFO)
        self._study = config["study"]
        self._job: Job = config["job"]
        _logger.info("%s: start", self._job.label)
        self._worker = TrialWorker(self._job)

    def __repr__(self) -> str:
        """Return the name in the dashboard, which Ray fixes when the process starts."""
        return f"{self._study}: several trials in turn"

    def step(self) -> dict[str, Any]:
        """Train one epoch; return the trial's message, the node, and the metrics of the epoch."""
        assert self._worker is not None
        message = self._worker.step()
        _logger.info("%s: %s", self._job.label, _describe(message))
        node = ray.get_runtime_context().get_node_id()
        result = {"message": message, "node": node}
        if isinstance(message, EpochRecord):
            result |= name_scores(asdict(message), self._worker.metric)
        return result

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Run another trial in the same process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Stop between two epochs."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
            _logger.info("%s: end", self._job.label)


def _describe(message: TrialMessage) -> str:
    match message:
        case EpochRecord(epoch=epoch, val_score=score, best_val_score=best, train_loss=loss):
            return f"epoch {epoch}: val-A {score:.4f} (best {best:.4f}), training loss {loss:.4f}"
        case TrialResult(value=value, best_epoch=epoch):
            return f"complete, val-A {value:.4f} in epoch {epoch}"
    return str(message)
