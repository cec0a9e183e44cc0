"""A trial as a Ray actor: `search/worker.py` under the name that the dashboard shows.

The driver process imports this class but not what a trial needs: that is imported where the trial runs.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from xraytune.search.messages import EpochEnded, StartTrial, decode, encode

if TYPE_CHECKING:
    from xraytune.search.worker import TrialWorker

_logger = logging.getLogger(__name__)


def started_trial(config: dict[str, Any]) -> StartTrial:
    """Return the message that Tune's config of a trial contains."""
    message: StartTrial = decode(config["trial"])
    return message


class TrialActor(tune.Trainable):
    """One trial after the other, or the training of a trial's generator."""

    _worker: TrialWorker | None = None

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return the resources that a node must have free, and which nodes are avoided."""
        avoided = ",".join(config["avoided"])
        elsewhere: dict[str, Any] = (
            {"bundle_label_selector": [{"ray.io/node-id": f"!in({avoided})"}]} if avoided else {}
        )
        return tune.PlacementGroupFactory([started_trial(config).resources], **elsewhere)

    def setup(self, config: dict[str, Any]) -> None:
        """Read the trial's settings; nothing is computed yet."""
        from xraytune.search.worker import TrialWorker

        logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s")  # the dashboard shows stdout
        _logger.setLevel(logging.INFO)
        started = started_trial(config)
        self._process, self._label = started.process, started.job.label
        _logger.info("%s: start", self._label)
        self._worker = TrialWorker(started.job)

    def __repr__(self) -> str:
        """Return the name in the dashboard."""
        return str(self._process)

    def step(self) -> dict[str, Any]:
        """Train one epoch; return the trial's message, encoded, the node, and the metrics of the epoch."""
        assert self._worker is not None
        message = self._worker.step()
        _logger.info("%s: %s", self._label, message)
        metrics = asdict(message.record) if isinstance(message, EpochEnded) else {}
        node = ray.get_runtime_context().get_node_id()
        return {"message": encode(message), "node": node, **metrics}

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
            _logger.info("%s: end", self._label)
