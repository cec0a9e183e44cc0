"""The process in which Ray Tune runs, a child of the search; its arguments are those of `main`.

It starts Ray, or connects to a cluster, and does what the search requests. It may die at any
moment, with all of Ray: the search starts another one, whose loop continues from the same files. It
ends itself when the search or a process of Ray is gone, since Tune would wait forever.
"""

import logging
import os
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray

from xraytune.base.errors import MachineError
from xraytune.search.ray.internals import start_for_one_search, survive_memory_monitor
from xraytune.search.ray.setup import processes_of, remove_with_processes

_LOOK_SECONDS = 0.05
_OBJECT_STORE_BYTES = 200 * 2**20  # trials exchange paths, not arrays
_CLUSTER_FIX = (
    "start it (`ray start --head`), or omit --address to use this machine alone; if it requires "
    "a token, put the output of `ray get-auth-token` on its head node into ~/.ray/auth_token here"
)


def main(pipe: str, search: str, cpus: str, folder: str, address: str) -> None:
    """Serve the search, a process, until it closes the pipe.

    `folder` has the temporary files of a Ray that starts here, and is deleted if the search is
    killed; it is "" on the cluster of an `address`.
    """
    os.set_inheritable(int(pipe), False)
    connection = Connection(int(pipe))
    vital: list[int] = []
    threading.Thread(target=_end_with, args=(int(search), folder, vital), daemon=True).start()
    from xraytune.search.ray.tuning import serve  # takes a second, after the thread has started

    import_module("xraytune.search.trials")  # which most requests need
    try:
        connection.recv()  # waits until `Runner.start` sends something
    except EOFError:  # the search has ended
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    where: dict[str, Any] = {"address": address}
    if folder:
        start_for_one_search()
        where = {
            # A bare init() would wait for a dead cluster whose address an earlier run left behind.
            "address": "local",
            "num_cpus": int(cpus),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
        }
    try:
        context = ray.init(
            **where,
            logging_level=logging.CRITICAL,
            log_to_driver=False,
        )
    except Exception as error:
        if folder:
            raise
        first_line = str(error).strip().partition("\n")[0]
        what = f"cannot connect to the Ray cluster: {first_line}"
        connection.send(MachineError(what, address, _CLUSTER_FIX))
        return
    if folder:
        for process, name in processes_of(Path(folder)).items():
            if name in ("raylet", "gcs_server"):
                vital.append(process)
    survive_memory_monitor()
    with suppress(EOFError):
        serve(connection, f"http://{context.dashboard_url}" if context.dashboard_url else "")


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
    main(*sys.argv[1:])
