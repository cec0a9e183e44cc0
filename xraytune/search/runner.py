"""Runs trials on Ray, from a process that Ray cannot take down with it.

A child process speaks to Ray (`search/ray/driver.py`) and asks here, over a pipe, what to run and what to stop. Everything
that must last is decided and written here. When Ray dies, the child dies; here it is started again, and the trials that
ran go on from their checkpoints.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from xraytune.config.settings import Resources
from xraytune.cores import cpu_count
from xraytune.errors import MachineError, Problem
from xraytune.files import read_bytes
from xraytune.search.messages import CLAIM_FILE, Answer, TrialSuggestion, Work
from xraytune.search.ray.driver import receive, send
from xraytune.search.ray_needs import private_folder, protect_token, why_ray_cannot_start
from xraytune.search.resources import Node, gpus_of_trial, occupied, resolved, slots
from xraytune.search.study import StudyFolder, named, numeric_releases

# Ray reads these when it is imported or started: no log files, tables or snapshots of Tune's own.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the child is told by SIGUSR1
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",  # a process for each core, of which no trial takes one
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # processes start side by side; `slots` says how many
}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray then listens on 127.0.0.1 only, on Linux too; `ray.init(_node_ip_address="127.0.0.1")` would not achieve that."""
_ONE_ATTEMPT = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
"""Of 40 seconds: else Ray tries for a quarter of an hour to reach a cluster that is not there."""
_STARTS_WITHOUT_A_WORD = 3
_LATE_SECONDS = 60.0
_BEAT_SECONDS = 1.0
_STOP_SECONDS = 20.0  # longer than Tune gives its trials; it waits for ever for one that it has no room for
_SHUTDOWN_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What Ray offers: its dashboard's address ("" where there is none), and its machines."""

    dashboard: str
    nodes: tuple[Node, ...]


class _RayDiedError(Exception):
    """The child is gone, and with it Ray; or Ray did not start."""


class _RefusedError(Exception):
    """The cluster asks for a token."""


class _TokenError(MachineError):
    """The cluster asks for a token that this machine does not have."""


class Runner:
    """Ray, started when the first trial needs it; a context that ends it.

    Args:
        folder: The study; `.ray.log` in it has what Ray says while it runs, and stays where an error names it.
        token: Of the hold on the study.
        resources: Of one trial, resolved (`slots.resolved`).
        cache: The artifact cache.
        address: A Ray cluster; None: Ray starts on this machine.
        note: Told what a person should know.
        opened: Told the dashboard's address, "" where there is none.
    """

    def __init__(
        self,
        folder: StudyFolder,
        *,
        token: str,
        resources: Resources,
        cache: Path,
        address: str | None,
        note: Callable[[str], None],
        opened: Callable[[str], None],
    ) -> None:
        self._folder, self._token, self._resources, self._cache = folder, token, resources, cache
        self._address, self._note, self._opened = address, note, opened
        self._child: _Child | None = None
        self._has_run = False

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._end_child()
        problems = error.problems if isinstance(error, MachineError) else ()
        if all(problem.where != self._log for problem in problems):
            self._log.unlink(missing_ok=True)

    @property
    def _log(self) -> Path:
        return self._folder.path / ".ray.log"

    def run(
        self, work: Work, folder: StudyFolder, *, label: Callable[[TrialSuggestion], str], reuse_actors: bool = False
    ) -> None:
        """Run trials until there are no more.

        Args:
            work: Says which.
            folder: Holds each trial's `config.json`, the split and the environment.
            label: What the dashboard calls a trial.
            reuse_actors: Let a process run one trial after another. It then keeps the name of its first one, and each
                further trial starts seconds sooner.

        Raises:
            XraytuneError: What `work` raised, such as a full disk.
            MachineError: Ray cannot or does not start, or dies again and again.
            KeyboardInterrupt: Ctrl-C or SIGTERM; running trials stay unfinished and go on at the next start.
        """
        options = {
            "scratch": str(folder.scratch_path),
            "reuse_actors": reuse_actors,
        }
        silent, why = 0, "Tune ended"
        with _signals() as caught:
            while not work.is_done:
                served = _Served(
                    work,
                    folder,
                    lambda suggestion: self._config(folder, suggestion, label(suggestion)),
                    self._resources,
                    self._note,
                )
                try:
                    self._serve(served, options, caught)
                except _RayDiedError as error:
                    self._end_child()
                    why = str(error)
                if caught:
                    raise KeyboardInterrupt
                work.interrupted()  # nothing runs now, whatever Tune left undone
                silent = 0 if served.heard else silent + 1
                if work.is_done:
                    return
                if silent == _STARTS_WITHOUT_A_WORD:
                    what = f"Ray ended {silent} times before a trial said anything; the last time: {why}"
                    fix = "the same command goes on, as after a time of much load; or `xraytune doctor` says what is missing"
                    raise MachineError(Problem(what, self._log, fix))
                if self._child is None:
                    self._note(f"{why}; starting it again, and the trials go on")

    def _serve(self, served: _Served, options: dict[str, Any], caught: list[int]) -> None:
        child = self._child or self._start(caught)
        child.run(options, served, caught, self._note)

    def _start(self, caught: list[int]) -> _Child:
        if self._address is None:
            if problem := why_ray_cannot_start():
                raise MachineError(problem)
            protect_token()
        self._note("starting Ray ..." if self._address is None else f"connecting to Ray at {self._address} ...")
        try:
            self._child, cluster = _started(self._address, self._log, caught, self._note)
        except MachineError as error:
            if self._has_run and not isinstance(error, _TokenError):  # a head that is started again takes a while
                raise _RayDiedError(error.problems[0].what) from error
            raise
        self._has_run = True
        slots(self._resources, cluster.nodes)
        self._opened(cluster.dashboard)
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _config(self, folder: StudyFolder, suggestion: TrialSuggestion, label: str) -> dict[str, Any]:
        return {
            "study": str(folder.path),
            "cache": str(self._cache),
            "number": suggestion.number,
            "label": label,
            "gpu_share": gpus_of_trial(self._resources),
            "lock": str(self._folder.lock_path),
            "token": self._token,
        }


