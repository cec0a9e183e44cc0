"""What the driver changes in Tune."""

from types import SimpleNamespace
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError

import xraytune.search.ray.driver  # noqa: F401  it changes the class above


def test_a_process_that_ray_kills_for_want_of_memory_is_lost_and_does_not_end_tune() -> None:
    manager, errors = RayActorManager.__new__(RayActorManager), list[Any]()
    manager._failed_actor_ids = set()
    actor = SimpleNamespace(actor_id=1, _on_error=lambda _, error: errors.append(error))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda _, error: errors.append(error))
    manager._cleanup_actor = lambda *_, **__: None  # type: ignore[method-assign]

    manager._actor_task_failed(task, OutOfMemoryError("1 worker was killed"))  # type: ignore[arg-type, no-untyped-call]

    assert errors
    assert all("OutOfMemory" in str(error) for error in errors)
