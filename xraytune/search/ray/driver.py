"""The process that talks to Ray: `python -m xraytune.search.ray.driver PIPE FOLDER ADDRESS CPUS SEARCH STUDY`.

It starts Ray, or connects to the cluster at ADDRESS if that is not empty, and runs trials with Tune. It makes no decisions
and saves nothing: it asks the search, its parent, over a pipe. So it may die at any moment, with all of Ray, and the search
starts another one. It ends itself when the process SEARCH or one of Ray is gone, since Tune would wait forever. Tune starts
afresh each time; its own state is never restored.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.job_config import JobConfig
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from xraytune.search import messages
from xraytune.search.ray.actor import TrialActor, started_trial
from xraytune.search.ray.dashboard import ShowTrials
from xraytune.search.ray.internals import exit_codes, free_agent_port, install_guards
from xraytune.search.ray.nodes import Nodes

_LIST_NODES_SECONDS = 2.0
_LOOK_SECONDS = 0.05
_RAY_DIES_SECONDS = 0.5
"""Longer than `_end_with` takes to see that a process of Ray is gone."""
_OBJECT_STORE_BYTES = 200 * 2**20  # trials exchange paths, not arrays


class LoopClient:
    """The search's loop, as this process sees it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(self, question: messages.Question) -> Any:
        """Return the answer of `TrialLoop.run`."""
        messages.send(self._connection, question)
        return messages.receive(self._connection)

    def continues(self, question: messages.TrialReported | messages.TrialLost) -> bool:
        """Return whether a trial continues."""
        return bool(self.ask(question).continues)


class LoopSearcher(Searcher):
    """Give Tune the trials of the loop."""

    def __init__(self, loop: LoopClient, nodes: Nodes) -> None:
        super().__init__()
        self._loop, self._nodes, self._listed = loop, nodes, time.monotonic()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """Return the config of a trial for a free slot; None: ask again later; FINISHED: all trials have ended."""
        if (now := time.monotonic()) - self._listed >= _LIST_NODES_SECONDS:
            self._listed = now
            self._nodes.update()  # they may join and leave
        left_out, self._nodes.left_out = tuple(self._nodes.left_out), []
        question = messages.SlotFree(nodes=self._nodes.usable(), left_out=left_out)
        answer: messages.StartTrial | messages.NoTrial = self._loop.ask(question)
        if isinstance(answer, messages.StartTrial):
            return {"trial": messages.encode(answer), "avoided": self._nodes.avoided()}
        return str(Searcher.FINISHED) if answer.is_done else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the scheduler reports it."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's journal has everything."""


class LoopScheduler(FIFOScheduler):
    """Pass every message of a trial to the loop."""

    def __init__(self, loop: LoopClient, nodes: Nodes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._loop, self._nodes = loop, nodes

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continue or stop, as the loop decides, or since the node is drained."""
        number, message, node = started_trial(trial.config).job.number, result["message"], result["node"]
        match messages.decode(message):
            case messages.MachineStopped(reason=reason):
                self._nodes.leave_out(node, reason)
        others = len(self._nodes.usable())
        reported = messages.TrialReported(number=number, message=message, node=node, other_nodes=others)
        should_continue = self._loop.continues(reported)
        if should_continue and node in self._nodes.drained:
            should_continue = self._loop.continues(messages.TrialLost(number=number, node_leaves=True))
        return str(TrialScheduler.CONTINUE if should_continue else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Report a lost process; if Ray itself died, this process ends before it can."""
        number = started_trial(trial.config).job.number
        time.sleep(_RAY_DIES_SECONDS)
        error = Path(trial.error_file).read_text(encoding="utf-8")  # `get_error` reads a copy, which Tune makes later
        out_of_memory = "OutOfMemory" in error or "running low on memory" in error
        node_leaves = "its node has died" in error
        self._loop.continues(messages.TrialLost(number=number, out_of_memory=out_of_memory, node_leaves=node_leaves))


def main(descriptor: int, folder: str, address: str, cpus: int, search: int, study: str) -> None:
    """Serve the search until it closes the pipe; if the search is killed, delete its folder of temporary files."""
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    threading.Thread(target=_end_with, args=(search, folder), daemon=True).start()
    with suppress(EOFError):
        reply = _start_ray(address, cpus, study)
        messages.send(connection, reply)
        if isinstance(reply, messages.RayNotStarted):
            return
        nodes = Nodes()
        while True:
            match messages.receive(connection):
                case messages.LookAtNodes(needs=needs):
                    nodes.needs = needs
                    messages.send(connection, nodes.look_at_all())
                case messages.RunTrials() as order:
                    nodes.needs = order.needs
                    nodes.update()
                    _run(connection, order, nodes)
                    messages.send(connection, messages.RunEnded())
    ray.shutdown()


def _start_ray(address: str, cpus: int, study: str) -> messages.RayStarted | messages.RayNotStarted:
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
    except Exception as error:  # noqa: BLE001  Ray raises bare ones if one of its processes does not start in time
        if address and "AuthenticationError" in (text := traceback.format_exc()):  # often only in a cause's text
            lack = "has another one" if "InvalidAuthToken" in text else "has none"
            text = f"the Ray cluster requires a token, but this machine {lack}"
            return messages.RayNotStarted(why="refused", text=text)
        if address and isinstance(error, ConnectionError):
            return messages.RayNotStarted(why="unavailable", text=f"no Ray cluster answers: {error}")
        traceback.print_exc()  # into this process's log, which the search names if it gives up
        first_line = str(error).strip().partition("\n")[0]
        return messages.RayNotStarted(why="failed", text=f"Ray did not start: {first_line}")
    dashboard = f"http://{url}" if (url := context.dashboard_url) else ""
    nodes, warning = Nodes(), install_guards(is_local=not address)
    nodes.update()
    return messages.RayStarted(dashboard=dashboard, nodes=nodes.usable(), warning=warning)


def _run(connection: Connection, order: messages.RunTrials, nodes: Nodes) -> None:
    """Run trials until all have ended, or until SIGUSR1, Tune's own signal to stop."""
    loop = LoopClient(connection)
    try:
        tune.run(
            TrialActor,
            name="tune",
            storage_path=order.scratch,
            num_samples=-1,
            search_alg=LoopSearcher(loop, nodes),
            scheduler=LoopScheduler(loop, nodes),
            callbacks=[ShowTrials()],
            max_failures=0,  # the loop decides on retries
            raise_on_failed_trial=False,
            reuse_actors=order.reuse_actors,
            trial_name_creator=lambda trial: started_trial(trial.config).job.label,
            trial_dirname_creator=lambda trial: f"{started_trial(trial.config).job.number:04d}-{trial.trial_id}",
            verbose=0,
        )
    finally:
        shutil.rmtree(order.scratch, ignore_errors=True)


def _end_with(search: int, folder: str) -> None:
    """End this process, and with it Ray, when the search or a vital process of Ray is gone."""
    while os.getppid() == search and {*exit_codes()} <= {None}:
        time.sleep(_LOOK_SECONDS)
    # Ray's agents would live for another minute and write: kill them before their folder is removed.
    command = ["/bin/sh", "-c", 'kill -KILL -"$0"; sleep 1; rm -rf -- "$1"', str(os.getpgrp()), folder]
    subprocess.Popen(command, start_new_session=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
