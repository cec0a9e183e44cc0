"""Run trials on Ray, from a process that survives Ray.

A child process starts Ray, runs Tune and makes all decisions, each of which it records first
(`search/ray/tuning.py`). This one supervises it: if Ray dies, the child dies with it and is started
again, and the trials that ran resume from their checkpoints.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from types import FrameType
from typing import IO, Any

from xraytune.base.cores import cpu_count
from xraytune.base.errors import MachineError, Problem
from xraytune.base.records import Compute
from xraytune.nets.compute import Allocation, allocation_of
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.ray import internals
from xraytune.search.ray.orders import Needs, RayDiedError, RayStarted, TokenRefusedError, TuneRun
from xraytune.search.ray.setup import private_folder, protect_token, why_ray_cannot_start
from xraytune.search.slots import count_slots
from xraytune.space.settings import Settings
from xraytune.study.folder import StudyFolder, numeric_releases

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
_FRUITLESS_STARTS = 3
_JOIN_SECONDS = 600.0
_POLL_SECONDS = 1.0
_STOP_SECONDS = 20.0  # longer than Tune's own limit; Tune waits forever for a trial that it cannot place
_SHUTDOWN_SECONDS = 20.0
_LONGEST_OUTPUT_BYTES = 2**20
_TOKEN_FIX = (
    "put the output of `ray get-auth-token` on the cluster's head node into ~/.ray/auth_token here; "
    "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, if set, takes precedence"
)


class Runner:
    """Ray, started by `start` or for the first trial; a context manager that shuts it down.

    Without the `address` of a cluster, Ray starts on this machine. If it ends repeatedly, its
    output is in the study's `.ray.log`. The `allocation` is set before `run`; on a cluster, by
    `survey`.
    """

    allocation: Allocation
    _connection: Connection
    _output: IO[bytes]
    _started: RayStarted

    def __init__(
        self,
        study: StudyFolder,
        *,
        allocation: Allocation | None = None,
        cache: Path,
        address: str | None,
        callbacks: Callbacks,
    ) -> None:
        self.study, self.cache, self.address, self.callbacks = study, cache, address, callbacks
        if allocation:
            self.allocation = allocation
        self._caught: list[int] = []  # signals that ask the search to end
        self._needs: Needs | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: TemporaryDirectory[str] | None = None
        self._is_busy = self._is_ready = self._has_run = False

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to start Ray on this machine, which takes seconds: `run` waits for it. With a cluster, do nothing.

        Raises MachineError if it cannot start here.
        """
        if self.address is not None or self._process is not None:
            return
        if problem := why_ray_cannot_start():
            raise MachineError(problem)
        protect_token()
        self.callbacks.note("starting Ray ...")
        self._temporary = private_folder()
        folder = self._temporary.name
        self._start_process(folder, **internals.LOOPBACK, RAY_TMPDIR=folder, TMPDIR=folder)

    def _start_process(self, folder: str, **environment: str) -> None:
        self._output = TemporaryFile()
        self._connection, theirs = Pipe()
        descriptor = theirs.fileno()
        study = self.study.path.name
        arguments = str(descriptor), folder, self.address or "", str(cpu_count()), str(os.getpid()), study
        self._is_busy = True
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xraytune.search.ray.driver", *arguments],
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env={**os.environ, **_ENVIRONMENT, **environment},
            start_new_session=True,  # the terminal's Ctrl-C goes to the search alone
        )
        theirs.close()

    def _connect(self) -> None:
        """Try without a token, then with one: a cluster without tokens would lose every trial of a search that has one."""
        self.callbacks.note(f"connecting to Ray at {self.address} ...")
        refusal = ""
        for auth in ("disabled", "token"):
            self._start_process("", **internals.ONE_ATTEMPT, RAY_AUTH_MODE=auth)
            try:
                self._wait()
                return
            except TokenRefusedError as error:
                refusal = str(error)
                self.close()
        raise MachineError(Problem(refusal, str(self.address), _TOKEN_FIX))

    def _wait(self) -> None:
        """Wait until Ray has started.

        Raises:
            RayDiedError: It did not start.
            MachineError: No cluster answers.
            TokenRefusedError: The cluster refuses this machine.
        """
        while not self._connection.poll(_POLL_SECONDS):
            if self._caught:
                self.callbacks.note(f"{signal.Signals(self._caught[0]).name}: stopping before Ray has started")
                raise KeyboardInterrupt
        self._started = self._receive()
        self._is_busy = False

    def run(
        self, folder: StudyFolder, make_loop: Callable[[Callbacks], TrialLoop], *, reuse_processes: bool = False
    ) -> None:
        """Run the trials of a folder, which also contains the split and the environment, until there are no more.

        `make_loop` is called in Ray's process, each time it starts. With `reuse_processes`, a
        process runs several trials in turn, which then start seconds sooner.

        Raises:
            XraytuneError: From the loop, such as a full disk.
            MachineError: Ray cannot or does not start, or dies repeatedly.
            KeyboardInterrupt: Ctrl-C or SIGTERM; running trials stay unfinished.
        """
        fruitless, is_done = 0, False
        with self._signals():
            while not (is_done or self._caught):
                self._has_results = False
                try:
                    self._make_ready()
                    order = TuneRun(
                        make_loop=make_loop,
                        folder=folder.path,
                        driver_lock=self.study.driver_lock_path,
                        study=self.study.path.name,
                        cache=self.cache,
                        allocation=self.allocation,
                        needs=self._needs,
                        reuse_processes=reuse_processes,
                    )
                    self._run_once(order)
                    is_done = True
                except RayDiedError as error:
                    fruitless = 0 if self._has_results else fruitless + 1
                    if fruitless == _FRUITLESS_STARTS and not self._caught:
                        raise self._give_up(error) from None
                    self.close()
                    if not self._caught:
                        self.callbacks.note(f"{error}; restarting Ray and resuming the trials")
            if self._caught:
                raise KeyboardInterrupt

    def _give_up(self, error: RayDiedError) -> MachineError:
        log = self.study.path / ".ray.log"
        log.write_text(self._read_output(), encoding="utf-8")
        what = f"Ray ended {_FRUITLESS_STARTS} times before a trial reported anything; the last time: {error}"
        fix = "if the machine was overloaded, run the same command again; otherwise, run `xraytune doctor`"
        return MachineError(Problem(what, log, fix))

    def _make_ready(self) -> None:
        """Wait for Ray, or start it again."""
        if self._is_ready:
            return
        if self.address is None:
            self.start()
            self._wait()
            count_slots(self.allocation, self._started.nodes)
        elif self._process is None:
            try:
                self._connect()
            except MachineError as error:
                if self._has_run:  # a head node takes a while to restart
                    raise RayDiedError(error.problems[0].what) from error
                raise
        if self._started.warning and not self._has_run:
            self.callbacks.note(self._started.warning)
        self._is_ready = self._has_run = True
        self.callbacks.on_start(self.study.path, self._started.dashboard)

    def _run_once(self, order: TuneRun) -> None:
        """Run trials until all have ended, or a signal was caught; what the loop raises is raised."""
        assert self._process
        self._send(order)
        stopping_since = 0.0
        while True:
            if stopping_since and time.monotonic() - stopping_since >= _STOP_SECONDS:
                raise RayDiedError("Ray does not stop its trials")
            if self._caught and not stopping_since:
                stopping_since = time.monotonic()
                name = signal.Signals(self._caught[0]).name
                self.callbacks.note(f"{name}: shutting down cleanly, which takes some seconds")
                with suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGUSR1)
            if not self._connection.poll(_POLL_SECONDS):
                continue
            match self._receive():
                case "has results":
                    self._has_results = True
                case "done":
                    break
                case "stopped" if self._caught:
                    break
                case "stopped":
                    raise RayDiedError("Tune ended before its trials")
                case (name, arguments):
                    getattr(self.callbacks, name)(*arguments)
        self._is_busy = False

    def survey(self, settings: Settings, recorded: Compute | None) -> dict[str, Any]:
        """Look at each node of the cluster that has room for a trial; return the `environment` of one.

        Trials use the cluster's GPUs if it has any or no cores yet, or what is `recorded` of their
        study.

        Raises:
            MachineError: No cluster answers, it has no room for a trial, or nodes lack something; all of them are named.
        """
        assert self.address
        try:
            if self._process is None:
                self._connect()
            has_gpu = self._is_empty() or any(node.gpus >= 1 for node in self._started.nodes)
            self.allocation = allocation_of(settings, has_gpu=recorded.device == "cuda" if recorded else has_gpu)
            trial = self.allocation.trial
            resources = {name: float(value) for name, value in (("CPU", trial.cpus), ("GPU", trial.gpus)) if value}
            self._needs = Needs(
                resources=resources,
                folders=(str(self.study.path), str(self.cache)),
                data=str(settings.data.path),
                releases=numeric_releases(),
            )
            wait_seconds = self._wait_seconds()
            self._send(self._needs)
            if not self._connection.poll(wait_seconds):
                fix = "start one, or lower resources.cpus_per_trial or gpus_per_trial"
                raise MachineError(Problem(f"no node with {resources} has joined", self.address, fix))
            environment, problems = self._receive()
        except RayDiedError as error:
            last_line = self._read_output().strip().rpartition("\n")[2]
            what = f"{error} while it looked at the nodes: {last_line or 'it left no message'}"
            raise MachineError(Problem(what, self.address, "run the same command again")) from error
        self._is_busy = False
        if problems:
            raise MachineError(*problems)
        return dict(environment)

    def _wait_seconds(self) -> float | None:
        """Return how long to wait for a node with room for a trial, None if there is one; MachineError if none may join."""
        trial = self.allocation.trial
        try:
            count_slots(self.allocation, self._started.nodes)
        except MachineError:
            waits_for_gpus = trial.gpus > 0 and not any(node.gpus for node in self._started.nodes)
            if not (self._is_empty() or waits_for_gpus):
                raise
            node = f"a node with {trial.cpus} CPU cores and {trial.gpus:g} GPUs"
            otherwise = "; for trials without GPUs, set resources.gpus_per_trial=0" if trial.gpus else ""
            self.callbacks.note(f"waiting up to {_JOIN_SECONDS / 60:g} minutes for {node} to join{otherwise}")
            return _JOIN_SECONDS
        return None

    def _is_empty(self) -> bool:
        """Whether no node of the cluster has cores for trials: they run on nodes that an autoscaler adds."""
        return not any(node.cpus for node in self._started.nodes)

    def close(self) -> None:
        """End Ray's process, and with it Ray: cleanly if it is idle, else at once. Delete the temporary files."""
        if self._process is None:
            return
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
        self._process, self._is_ready = None, False

    def _read_output(self) -> str:
        """Return what the process and Ray have written; "" once it is closed."""
        if self._output.closed:
            return ""
        return os.pread(self._output.fileno(), _LONGEST_OUTPUT_BYTES, 0).decode(errors="replace")

    def _send(self, order: Needs | TuneRun) -> None:
        self._is_busy = True
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

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Collect Ctrl-C and SIGTERM, as queues send it, if in the main thread; a second one ends the process at once."""

        def end(number: int, _: FrameType | None) -> None:
            if self._caught:
                raise KeyboardInterrupt
            self._caught.append(number)

        is_main = threading.current_thread() is threading.main_thread()
        with ExitStack() as restored:
            for number in (signal.SIGINT, signal.SIGTERM) if is_main else ():
                restored.callback(signal.signal, number, signal.signal(number, end))
            yield
