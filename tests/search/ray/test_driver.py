"""What the search changes in Tune, and the end of the driver after that of the search."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError

from xraytune.search.ray.internals import install_guards


def test_a_process_that_ray_kills_for_want_of_memory_is_lost_and_does_not_end_tune() -> None:
    assert install_guards(is_local=False) == ""
    manager, errors = RayActorManager.__new__(RayActorManager), list[Any]()
    manager._failed_actor_ids = set()
    actor = SimpleNamespace(actor_id=1, _on_error=lambda _, error: errors.append(error))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda _, error: errors.append(error))
    manager._cleanup_actor = lambda *_, **__: None  # type: ignore[method-assign]

    error = OutOfMemoryError("1 worker was killed")  # type: ignore[no-untyped-call]
    manager._actor_task_failed(tracked_actor_task=task, exception=error)  # type: ignore[arg-type]  # as Ray does

    assert errors
    assert all("OutOfMemory" in str(error) for error in errors)


@pytest.mark.slow
def test_a_search_killed_while_its_driver_is_imported_leaves_neither_process_nor_folder() -> None:
    search = subprocess.Popen(["true"])
    search.wait()
    ours, theirs = Pipe()
    with TemporaryDirectory(dir="/tmp") as parent, ours, theirs:
        folder = Path(parent, "xray")
        folder.mkdir()
        driver = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "xraytune.search.ray.driver"),
                *(str(theirs.fileno()), str(folder), "", "1", str(search.pid), "study"),
            ],
            pass_fds=(theirs.fileno(),),
            env={**os.environ, "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)},
            start_new_session=True,  # it kills its own
        )
        try:
            code = driver.wait(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
        end = time.monotonic() + 60
        while folder.exists() and time.monotonic() < end:
            time.sleep(0.1)

        assert (code, folder.exists()) == (-signal.SIGKILL, False)
