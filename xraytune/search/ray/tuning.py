"""A `tune.run` whose trials come from the loop of the search, and which it stops.

`JournalSearcher` gives Tune its trials, and `JournalScheduler` tells the loop what they report. The
loop records each decision before Tune hears of it. Tune starts afresh each time; its own state is
never restored.
"""

import os
import platform
import re
import shutil
import sys
import time
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from xraytune.base.errors import MachineError, Problem, XraytuneError
from xraytune.base.files import explain_disk_errors
from xraytune.base.locks import build_lock
from xraytune.base.records import Node, Note
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import (
    Answer,
    Call,
    Progressed,
    Survey,
    TrialLoop,
    TuneRun,
    UnfitNodeError,
    count_slots,
    reserve,
)
from xraytune.search.ray.actor import ShowTrials, TrialActor
from xraytune.space.allocation import Allocation, Share, allocation_of
from xraytune.space.recorded import declare_recorded
from xraytune.study.folder import SCRATCH_NAME, environment
from xraytune.study.trial import (
    LOST,
    LOST_WITH_NODE,
    OUT_OF_MEMORY,
    Job,
    OpenTrial,
    TrialFailed,
)

_LIST_NODES_SECONDS = 2.0
_NOTE_SECONDS = 5
_ADDRESS_OF_ERROR = re.compile(r"\bip=([0-9a-f.:]+)")
"""The node in Ray's error of an actor."""
_RAY_DIES_SECONDS = 0.5
"""Longer than this process takes to see that one of Ray is gone, and to end."""


def serve(connection: Connection, dashboard: str) -> None:
    """Do what the search, the parent process, requests, until it closes the pipe."""

    def call(name: str, *arguments: object) -> None:
        connection.send(Call(name=name, arguments=arguments))

    callbacks = Callbacks(**{field.name: partial(call, field.name) for field in fields(Callbacks)})
    is_shown = False
    while True:
        request: TuneRun | Survey = connection.recv()
        answer = Answer()
        with report_errors(connection):
            if isinstance(request, TuneRun):
                if not is_shown:
                    log_to(request.study_folder.log_path)
                    callbacks.on_start(request.study_folder.path, dashboard)
                is_shown = True
                declare_recorded(request.study_folder.path)
                run_trials(connection, callbacks, request)
            else:
                answer = Answer(value=survey(request, callbacks.note))
        connection.send(answer)


def log_to(log: Path) -> None:
    """Append to a log whatever this process and those of Ray write from now on."""
    with explain_disk_errors(log), log.open("ab") as stream:
        stream.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} trials start\n".encode())
        for output in (sys.stdout, sys.stderr):
            output.flush()
            os.dup2(stream.fileno(), output.fileno())


@contextmanager
def report_errors(connection: Connection) -> Iterator[None]:
    """Let the parent raise an error of the block, and end this process.

    Tune would treat it as that of a trial.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001  passed on
        if not isinstance(error, XraytuneError):
            error.add_note(traceback.format_exc())
        connection.send(error)
        os._exit(1)


class Nodes:
    """The nodes that run trials, which may join and leave; those that cannot run any are left out.

    Attributes:
        left_out: Ray's identifiers of the nodes that get no more trials.
    """

    def __init__(self, allocation: Allocation, note: Note) -> None:
        self.left_out: tuple[str, ...] = ()
        self._allocation = allocation
        self._note = note
        self._nodes: list[Node] = []
        self._listed = -_LIST_NODES_SECONDS

    def list(self) -> list[Node]:
        """Return the nodes that are there, as of the last two seconds."""
        if time.monotonic() - self._listed >= _LIST_NODES_SECONDS:
            self._listed = time.monotonic()
            self._nodes = list_nodes(self.left_out)
        return self._nodes

    def leave_out(self, node: str | None, error: UnfitNodeError) -> None:
        """Give a node no more trials, and say so once.

        Raises the `error` if the node is not known, or no other one has room for a trial.
        """
        if node is None:
            raise error
        if node in self.left_out:
            return
        self.left_out = (*self.left_out, node)
        self._nodes = list_nodes(self.left_out)
        if count_slots(self._allocation, self._nodes) == 0:
            raise error
        self._note(f"a node gets no more trials: {error}")


class JournalSearcher(Searcher):
    """Give Tune the trials of the loop."""

    def __init__(
        self, connection: Connection, loop: TrialLoop, request: TuneRun, nodes: Nodes
    ) -> None:
        super().__init__()
        self._connection = connection
        self._loop = loop
        self._request = request
        self._nodes = nodes
        self._waits_for_nodes = False

    # FINISHED is a str
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the config of a trial for a free slot; FINISHED if all trials have ended.

        None lets Tune ask again later.
        """
        with report_errors(self._connection):
            self._loop.heartbeat()
            allocation = self._request.allocation
            nodes = self._nodes.list()
            slots = count_slots(allocation, nodes)
            if slots == 0 and not self._waits_for_nodes:
                what = f"waiting for a node with {allocation.trial}"
                self._connection.send(Call(name="note", arguments=(what,)))
            self._waits_for_nodes = slots == 0
            trial = self._loop.next_trial(slots, partial(reserve, allocation, nodes))
            if trial == "done":
                return str(Searcher.FINISHED)
            if isinstance(trial, OpenTrial):
                job = Job(
                    study_folder=self._loop.study_folder,
                    cache=self._request.cache,
                    number=trial.number,
                    reports_every_epoch=self._loop.stops_trials,
                    label=f"{self._request.study_folder.path.name} {trial.label}",
                    resources=trial.resources,
                    trains_alone=trial.trains_alone,
                    nodes_left_out=self._nodes.left_out,
                    has_choice=len(nodes) > 1,
                )
                return {"job": job}
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the scheduler tells the loop."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's journal has everything."""


