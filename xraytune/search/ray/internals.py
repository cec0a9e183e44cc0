"""What the search uses of Ray without a promise of Ray's, as tested with Ray 2.60.

Private attributes are used against two faults: Tune crashes when Ray's memory monitor kills the
process of a trial, and waits forever when Ray's raylet or GCS dies. Undocumented variables keep Ray
off the network and save time. With a Ray that has changed, the search runs without those guards,
and says so.

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


def install_guards(*, is_local: bool) -> str:
    """Install the guards once Ray has started; return a line about those that this Ray does not allow, "" if none."""
    import ray

    lacks = [] if _survive_memory_monitor() else ["a trial that runs out of memory restarts Ray"]
    if is_local and len(exit_codes()) < 2:
        lacks.append("the search waits forever if Ray crashes")
    if is_local and ray.util.get_node_ip_address() != "127.0.0.1":  # type: ignore[no-untyped-call]
        lacks.append("other machines can connect to it")
    return f"Ray {ray.__version__} differs from the tested ones: {'; '.join(lacks)}" if lacks else ""


def _survive_memory_monitor() -> bool:
    """Make Tune treat a process that the memory monitor has killed as any lost one; False if this Ray has changed."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    try:
        from ray.air.execution._internal.actor_manager import RayActorManager

        task_failed = RayActorManager._actor_task_failed
    except (ImportError, AttributeError):
        return False

    def lost(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=f"{OutOfMemoryError.__name__}: {exception}")
        task_failed(self, tracked_actor_task, exception)

    if [*inspect.signature(task_failed).parameters] != [*inspect.signature(lost).parameters]:
        return False
    RayActorManager._actor_task_failed = lost  # type: ignore[method-assign]
    return True


def free_agent_port() -> None:
    """Make the agent of a Ray that starts here listen on a free port: by default, all would listen on the same one.

    It reads the logs for the dashboard.
    """
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


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that Ray drains; none if this Ray does not say."""
    import ray

    return {*getattr(ray._private.state.state, "get_draining_nodes", dict)()}


def exit_codes() -> list[int | None]:
    """Return those of the raylet and the GCS, None while they run; [] before Ray has started, or where others start it."""
    import ray

    worker: Any = ray._private.worker
    try:
        processes = worker._global_node.all_processes
        return [info.process.poll() for name in ("raylet", "gcs_server") for info in processes[name]]
    except (AttributeError, KeyError):
        return []
