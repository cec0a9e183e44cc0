"""A trial as a Ray actor: what `search/worker.py` does, under the name that the dashboard shows.

The driver process needs this class, and not what a trial is made of, so that is imported where a trial runs.
"""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

if TYPE_CHECKING:
    from xraytune.search.worker import TrialWorker


class TrialActor(tune.Trainable):
    """One trial. Its Tune config: the values of a `Job`, and `resources`, what it occupies in Ray's words."""

    _worker: TrialWorker | None = None

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Ray has to have free for it."""
        return tune.PlacementGroupFactory([config["resources"]])

    def setup(self, config: dict[str, Any]) -> None:
        """Read what the trial is from its folder; nothing is computed yet."""
        from xraytune.search.worker import Job, TrialWorker

        self._label = config["label"]
        self._worker = TrialWorker(Job(**{name: value for name, value in config.items() if name != "resources"}))

    def __repr__(self) -> str:
        """What the dashboard calls this actor."""
        return str(self._label)

    def step(self) -> dict[str, Any]:
        """One epoch; what the trial says travels as one line of JSON."""
        assert self._worker is not None
        return {"message": json.dumps(self._worker.step())}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another trial in the same process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Stop between two epochs."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


@ray.remote
def look(cpus: int, gpus: float) -> dict[str, Any]:
    """The `environment` of the machine that runs this, or the problem with it: what, where and what to do."""
    from xraytune.compute import choose_compute
    from xraytune.errors import MachineError
    from xraytune.search.study import environment

    try:
        return {"environment": environment(choose_compute(gpus=gpus, threads=cpus))}
    except MachineError as error:
        problem = error.problems[0]
        fix = "set resources.gpus_per_trial=0, or install a driver that fits this torch on that machine"
        return {"problem": [f"{problem.what} on {platform.node()}", str(problem.where), fix]}