class JournalScheduler(FIFOScheduler):
    """Tell the loop what trials report.

    The loop records it, and decides by ASHA whether a trial continues.
    """

    def __init__(self, connection: Connection, loop: TrialLoop, nodes: Nodes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._connection = connection
        self._loop = loop
        self._nodes = nodes

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continue or stop, as the loop decides."""
        with report_errors(self._connection):
            self._connection.send(Progressed())
            try:
                if self._loop.on_result(trial.config["job"].number, result["message"]):
                    return str(TrialScheduler.CONTINUE)
            except UnfitNodeError as error:
                self._nodes.leave_out(result["node"], error)
        return str(TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tell the loop of a lost process; if Ray itself died, this process ends before it can."""
        time.sleep(_RAY_DIES_SECONDS)
        number: int = trial.config["job"].number
        with report_errors(self._connection):
            # `get_error` reads a copy, which Tune makes later. There is no file if the trial was
            # lost before it had a folder.
            file = trial.error_file
            error = Path(file).read_text(encoding="utf-8") if file else ""
            message = LOST
            if "its node has died" in error:
                message = LOST_WITH_NODE
            elif "ModuleNotFoundError" in error:
                what = f"a node cannot run trials: {error.strip().splitlines()[-1]}"
                message = TrialFailed(reason=what, cause="machine")
            elif "OutOfMemory" in error or "running low on memory" in error:
                message = OUT_OF_MEMORY
            try:
                self._loop.on_result(number, message)
            except UnfitNodeError as unfit:
                self._nodes.leave_out(node_of_error(error), unfit)


def run_trials(connection: Connection, callbacks: Callbacks, request: TuneRun) -> None:
    """Run trials until all have ended."""
    # The process before this one may not have ended.
    with build_lock(request.study_folder.driver_lock_path):
        loop = request.make_loop(callbacks)
        nodes = Nodes(request.allocation, callbacks.note)
        scratch = loop.study_folder.path / SCRATCH_NAME
        shutil.rmtree(scratch, ignore_errors=True)  # of a killed process
        tune.run(
            TrialActor,
            name="tune",
            storage_path=str(scratch),
            num_samples=-1,
            search_alg=JournalSearcher(connection, loop, request, nodes),
            scheduler=JournalScheduler(connection, loop, nodes),
            callbacks=[ShowTrials(loop.on_placed)],
            max_failures=0,  # the loop decides on retries
            raise_on_failed_trial=False,
            reuse_actors=True,
            trial_dirname_creator=attrgetter("trial_id"),
            verbose=0,
        )
    shutil.rmtree(scratch, ignore_errors=True)


def living_nodes() -> list[dict[str, Any]]:
    """Return Ray's records of the nodes that are there now."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def node_of_error(error: str) -> str | None:
    """Return the identifier of the node that an error of Ray is from; None if that is unclear."""
    address = _ADDRESS_OF_ERROR.search(error)
    nodes = [
        str(node["NodeID"])
        for node in living_nodes()
        if address and node["NodeManagerAddress"] == address.group(1)
    ]
    return nodes[0] if len(nodes) == 1 else None


def list_nodes(left_out: Collection[str] = ()) -> list[Node]:
    """Return the nodes that are there now, but for those `left_out`, by Ray's identifiers."""
    resources = [node["Resources"] for node in living_nodes() if node["NodeID"] not in left_out]
    return [Node(cpus=node.get("CPU", 0.0), gpus=node.get("GPU", 0.0)) for node in resources]


def survey(request: Survey, note: Note) -> tuple[Allocation, dict[str, Any]]:
    """Return the resources of trials, and the `environment` of a node with room for one.

    Wait for such a node, which an autoscaler may have to start. If the request does not say whether
    trials use GPUs, they do if the cluster has any, or no cores yet.

    Raises:
        MachineError: The node lacks xraytune, or torch sees no GPU there.
    """
    has_gpu = request.has_gpu
    if has_gpu is None:
        nodes = list_nodes()
        has_gpu = any(node.gpus >= 1 for node in nodes) or not any(node.cpus for node in nodes)
    allocation = allocation_of(request.settings, has_gpu=has_gpu)
    most = allocation.most
    answer = describe_node.options(num_cpus=most.cpus, num_gpus=most.gpus).remote(allocation.trial)
    if not ray.wait([answer], timeout=_NOTE_SECONDS)[0]:
        note(f"waiting for a node with {most} free; if the cluster has none, lower resources")
    try:
        record = ray.get(answer)
    except ray.exceptions.RayError as error:  # such as a node without xraytune
        last_line = str(error).strip().rpartition("\n")[2]
        raise MachineError(
            f"a node does not answer: {last_line}", fix="install the same versions on all machines"
        ) from error
    if isinstance(record, Problem):
        raise MachineError(record)
    return allocation, record


@ray.remote(max_calls=1)
def describe_node(trial: Share) -> dict[str, Any] | Problem:
    """Return the `environment` of the node that runs this, or what it lacks."""
    from xraytune.nets.compute import choose_compute  # imports torch, which this process avoids

    try:
        return environment(choose_compute(gpus=trial.gpus, threads=trial.cpus))
    except MachineError as error:
        problem = error.problems[0]
        return Problem(f"on {platform.node()}: {problem.what}", problem.where, problem.fix)
