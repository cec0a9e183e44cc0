"""A trial as a Ray actor: `search/worker.py` under the name that the dashboard shows.

The driver process imports this class but not what a trial needs: that is imported where the trial runs.
"""

from __future__ import annotations

import json
import logging
import platform
import re
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

if TYPE_CHECKING:
    from xraytune.search.worker import TrialWorker

_logger = logging.getLogger(__name__)


class TrialActor(tune.Trainable):
    """One trial after the other, or the training of a trial's generator.

    Its Tune config: the values of a `Job`, `resources` as Ray takes them, and the name of the `process`.
    """

    _worker: TrialWorker | None = None

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return the resources that Ray must have free."""
        return tune.PlacementGroupFactory([config["resources"]])

    def setup(self, config: dict[str, Any]) -> None:
        """Read the trial's settings; nothing is computed yet."""
        from xraytune.search.worker import Job, TrialWorker

        logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s")  # the dashboard shows stdout
        _logger.setLevel(logging.INFO)
        self._process, self._label = config["process"], config["label"]
        _logger.info("%s: start", self._label)
        self._worker = TrialWorker(Job(**{field.name: config[field.name] for field in fields(Job)}))
        if config["process"] != config["label"]:
            # Ray fixes an actor's name, but not the names of its tasks.
            ray.get_runtime_context().current_actor.begins.options(name=config["label"]).remote()

    def begins(self) -> None:
        """Do nothing; in the dashboard, the name of this task shows which trial the process now runs."""

    def __repr__(self) -> str:
        """Return the name in the dashboard."""
        return str(self._process)

    def step(self) -> dict[str, Any]:
        """Train one epoch; return the trial's message, and its resource usage since the last one, as JSON."""
        import torch

        from xraytune.base.artifacts import take_requests

        assert self._worker is not None
        message = json.dumps(self._worker.step())
        _logger.info("%s: %s", self._label, re.sub(r"(\.\d{4})\d+", r"\1", message))  # shorten to four decimals
        usage = {"gpu_memory_bytes": torch.cuda.max_memory_reserved(), "cache_requests": take_requests()}
        return {"message": message, "usage": json.dumps(usage)}

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


@ray.remote
def look(cpus: int, gpus: float) -> dict[str, Any]:
    """Return the `environment` of the node that runs this, or the `problem` with it: what, where and fix."""
    from xraytune.base.errors import MachineError
    from xraytune.nets.compute import choose_compute
    from xraytune.study.start import environment

    try:
        return {"environment": environment(choose_compute(gpus=gpus, threads=cpus))}
    except MachineError as error:
        problem = error.problems[0]
        fix = "set resources.gpus_per_trial=0, or install a driver that fits this torch on that machine"
        return {"problem": [f"{problem.what} on {platform.node()}", str(problem.where), fix]}
