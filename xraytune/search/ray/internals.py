"""What the search uses of Ray without a promise of Ray's, as tested with Ray 2.60.

Two private parts: Tune crashes when Ray's memory monitor kills the process of a trial; and several
searches on one machine would use the same port. And an attribute of Tune's trials that is not
documented, the handle of their process: it names what the dashboard shows. With a Ray that has
changed, the search runs without them.

Only functions import Ray here: the search itself reads the variables.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from functools import partialmethod
from typing import Any

VARIABLES = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",  # else a process for each core, none of which a trial uses
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes Ray listen on 127.0.0.1 only, on Linux too; `ray.init(_node_ip_address="127.0.0.1")` would not."""
ONE_ATTEMPT = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
"""An attempt takes 40 seconds; by default Ray retries for a quarter of an hour if there is no cluster."""


def survive_memory_monitor() -> bool:
    """Make Tune treat a process that the memory monitor has killed as any lost one; False if this Ray has changed."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    try:
        from ray.air.execution._internal.actor_manager import RayActorManager

        task_failed = RayActorManager._actor_task_failed
    except (ImportError, AttributeError):
        return False

    def lose_actor(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=f"{OutOfMemoryError.__name__}: {exception}")
        task_failed(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = lose_actor  # type: ignore[method-assign]
    return True


def free_agent_port() -> None:
    """Make the agent of a Ray that starts here, which reads the logs for the dashboard, listen on a free port."""
    from ray._private.parameter import RayParams

    if "dashboard_agent_listen_port" in inspect.signature(RayParams).parameters:
        with_free_port = partialmethod(RayParams.__init__, dashboard_agent_listen_port=0)
        RayParams.__init__ = with_free_port  # type: ignore[assignment, method-assign]


def name_next_epoch(trial: Any, name: str) -> None:
    """Name the next call of a trial's actor by Tune; nothing happens if this Tune has changed."""
    with suppress(AttributeError):
        actor = trial.temporary_state.ray_actor
        vars(actor).pop("train", None)
        actor.train = actor.train.options(name=name)
