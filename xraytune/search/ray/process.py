"""The process that talks to Ray (`search/ray/driver.py`), as the search sees it: started, asked, interrupted and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from multiprocessing import Pipe
from tempfile import TemporaryFile
from typing import Any

from xraytune.base.cores import cpu_count
from xraytune.base.errors import MachineError, Problem
from xraytune.search import messages
from xraytune.search.ray import internals
from xraytune.search.ray.setup import private_folder

# Ray reads these when it is imported or started: no log files, tables or snapshots of Tune's own.
_ENVIRONMENT = {
    **internals.VARIABLES,
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the child gets SIGUSR1 instead
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # start processes in parallel; `slots` is the limit
}
_HEARTBEAT_SECONDS = 1.0
_STOP_SECONDS = 20.0  # longer than Tune's own limit; Tune waits forever for a trial that it cannot place
_SHUTDOWN_SECONDS = 20.0
_LONGEST_OUTPUT_BYTES = 2**20


class RayDiedError(Exception):
    """The process ended, or Ray did not start; `output` is what both have written."""

    def __init__(self, text: str, output: str = "") -> None:
        super().__init__(text)
        self.output = output


def connected(address: str, study: str, caught: list[int], note: Callable[[str], None]) -> RayProcess:
    """Try without a token, then with one: a cluster without tokens would lose every trial of a search that has one."""
    for auth in ("disabled", "token"):
        with ExitStack() as stack:
            child = stack.enter_context(closing(RayProcess(address, auth, study, note)))
            if not (refusal := child.wait(caught)):
                stack.pop_all()
                return child
    fix = (
        "put the output of `ray get-auth-token` on the cluster's head node into ~/.ray/auth_token here; "
        "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, if set, takes precedence"
    )
    raise MachineError(Problem(refusal, address, fix))


class RayProcess:
    """The process that talks to Ray, which it starts or connects to at once."""

    started: messages.RayStarted

    def __init__(self, address: str | None, auth: str, study: str, note: Callable[[str], None]) -> None:
        self._address, self._note, self._is_busy = address, note, True
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

    def wait(self, caught: Sequence[int]) -> str:
        """Wait until Ray has started; return why the cluster refuses it, for want of a token, else ""."""
        while not self._connection.poll(_HEARTBEAT_SECONDS):
            if caught:
                self._note(f"{signal.Signals(caught[0]).name}: stopping before Ray has started")
                raise KeyboardInterrupt
        reply: messages.RayStarted | messages.RayNotStarted = self._receive()
        if isinstance(reply, messages.RayStarted):
            self._is_busy, self.started = False, reply
            return ""
        if reply.why == "failed":
            raise RayDiedError(reply.text, self.output())
        self._is_busy = False
        if reply.why == "unavailable":
            fix = "start it (`ray start --head`), or omit --address to use this machine alone"
            raise MachineError(Problem(reply.text, str(self._address), fix))
        return reply.text

    def questions(self, order: messages.RunTrials, caught: Sequence[int]) -> Iterator[messages.Question | None]:
        """Run trials with Tune: yield its questions, and None every second, until all trials have ended."""
        self._is_busy, stopping_since = True, 0.0
        self.send(order)
        while True:
            if stopping_since and time.monotonic() - stopping_since >= _STOP_SECONDS:
                raise RayDiedError("Ray does not stop its trials", self.output())
            if caught and not stopping_since:
                stopping_since = time.monotonic()
                self._note(f"{signal.Signals(caught[0]).name}: shutting down cleanly, which takes some seconds")
                with suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGUSR1)
            if not self._connection.poll(_HEARTBEAT_SECONDS):
                yield None
                continue
            question = self._receive()
            if isinstance(question, messages.RunEnded):
                self._is_busy = False
                return
            yield question

    def send(self, message: messages.Order | messages.Answer) -> None:
        """Send an order, or the answer to the last question; if the process has died, what is received next says so."""
        with suppress(OSError):
            messages.send(self._connection, message)

    def look(self, needs: messages.Needs, *, wait_seconds: float | None) -> messages.NodesSeen:
        """Return what a look at each node with room for a trial finds; MachineError if there is none in time."""
        self._is_busy = True
        self.send(messages.LookAtNodes(needs=needs))
        if not self._connection.poll(wait_seconds):
            fix = "start one, or lower resources.cpus_per_trial or gpus_per_trial"
            raise MachineError(Problem(f"no node with {needs.resources} has joined", str(self._address), fix))
        reply: messages.NodesSeen = self._receive()
        self._is_busy = False
        return reply

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

    def _receive(self) -> Any:
        try:
            return messages.receive(self._connection)
        except (EOFError, OSError):
            raise RayDiedError("Ray died", self.output()) from None
