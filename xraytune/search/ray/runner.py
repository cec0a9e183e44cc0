"""Run a queue of trials on Ray, from a process that survives Ray.

A child process talks to Ray (`search/ray/driver.py`) and asks this one over a pipe which trials to run and to stop. All
decisions are made and saved here. If Ray dies, the child dies with it; it is started again, and the trials that ran resume
from their checkpoints.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from xraytune.base.cores import cpu_count
from xraytune.base.errors import MachineError, Problem, XraytuneError
from xraytune.base.files import read_bytes
from xraytune.nets.compute import Allocation, Share, allocation_of
from xraytune.search.ray import receive, send
from xraytune.search.ray.setup import private_folder, protect_token, why_ray_cannot_start
from xraytune.search.trial_queue import TrialQueue
from xraytune.space.settings import Settings
from xraytune.study.folder import SCRATCH_NAME, StudyFolder, format_versions, numeric_releases
from xraytune.study.messages import OWNER_FILE, Callbacks, TrialSuggestion

# Ray reads these when it is imported or started: no log files, tables or snapshots of Tune's own.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the child gets SIGUSR1 instead
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",  # else a process for each core, none of which a trial uses
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # start processes in parallel; `slots` is the limit
}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes Ray listen on 127.0.0.1 only, on Linux too; `ray.init(_node_ip_address="127.0.0.1")` would not."""
_ONE_ATTEMPT = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
"""An attempt takes 40 seconds; by default Ray retries for a quarter of an hour if there is no cluster."""
_FRUITLESS_STARTS = 3
_LATE_SECONDS = 60.0
_HEARTBEAT_SECONDS = 1.0
_STOP_SECONDS = 20.0  # longer than Tune's own limit; Tune waits forever for a trial that it cannot place
_SHUTDOWN_SECONDS = 20.0


class _RayDiedError(Exception):
    """The child process ended, or Ray did not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The CPU cores and GPUs of one node."""

    cpus: float
    gpus: float


def slots(allocation: Allocation, nodes: Sequence[Node]) -> int:
    """Return how many trials run at once, each on one node; raise MachineError if no node has room for one."""
    trial = allocation.trial
    count = sum(_slots_on(trial, node) for node in nodes)
    if count == 0:
        needed = f"a trial needs {trial.cpus} CPU cores and {trial.gpus:g} GPUs"
        each = sorted({f"{node.cpus:g} and {node.gpus:g}" for node in nodes})
        several = f"no machine has that many; they have {', '.join(each) or 'none'}"
        found = f"the machine has {each[0]}" if len(nodes) == 1 else several
        fix = "lower resources.cpus_per_trial or gpus_per_trial"
        raise MachineError(Problem(f"{needed}; {found}", "resources", fix))
    return min(count, allocation.concurrent or count)


def occupied(allocation: Allocation, share: Share, times: int, nodes: Sequence[Node]) -> dict[str, float]:
    """Return `times` a share as Ray takes it: at most all of the largest node that can run a trial."""
    cpus, gpus = float(share.cpus * times), share.gpus * times
    fitting = (node for node in nodes if _slots_on(allocation.trial, node))
    most_gpus, most_cpus = max((min(gpus, node.gpus), min(cpus, node.cpus)) for node in fitting)
    return {name: value for name, value in (("CPU", most_cpus), ("GPU", most_gpus)) if value}


def _slots_on(share: Share, node: Node) -> int:
    by_cpu = int(node.cpus / share.cpus)
    return min(by_cpu, int(node.gpus / share.gpus + 1e-9)) if share.gpus else by_cpu


