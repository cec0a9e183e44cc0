"""What the search uses of Ray without a promise of Ray's, as tested with Ray 2.60.

Two private parts: Tune crashes when Ray's memory monitor kills the process of a trial; and several
searches on one machine would use the same port. And an attribute of Tune's trials that is not
documented, the handle of their process: it names what the dashboard shows.

A search also runs with a Ray that has changed them, without what each function adds.
"""

from contextlib import suppress
from functools import partialmethod
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError

_CHANGED = (ImportError, AttributeError)
"""What the use of a private part raises once Ray has changed it."""


def survive_memory_monitor() -> None:
    """Make Tune treat a process that the memory monitor has killed as any lost one.

    Otherwise, Tune ends, and the search starts Ray again.
    """
    try:
        from ray.air.execution._internal.actor_manager import RayActorManager

        task_failed = RayActorManager._actor_task_failed
    except _CHANGED:
        return

    def lose_actor(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=f"{OutOfMemoryError.__name__}: {exception}")
        task_failed(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = lose_actor  # type: ignore[method-assign]


def start_for_one_search() -> None:
    """Let the agent of a Ray that starts here, which reads the logs, listen on a free port.

    Do not start what adds nodes, nor what sends logs to the driver: each takes a second. Otherwise,
    a second search on this machine has no logs in the dashboard.
    """
    try:
        from ray._private.parameter import RayParams
    except _CHANGED:
        return
    for_one_search = partialmethod(
        RayParams.__init__,
        dashboard_agent_listen_port=0,
        no_monitor=True,
        include_log_monitor=False,
    )
    RayParams.__init__ = for_one_search  # type: ignore[assignment, method-assign]


def name_next_epoch(trial: Any, name: str) -> None:
    """Name the next call of a trial's actor by Tune; nothing happens if this Tune has changed."""
    with suppress(AttributeError):
        actor = trial.temporary_state.ray_actor
        vars(actor).pop("train", None)
        actor.train = actor.train.options(name=name)