def survey(address: str, resources: Resources, *, note: Callable[[str], None]) -> tuple[Resources, dict[str, Any]]:
    """What a trial is given on a cluster, and the `environment` of a machine there on which it would run.

    Args:
        address: The cluster.
        resources: Of one trial; `auto` is resolved by the cluster's GPUs, whatever this machine has.
        note: Told what a person should know.

    Raises:
        MachineError: No cluster answers, it has no room for a trial, or its torch is another release or sees no GPU.
    """
    with TemporaryDirectory() as folder:
        log = Path(folder, "ray.log")
        note(f"connecting to Ray at {address} ...")
        try:
            child, cluster = _started(address, log, [], note)
            with closing(child):
                resources = resolved(resources, has_gpu=any(node.gpus >= 1 for node in cluster.nodes))
                slots(resources, cluster.nodes)
                found = child.look(occupied(resources, 1, cluster.nodes), note)
        except _RayDiedError as error:
            last_line = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
            what = f"{error} while a machine was looked at: {last_line or 'it left no message'}"
            raise MachineError(Problem(what, address, "the same command tries again")) from error
    if "problem" in found:
        what, where, fix = found["problem"]
        raise MachineError(Problem(what, where, fix))
    environment: dict[str, Any] = found["environment"]
    if (theirs := numeric_releases(environment["packages"])) != (ours := numeric_releases()):
        what = f"the cluster has {named(theirs)}, and this machine {named(ours)}"
        raise MachineError(Problem(what, address, "install the same versions on all machines"))
    return resources, environment


def _started(address: str | None, log: Path, caught: list[int], note: Callable[[str], None]) -> tuple[_Child, Cluster]:
    """Without a token, then with it: a cluster that asks for none would lose each trial of a search that gives one."""
    for auth in ("disabled", "token"):
        child = _Child(address, log, auth)
        try:
            return child, child.start(caught, note)
        except _RefusedError as error:
            child.close()
            why = str(error)
        except BaseException:
            child.close()
            raise
    fix = (
        "put what `ray get-auth-token` prints on the cluster's first machine into ~/.ray/auth_token here; "
        "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, where set, is read instead"
    )
    raise _TokenError(Problem(why, str(address), fix))


class _Served:
    """Answers what the child asks."""

    def __init__(
        self,
        work: Work,
        folder: StudyFolder,
        config: Callable[[TrialSuggestion], dict[str, Any]],
        resources: Resources,
        note: Callable[[str], None],
    ) -> None:
        self._work, self._folder, self._config, self._resources, self._note = work, folder, config, resources, note
        self._suggestion: dict[int, tuple[str, float]] = {}
        self._waits = False
        self.heard = False

    def beat(self) -> None:
        self._work.beat()
        for number, (process, since) in list(self._suggestion.items()):
            if time.monotonic() - since < _LATE_SECONDS:
                continue
            del self._suggestion[number]
            if self._process(number) == process:
                self._note(f"#{number} has not begun for a minute: Ray has no room for it, or its machine is slow")

    def _process(self, number: int) -> str:
        """Which process of a trial began it last; empty where none did."""
        try:
            return read_bytes(self._folder.trial_path(number) / CLAIM_FILE, "JSON file").decode(errors="replace")
        except OSError:
            return ""

    def answer(self, question: Mapping[str, Any]) -> Any:
        match question:
            case {"next": found}:
                return self._next(found)
            case {"on_result": [number, message]}:
                self.heard = True
                return self._work.on_result(number, message)
            case {"lost": [number, out_of_memory]}:
                return self._work.lost(number, out_of_memory=out_of_memory)
        raise AssertionError(question)

    def _next(self, found: Sequence[Mapping[str, float]]) -> Any:
        nodes = _nodes(found)
        try:
            count = slots(self._resources, nodes)
        except MachineError as error:  # all nodes that could run a trial are gone for now; others may join
            if not self._waits:
                self._note(f"waiting for a machine to join: {error.problems[0].what}")
            self._waits = True
            return None
        self._waits = False
        if self._work.running >= count:
            return None
        match self._work.next():
            case Answer.WAIT:
                return None
            case Answer.DONE:
                return "done"
            case suggestion:
                self._suggestion[suggestion.number] = self._process(suggestion.number), time.monotonic()
                resources = occupied(self._resources, suggestion.share, nodes)
                self._work.on_placed(suggestion.number, resources.get("GPU", 0.0))
                return self._config(suggestion) | {"resources": resources}