class Runner:
    """Ray, started for the first trial; a context manager that shuts it down.

    Without the `address` of a cluster, Ray starts on this machine. The study's `.ray.log` has Ray's output while it runs,
    and stays if an error refers to it. `token` is that of the study's lock.
    """

    def __init__(
        self,
        study: StudyFolder,
        *,
        token: str,
        allocation: Allocation,
        cache: Path,
        address: str | None,
        callbacks: Callbacks,
    ) -> None:
        self._study, self._token, self._allocation, self._cache = study, token, allocation, cache
        self._address, self._callbacks, self._log = address, callbacks, study.path / ".ray.log"
        self._child: _Child | None = None
        self._has_run = False

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._end_child()
        problems = error.problems if isinstance(error, MachineError) else ()
        if all(problem.where != self._log for problem in problems):
            self._log.unlink(missing_ok=True)

    def run(self, queue: TrialQueue, *, reuse_actors: bool = False) -> None:
        """Run the trials of a queue until it is done. Its folder also contains the split and the environment.

        With `reuse_actors`, a process runs several trials in turn, which then start seconds sooner. In the dashboard it has
        the name of the folder, since Ray fixes the name of a process when it starts.

        Raises:
            XraytuneError: From `queue`, such as a full disk.
            MachineError: Ray cannot or does not start, or dies repeatedly.
            KeyboardInterrupt: Ctrl-C or SIGTERM; running trials stay unfinished.
        """
        folder, note, lock = queue.folder, self._callbacks.note, str(self._study.lock_path)
        of_all = {"study": str(folder.path), "cache": str(self._cache), "lock": lock, "token": self._token}
        if reuse_actors:
            of_all["process"] = f"{folder.path.name}: several trials in turn"
        allocation = self._allocation.with_threads_of(folder.compute())
        queue.generator_slots = allocation.generator_slots
        scratch = str(folder.path / SCRATCH_NAME)
        options = {"study": self._study.path.name, "scratch": scratch, "reuse_actors": reuse_actors}
        fruitless, why = 0, "Tune ended"
        with _signals() as caught:
            while not queue.is_done:
                server = _QueueServer(queue, self._study.path.name, of_all, allocation, note)
                try:
                    (self._child or self._start(caught)).run(options, server, caught)
                except _RayDiedError as error:
                    self._end_child()
                    why = str(error)
                if caught:
                    raise KeyboardInterrupt
                queue.on_ray_lost()  # no trial runs now, even if Tune did not end properly
                queue.heartbeat(0)
                fruitless = 0 if server.has_results else fruitless + 1
                if queue.is_done:
                    return
                if fruitless == _FRUITLESS_STARTS:
                    what = f"Ray ended {fruitless} times before a trial reported anything; the last time: {why}"
                    fix = "if the machine was overloaded, run the same command again; otherwise, run `xraytune doctor`"
                    raise MachineError(Problem(what, self._log, fix))
                if self._child is None:
                    note(f"{why}; restarting Ray and resuming the trials")

    def _start(self, caught: list[int]) -> _Child:
        if self._address is None:
            if problem := why_ray_cannot_start():
                raise MachineError(problem)
            protect_token()
        note = self._callbacks.note
        note("starting Ray ..." if self._address is None else f"connecting to Ray at {self._address} ...")
        try:
            self._child = _started(self._address, self._log, caught, note)
        except MachineError as error:
            if self._has_run:  # a head node takes a while to restart
                raise _RayDiedError(error.problems[0].what) from error
            raise
        self._has_run = True
        slots(self._allocation, self._child.nodes)
        self._callbacks.on_start(self._study.path, self._child.dashboard)
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def survey(address: str, settings: Settings, *, note: Callable[[str], None]) -> tuple[Allocation, dict[str, Any]]:
    """Return the resources of trials on a cluster, and the `environment` of a node that can run one.

    The resources are those of the cluster's GPUs, not of this machine's.

    Raises:
        MachineError: No cluster answers, it has no room for a trial, or its torch has another version or sees no GPU.
    """
    note(f"connecting to Ray at {address} ...")
    with TemporaryDirectory() as folder:
        log = Path(folder, "ray.log")
        try:
            with closing(_started(address, log, [], note)) as child:
                allocation = allocation_of(settings, has_gpu=any(node.gpus >= 1 for node in child.nodes))
                slots(allocation, child.nodes)
                found = child.ask({"look": occupied(allocation, allocation.trial, 1, child.nodes)})
        except _RayDiedError as error:
            last_line = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
            what = f"{error} while it checked a machine: {last_line or 'it left no message'}"
            raise MachineError(Problem(what, address, "run the same command again")) from error
    if "problem" in found:
        raise MachineError(Problem(*found["problem"]))
    environment: dict[str, Any] = found["environment"]
    environment["compute"]["generator_threads"] = allocation.generator.cpus
    if (theirs := numeric_releases(environment["packages"])) != (ours := numeric_releases()):
        what = f"the cluster has {format_versions(theirs)}, but this machine has {format_versions(ours)}"
        raise MachineError(Problem(what, address, "install the same versions on all machines"))
    return allocation, environment


