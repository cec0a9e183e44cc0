"""The process in which Ray Tune runs (`search/ray/driver.py`), as the search sees it: started, ordered and ended.

Both send each other pickled records over a pipe: the search an order, the process what it has done. Meanwhile it sends
the callbacks of the search, each as a name and arguments. An exception that it sends is raised here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from xraytune.base.cores import cpu_count
from xraytune.base.errors import MachineError, Problem
from xraytune.nets.compute import Allocation
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.ray import internals
from xraytune.search.ray.setup import private_folder
from xraytune.search.slots import Node

# Ray reads these when it is imported or started: no log files, tables or snapshots of Tune's own.
_ENVIRONMENT = {
    "PYTHONSAFEPATH": "1",  # a script called random.py in the working folder is not the module of that name
    **internals.VARIABLES,
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the child gets SIGUSR1 instead
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # start processes in parallel; the loop counts the slots
}
_POLL_SECONDS = 1.0
_STOP_SECONDS = 20.0  # longer than Tune's own limit; Tune waits forever for a trial that it cannot place
_SHUTDOWN_SECONDS = 20.0
_LONGEST_OUTPUT_BYTES = 2**20


class RayDiedError(Exception):
    """The process ended, or Ray did not start."""


class TokenRefusedError(Exception):
    """A cluster refuses this machine for want of its token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayStarted:
    """Ray runs; `dashboard` is its address, "" if there is none; `warning` is about what this Ray lacks."""

    dashboard: str
    nodes: tuple[Node, ...]
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What trials need of a node: resources as Ray takes them, folders to write to, that of the images, versions."""

    resources: dict[str, float]
    folders: tuple[str, ...]
    data: str
    releases: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRun:
    """The order to run the trials of a loop, which the process makes from the files of its `folder`.

    The process before this one, which had the same `driver_lock`, may not have ended yet.
    """

    make_loop: Callable[[Callbacks], TrialLoop]
    folder: Path
    driver_lock: Path
    study: str
    cache: Path
    allocation: Allocation
    needs: Needs | None
    reuse_processes: bool


class RayProcess:
    """The process, which starts Ray or connects to a cluster at once.

    Attributes:
        started: Set by `wait`.
        has_results: Whether a trial has reported anything since it was started.
    """

    started: RayStarted
    has_results = False

    def __init__(self, address: str | None, auth: str, study: str, note: Callable[[str], None]) -> None:
        self._note = note
        self._is_busy = True
        self._temporary = None if address else private_folder()
        folder = self._temporary.name if self._temporary else ""
        self._output = TemporaryFile()
        where = {**internals.LOOPBACK, "RAY_TMPDIR": folder, "TMPDIR": folder}
        if address:
            where = {**internals.ONE_ATTEMPT, "RAY_AUTH_MODE": auth}
        self._connection, theirs = Pipe()
        descriptor = theirs.fileno()
        arguments = str(descriptor), folder, address or "", str(cpu_count()), str(os.getpid()), study
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xraytune.search.ray.driver", *arguments],
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env={**os.environ, **_ENVIRONMENT, **where},
            start_new_session=True,  # the terminal's Ctrl-C goes to the search alone
        )
        theirs.close()

    def wait(self, caught: Sequence[int]) -> None:
        """Wait until Ray has started.

        Raises:
            RayDiedError: It did not start.
            MachineError: No cluster answers.
            TokenRefusedError: The cluster refuses this machine.
        """
        while not self._connection.poll(_POLL_SECONDS):
            if caught:
                self._note(f"{signal.Signals(caught[0]).name}: stopping before Ray has started")
                raise KeyboardInterrupt
        self.started = self._receive()
        self._is_busy = False

    def look(self, needs: Needs, *, wait_seconds: float | None) -> tuple[dict[str, Any], list[str]]:
        """Look at each node with room for a trial, once there is one: return the `environment` of one, and all problems.

        Raises MachineError if there is none in time.
        """
        self._is_busy = True
        self._send(needs)
        if not self._connection.poll(wait_seconds):
            fix = "start one, or lower resources.cpus_per_trial or gpus_per_trial"
            raise MachineError(Problem(f"no node with {needs.resources} has joined", "the cluster", fix))
        seen: tuple[dict[str, Any], list[str]] = self._receive()
        self._is_busy = False
        return seen

    def run(self, order: TuneRun, callbacks: Callbacks, caught: Sequence[int]) -> None:
        """Run trials until all have ended, or a signal was caught; what the loop raises is raised."""
        self._is_busy = True
        self._send(order)
        stopping_since = 0.0
        while True:
            if stopping_since and time.monotonic() - stopping_since >= _STOP_SECONDS:
                raise RayDiedError("Ray does not stop its trials")
            if caught and not stopping_since:
                stopping_since = time.monotonic()
                self._note(f"{signal.Signals(caught[0]).name}: shutting down cleanly, which takes some seconds")
                with suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGUSR1)
            if not self._connection.poll(_POLL_SECONDS):
                continue
            match self._receive():
                case "has results":
                    self.has_results = True
                case "done" | "stopped" as end:
                    if end == "stopped" and not caught:
                        raise RayDiedError("Tune ended before its trials")
                    self._is_busy = False
                    return
                case (name, arguments):
                    getattr(callbacks, name)(*arguments)

    def close(self) -> None:
        """End the process, and with it Ray: cleanly if it is idle, else at once. Delete the temporary files."""
        self._connection.close()
        if not self._is_busy:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_SHUTDOWN_SECONDS)
        with suppress(ProcessLookupError):  # all of them are gone
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session, which includes Ray's processes
        self._process.wait()
        self._output.close()
        if self._temporary:
            self._temporary.cleanup()

    def output(self) -> str:
        """Return what the process and Ray have written."""
        return os.pread(self._output.fileno(), _LONGEST_OUTPUT_BYTES, 0).decode(errors="replace")

    def _send(self, order: Needs | TuneRun) -> None:
        with suppress(OSError):  # if the process has died, what is received next says so
            self._connection.send(order)

    def _receive(self) -> Any:
        try:
            received = self._connection.recv()
        except (EOFError, OSError):
            raise RayDiedError("Ray died") from None
        if isinstance(received, Exception):
            raise received
        return received