def _nodes(found: Sequence[Mapping[str, float]]) -> tuple[Node, ...]:
    return tuple(Node(cpus=node["cpus"], gpus=node["gpus"]) for node in found)


class _Child:
    """The process that speaks to Ray."""

    def __init__(self, address: str | None, log: Path, auth: str) -> None:
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
                start_new_session=True,  # the terminal's Ctrl-C is for the search to hear
            )
        theirs.close()
        self._address, self._is_busy = address, False

    def start(self, caught: list[int], note: Callable[[str], None]) -> Cluster:
        """Start Ray; gives what it offers.

        Raises:
            MachineError: No cluster answers.
            _RefusedError: It asks for a token that it did not get.
            _RayDiedError: It did not start.
            KeyboardInterrupt: A signal was caught before it had.
        """
        self._is_busy = True
        self._tell({"address": self._address, "cpus": cpu_count()})
        while not self._connection.poll(_BEAT_SECONDS):
            if caught:
                note(f"{signal.Signals(caught[0]).name}: ending, before Ray has started")
                raise KeyboardInterrupt
        found = self._on_result()
        if "failed" in found:
            raise _RayDiedError(found["failed"])
        self._is_busy = False
        if "refused" in found:
            raise _RefusedError(found["refused"])
        if "unavailable" in found:
            fix = "start it (`ray start --head`) or leave --address out to use this machine alone"
            raise MachineError(Problem(found["unavailable"], str(self._address), fix))
        return Cluster(dashboard=found["dashboard"], nodes=_nodes(found["nodes"]))

    def run(self, options: dict[str, Any], served: _Served, caught: list[int], note: Callable[[str], None]) -> None:
        """Answer until Tune has no more to run."""
        self._tell(options)
        self._is_busy, told_to_stop = True, 0.0
        while True:
            if told_to_stop and time.monotonic() - told_to_stop >= _STOP_SECONDS:
                raise _RayDiedError("Ray does not end its trials")
            if caught and not told_to_stop:
                told_to_stop = time.monotonic()
                note(f"{signal.Signals(caught[0]).name}: ending in order, which takes some seconds")
                with suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGUSR1)
            served.beat()
            if not self._connection.poll(_BEAT_SECONDS):
                continue
            question = self._on_result()
            if question == "ended":
                self._is_busy = False
                return
            self._tell(served.answer(question))

    def look(self, resources: Mapping[str, float], note: Callable[[str], None]) -> dict[str, Any]:
        """What a machine says of itself that gives a trial these resources; see `actor.look`."""
        self._is_busy = True
        self._tell({"look": resources})
        while not self._connection.poll(_LATE_SECONDS):
            note("still waiting for a machine with room for a trial: others use it, or it is slow")
        found: dict[str, Any] = self._on_result()
        self._is_busy = False
        return found

    def close(self) -> None:
        """End the process, and with it Ray: in order when it has nothing to do, else at once. Delete the temporary files."""
        self._connection.close()
        if not self._is_busy:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_SHUTDOWN_SECONDS)
        with suppress(ProcessLookupError):  # all of them are gone
            os.killpg(self._process.pid, signal.SIGKILL)  # a session of its own: Ray's processes are in it
        self._process.wait()
        if self._temporary:
            self._temporary.cleanup()

    def _tell(self, content: Any) -> None:
        try:
            send(self._connection, content)
        except OSError:
            raise _RayDiedError("Ray died") from None

    def _on_result(self) -> Any:
        try:
            return receive(self._connection)
        except (EOFError, OSError):
            raise _RayDiedError("Ray died") from None


@contextmanager
def _signals() -> Iterator[list[int]]:
    """On Ctrl-C, or SIGTERM as queues send it, remember it; a second one ends at once."""
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
