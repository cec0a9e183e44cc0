"""The process in which Ray Tune runs: `python -m xraytune.search.ray.driver PIPE`.

It starts Ray, or connects to a cluster, and does what the search, its parent, orders. It may die at
any moment, with all of Ray: the search starts another one, whose loop continues from the same
files. It ends itself when the search or a process of Ray is gone, since Tune would wait forever.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

import ray
from ray.job_config import JobConfig

from xraytune.base.errors import MachineError, Problem
from xraytune.search.ray.internals import free_agent_port, survive_memory_monitor
from xraytune.search.ray.setup import processes_of, remove_with_processes

_LOOK_SECONDS = 0.05
_OBJECT_STORE_BYTES = 200 * 2**20  # trials exchange paths, not arrays
_CLUSTER_FIX = (
    "start it (`ray start --head`), or omit --address to use this machine alone; if it requires "
    "a token, put the output of `ray get-auth-token` on its head node into ~/.ray/auth_token here"
)


def main(descriptor: int) -> None:
    """Serve the search until it closes the pipe.

    If the search is killed, delete its folder of temporary files.
    """
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    search, folder, address, cpus, study = connection.recv()
    vital: list[int] = []
    threading.Thread(target=_end_with, args=(search, folder, vital), daemon=True).start()
    import_module("ray.tune")
    # torch, which the loop needs, takes seconds to import. Meanwhile, Ray starts.
    importing = threading.Thread(target=import_module, args=("xraytune.search.trials",))
    importing.start()
    try:
        dashboard = _start_ray(address, cpus, study)
    except MachineError as error:
        connection.send(error)
        return
    if folder:
        vital += [
            pid
            for pid, name in processes_of(Path(folder)).items()
            if name in ("raylet", "gcs_server")
        ]
    survive_memory_monitor()
    connection.send((dashboard,))
    importing.join()
    from xraytune.search.ray.tuning import serve

    with suppress(EOFError):
        serve(connection)


def _start_ray(address: str, cpus: int, study: str) -> str:
    """Start Ray, or connect to the cluster; return the dashboard's address, "" if there is none."""
    local = {
        # A bare init() would wait for a dead cluster whose address an earlier run left behind.
        "address": "local",
        "num_cpus": cpus,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
    }
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    free_agent_port()
    try:
        context = ray.init(
            **({"address": address} if address else local),
            job_config=JobConfig(metadata={"job_name": study}),  # the dashboard shows it
            logging_level=logging.CRITICAL,
            log_to_driver=False,
        )
    except Exception as error:
        if not address:
            raise
        first_line = str(error).strip().partition("\n")[0]
        what = f"cannot connect to the Ray cluster: {first_line}"
        raise MachineError(Problem(what, address, _CLUSTER_FIX)) from error
    return f"http://{context.dashboard_url}" if context.dashboard_url else ""


def _end_with(search: int, folder: str, vital: list[int]) -> None:
    """End this process, and with it Ray, when the search or a vital process of Ray is gone."""
    while os.getppid() == search and not any(map(_has_ended, vital)):
        time.sleep(_LOOK_SECONDS)
    if folder:
        remove_with_processes(Path(folder))
    os._exit(1)


def _has_ended(child: int) -> bool:
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # Ray has waited for it
        return True


if __name__ == "__main__":
    main(int(sys.argv[1]))