def _started(address: str | None, log: Path, caught: list[int], note: Callable[[str], None]) -> _Child:
    """Try without a token, then with one: a cluster without tokens would lose every trial of a search that has one."""
    for auth in ("disabled", "token"):
        with ExitStack() as stack:
            child = stack.enter_context(closing(_Child(address, log, auth, note)))
            if not (refusal := child.start(caught)):
                stack.pop_all()
                return child
    fix = (
        "put the output of `ray get-auth-token` on the cluster's head node into ~/.ray/auth_token here; "
        "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, if set, takes precedence"
    )
    raise MachineError(Problem(refusal, str(address), fix))


@dataclass(slots=True)
class _QueueServer:
    """Answer the child's questions about a queue."""

    queue: TrialQueue
    study: str
    of_all: Mapping[str, str]
    """The part of the config that all trials have."""
    allocation: Allocation
    note: Callable[[str], None]
    has_results: bool = False
    _placed: dict[int, tuple[str, float]] = field(default_factory=dict)
    _waits_for_nodes: bool = False
    _slots: int = 0

    def heartbeat(self) -> None:
        self.queue.heartbeat(self._slots)
        for number, (claim, since) in list(self._placed.items()):
            if time.monotonic() - since >= _LATE_SECONDS:
                del self._placed[number]
                if self._claim(number) == claim:
                    self.note(f"#{number} has not started for a minute: Ray has no room for it, or its node is slow")

    def _claim(self, number: int) -> str:
        """Return the process that started a trial last; "" if none did."""
        try:
            return read_bytes(self.queue.folder.trial_path(number) / OWNER_FILE, "JSON file").decode(errors="replace")
        except OSError:
            return ""

    def answer(self, question: Mapping[str, Any]) -> Any:
        match question:
            case {"next": nodes}:
                return self._next_trial(_nodes(nodes))
            case {"on_result": [number, message]}:
                self.has_results = True
                return self.queue.on_result(number, message)
            case {"lost": [number, out_of_memory]}:
                return self.queue.on_trial_lost(number, out_of_memory=out_of_memory)
            case {"statistics": _}:
                with suppress(OSError, XraytuneError):  # the search continues without statistics
                    return self.queue.statistics(self._slots)
                return {}
        raise AssertionError(question)

    def _next_trial(self, nodes: Sequence[Node]) -> Any:
        try:
            self._slots = slots(self.allocation, nodes)
        except MachineError as error:  # all nodes that can run a trial have left; others may join
            if not self._waits_for_nodes:
                self.note(f"waiting for a machine to join: {error.problems[0].what}")
            self._waits_for_nodes, self._slots = True, 0
            return None
        self._waits_for_nodes = False
        suggestion = self.queue.next_trial(self._slots)
        if not isinstance(suggestion, TrialSuggestion):
            return None if suggestion == "wait" else suggestion
        self._placed[suggestion.number] = self._claim(suggestion.number), time.monotonic()
        share = self.allocation.generator if suggestion.only_generator else self.allocation.trial
        resources = occupied(self.allocation, share, suggestion.share, nodes)
        self.queue.on_trial_placed(suggestion.number, resources.get("GPU", 0.0))
        name = f"{self.study} {self.queue.label(suggestion)}"
        return {
            "process": name,
            **self.of_all,
            "number": suggestion.number,
            "label": name,
            "only_generator": suggestion.only_generator,
            "images_per_step": suggestion.parameters.images_per_step,
            "gpu_share": share.gpus,
            "resources": resources,
        }


