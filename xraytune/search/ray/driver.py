"""The process in which Ray Tune runs: `python -m xraytune.search.ray.driver PIPE FOLDER ADDRESS CPUS SEARCH STUDY`.

It starts Ray, or connects to the cluster at ADDRESS if that is not empty, and does what the search,
its parent, orders. It may die at any moment, with all of Ray: the search starts another one, whose
loop continues from the same files. It ends itself when the process SEARCH or one of Ray is gone,
since Tune would wait forever.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection

import ray
from ray.job_config import JobConfig

from xraytune.base.errors import MachineError, Problem
from xraytune.search.ray.internals import exit_codes, free_agent_port, install_guards
from xraytune.search.ray.nodes import Nodes
from xraytune.search.ray.orders import Needs, RayDiedError, RayStarted, TokenRefusedError, TuneRun

_LOOK_SECONDS = 0.05
_OBJECT_STORE_BYTES = 200 * 2**20  # trials exchange paths, not arrays


def main(descriptor: int, folder: str, address: str, cpus: int, search: int, study: str) -> None:
    """Serve the search until it closes the pipe; if the search is killed, delete its folder of temporary files."""
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    threading.Thread(target=_end_with, args=(search, folder), daemon=True).start()
    import_module("ray.tune")
    # torch, which the loop needs, takes seconds to import. Meanwhile, Ray starts.
    importing = threading.Thread(target=import_module, args=("xraytune.search.trials",))
    importing.start()
    with suppress(EOFError):
        try:
            connection.send(_start_ray(address, cpus, study))
        except (RayDiedError, TokenRefusedError, MachineError) as error:
            connection.send(error)
            return
        nodes = Nodes()
        importing.join()
        from xraytune.search.ray.tuning import Search, run_trials

        while True:
            order: Needs | TuneRun = connection.recv()
            if isinstance(order, Needs):
                nodes.needs = order
                connection.send(nodes.look_at_all())
            else:
                nodes.needs = order.needs
                nodes.update()
                run_trials(Search(connection), order, nodes)
    ray.shutdown()


def _start_ray(address: str, cpus: int, study: str) -> RayStarted:
    local = {
        "address": "local",  # a bare init() would wait for a dead cluster whose address an earlier run left behind
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
        if address and "AuthenticationError" in (text := traceback.format_exc()):  # often only in a cause's text
            lack = "has another one" if "InvalidAuthToken" in text else "has none"
            raise TokenRefusedError(f"the Ray cluster requires a token, but this machine {lack}") from error
        if address and isinstance(error, ConnectionError):
            fix = "start it (`ray start --head`), or omit --address to use this machine alone"
            raise MachineError(Problem(f"no Ray cluster answers: {error}", address, fix)) from error
        traceback.print_exc()  # into this process's log, which the search names if it gives up
        first_line = str(error).strip().partition("\n")[0]
        raise RayDiedError(f"Ray did not start: {first_line}") from error
    dashboard = f"http://{url}" if (url := context.dashboard_url) else ""
    nodes, warning = Nodes(), install_guards(is_local=not address)
    nodes.update()
    return RayStarted(dashboard=dashboard, nodes=nodes.usable(), warning=warning)


def _end_with(search: int, folder: str) -> None:
    """End this process, and with it Ray, when the search or a vital process of Ray is gone."""
    while os.getppid() == search and {*exit_codes()} <= {None}:
        time.sleep(_LOOK_SECONDS)
    # Ray's agents would live for another minute and write: kill them before their folder is removed.
    command = ["/bin/sh", "-c", 'kill -KILL -"$0"; sleep 1; rm -rf -- "$1"', str(os.getpgrp()), folder]
    subprocess.Popen(command, start_new_session=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