def _nodes(found: Sequence[Mapping[str, float]]) -> tuple[Node, ...]:
    return tuple(Node(**node) for node in found)


class _Child:
    """The process that talks to Ray."""

    dashboard: str
    nodes: tuple[Node, ...]

    def __init__(self, address: str | None, log: Path, auth: str, note: Callable[[str], None]) -> None:
        self._address, self._note, self._is_busy = address, note, True
        self._temporary = None if address else private_folder()
        folder = self._temporary.name if self._temporary else ""
        where = {**_LOOPBACK, "RAY_TMPDIR": folder, "TMPDIR": folder}
        if address:
            where = {**_ONE_ATTEMPT, "RAY_AUTH_MODE": auth}
        self._connection, theirs = Pipe()
        descriptor = theirs.fileno()
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "xraytune.search.ray.driver", str(descriptor), folder],
                pass_fds=(descriptor,),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env={**os.environ, **_ENVIRONMENT, **where},
                start_new_session=True,  # the terminal's Ctrl-C goes to the search alone
            )
        theirs.close()

    def start(self, caught: Sequence[int]) -> str:
        """Start Ray; return why the cluster refuses it, for want of a token, else ""."""
        self._send({"address": self._address, "cpus": cpu_count()})
        while not self._connection.poll(_HEARTBEAT_SECONDS):
            if caught:
                self._note(f"{signal.Signals(caught[0]).name}: stopping before Ray has started")
                raise KeyboardInterrupt
        found = self._receive()
        if "failed" in found:
            raise _RayDiedError(found["failed"])
        self._is_busy = False
        if "refused" in found:
            return str(found["refused"])
        if "unavailable" in found:
            fix = "start it (`ray start --head`), or omit --address to use this machine alone"
            raise MachineError(Problem(found["unavailable"], str(self._address), fix))
        self.dashboard, self.nodes = found["dashboard"], _nodes(found["nodes"])
        return ""

    def run(self, options: dict[str, Any], server: _QueueServer, caught: Sequence[int]) -> None:
        """Answer questions until Tune has run all trials."""
        self._is_busy, stopping_since = True, 0.0
        self._send(options)
        while True:
            if stopping_since and time.monotonic() - stopping_since >= _STOP_SECONDS:
                raise _RayDiedError("Ray does not stop its trials")
            if caught and not stopping_since:
                stopping_since = time.monotonic()
                self._note(f"{signal.Signals(caught[0]).name}: shutting down cleanly, which takes some seconds")
                with suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGUSR1)
            server.heartbeat()
            if not self._connection.poll(_HEARTBEAT_SECONDS):
                continue
            question = self._receive()
            if question == "ended":
                self._is_busy = False
                return
            self._send(server.answer(question))

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a task on a node with room for a trial."""
        self._is_busy = True
        self._send(question)
        while not self._connection.poll(_LATE_SECONDS):
            self._note("still waiting for a machine with room for a trial: other jobs are using it, or it is slow")
        found: dict[str, Any] = self._receive()
        self._is_busy = False
        return found

    def close(self) -> None:
        """End the process, and with it Ray: cleanly if it is idle, else at once. Delete the temporary files."""
        self._connection.close()
        if not self._is_busy:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_SHUTDOWN_SECONDS)
        with suppress(ProcessLookupError):  # all of them are gone
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session, which includes Ray's processes
        self._process.wait()
        if self._temporary:
            self._temporary.cleanup()

    def _send(self, content: Any) -> None:
        try:
            send(self._connection, content)
        except OSError:
            raise _RayDiedError("Ray died") from None

    def _receive(self) -> Any:
        try:
            return receive(self._connection)
        except (EOFError, OSError):
            raise _RayDiedError("Ray died") from None


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, as queues send it; a second one ends the process at once."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    with ExitStack() as restored:
        for number in numbers:
            restored.callback(signal.signal, number, signal.signal(number, end))
        yield caught
