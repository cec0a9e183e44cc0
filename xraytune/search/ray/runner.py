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
from tempfile import TemporaryFile
from types import FrameType
from typing import IO, Any

from xraytune.base.cores import cpu_count
from xraytune.base.errors import MachineError, Problem
from xraytune.nets.compute import Allocation
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.ray import internals
from xraytune.search.ray.orders import RayDiedError, RayStarted, Survey, TuneRun
from xraytune.search.ray.setup import PrivateFolder, protect_token, why_ray_cannot_start
from xraytune.space.settings import Settings
from xraytune.study.folder import StudyFolder

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
_POLL_SECONDS = 1.0
_STOP_SECONDS = (
    20.0  # longer than Tune's own limit; Tune waits forever for a trial that it cannot place
)
_SHUTDOWN_SECONDS = 20.0
_LONGEST_OUTPUT_BYTES = 2**20


class Runner:
    """Ray, started by `start` or for the first trial; a context manager that shuts it down.

    Without the `address` of a cluster, Ray starts on this machine. If it ends repeatedly, its
    output is in the study's `.ray.log`. The `allocation` is set before `run`; on a cluster, by
    `survey`.
    """

    allocation: Allocation
    _connection: Connection
    _output: IO[bytes]

    def __init__(
        self,
        study: StudyFolder,
        *,
        allocation: Allocation | None = None,
        cache: Path,
        address: str | None,
        callbacks: Callbacks,
    ) -> None:
        self.study = study
        self.cache = cache
        self.address = address
        self.callbacks = callbacks
        if allocation:
            self.allocation = allocation
        self._caught: list[int] = []  # signals that ask the search to end
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: PrivateFolder | None = None
        self._started: RayStarted | None = None
        self._is_idle = False
        self._is_shown = False
        self._has_run = False

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to start Ray on this machine, or to connect to the cluster, which takes seconds: `run` waits for it.

        Raises MachineError if it cannot start here.
        """
        if self._process is not None:
            return
        environment = {**os.environ, **_ENVIRONMENT}
        if self.address is not None:
            self.callbacks.note(f"connecting to Ray at {self.address} ...")
            environment |= {**internals.ONE_ATTEMPT, "RAY_AUTH_MODE": "disabled"}
        else:
            if problem := why_ray_cannot_start():
                raise MachineError(problem)
            protect_token()
            self.callbacks.note("starting Ray ...")
            self._temporary = PrivateFolder()
            folder = str(self._temporary.path)
            environment |= {**internals.LOOPBACK, "RAY_TMPDIR": folder, "TMPDIR": folder}
        self._output = TemporaryFile()
        self._connection, theirs = Pipe()
        arguments = [
            theirs.fileno(),
            self._temporary.path if self._temporary else "",
            self.address or "",
            cpu_count(),
            os.getpid(),
            self.study.path.name,
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xraytune.search.ray.driver", *map(str, arguments)],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env=environment,
            start_new_session=True,  # the terminal's Ctrl-C goes to the search alone
        )
        theirs.close()

    def survey(self, settings: Settings, *, has_gpu: bool | None = None) -> dict[str, Any]:
        """Set the allocation for a cluster; return the `environment` of a node with room for a trial.

        Raises MachineError if no cluster answers, or it has no room for a trial.
        """
        try:
            self._wait_for_ray()
            order = Survey(settings=settings, has_gpu=has_gpu)
            self.allocation, environment = self._request(order)
        except RayDiedError as error:
            last_line = self._read_output().strip().rpartition("\n")[2]
            what = f"{error} while it looked at the nodes: {last_line or 'it left no message'}"
            fix = "run the same command again"
            raise MachineError(Problem(what, str(self.address), fix)) from error
        return dict(environment)

    def run(
        self,
        folder: StudyFolder,
        make_loop: Callable[[Callbacks], TrialLoop],
    ) -> None:
        """Run the trials of a folder, which also contains the split and the environment, until there are no more.

        `make_loop` is called in Ray's process, each time it starts.

        Raises:
            XraytuneError: From the loop, such as a full disk.
            MachineError: Ray cannot or does not start, or dies repeatedly.
            KeyboardInterrupt: Ctrl-C or SIGTERM; running trials stay unfinished.
        """
        fruitless = 0
        is_done = False
        order = TuneRun(
            make_loop=make_loop,
            folder=folder.path,
            driver_lock=self.study.driver_lock_path,
            study=self.study.path.name,
            cache=self.cache,
            allocation=self.allocation,
        )
        with self._signals():
            while not (is_done or self._caught):
                self._has_results = False
                try:
                    self._show(self._wait_for_ray())
                    is_done = self._request(order)
                    if not (is_done or self._caught):
                        raise RayDiedError("Tune ended before its trials")
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

    def _show(self, started: RayStarted) -> None:
        """Report the dashboard of each Ray, and once what this version of Ray lacks."""
        if started.warning and not self._has_run:
            self.callbacks.note(started.warning)
        self._has_run = True
        if not self._is_shown:
            self._is_shown = True
            self.callbacks.on_start(self.study.path, started.dashboard)

    def _wait_for_ray(self) -> RayStarted:
        self.start()
        if self._started is None:
            try:
                self._started = self._request(None)
            except MachineError as error:  # a cluster's head takes a while to restart
                if self._has_run:
                    raise RayDiedError(error.problems[0].what) from error
                raise
        assert self._started
        return self._started

    def _request(self, order: Survey | TuneRun | None) -> Any:
        """Send an order, and return its answer; without one, wait until Ray has started.

        Meanwhile, call callbacks, and pass a signal on. What the process raises is raised, and
        RayDiedError if it dies or does not stop.
        """
        assert self._process
        self._is_idle = False
        with suppress(OSError):  # if the process has died, what is received says so
            if order:
                self._connection.send(order)
        stop_until = 0.0
        while True:
            if self._caught and not stop_until:
                stop_until = time.monotonic() + _STOP_SECONDS
                name = signal.Signals(self._caught[0]).name
                if order is None:
                    self.callbacks.note(f"{name}: stopping before Ray has started")
                    raise KeyboardInterrupt
                self.callbacks.note(f"{name}: shutting down cleanly, which takes some seconds")
                self._process.send_signal(signal.SIGUSR1)
            if stop_until and time.monotonic() > stop_until:
                raise RayDiedError("Ray does not stop its trials")
            if not self._connection.poll(_POLL_SECONDS):
                continue
            try:
                received = self._connection.recv()
            except (EOFError, OSError):
                raise RayDiedError("Ray died") from None
            match received:
                case Exception():
                    raise received
                case "has results":
                    self._has_results = True
                case (str(name), arguments):
                    getattr(self.callbacks, name)(*arguments)
                case (answer,):
                    self._is_idle = True
                    return answer

    def close(self) -> None:
        """End Ray's process, and with it Ray: cleanly if it is idle, else at once. Delete the temporary files."""
        if self._process is None:
            return
        self._connection.close()
        if self._is_idle:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_SHUTDOWN_SECONDS)
        self._process.kill()
        self._process.wait()
        self._output.close()
        if self._temporary:
            self._temporary.remove()
        self._process = None
        self._temporary = None
        self._started = None
        self._is_shown = False

    def _read_output(self) -> str:
        """Return what the process and Ray have written; "" once it is closed."""
        if self._output.closed:
            return ""
        return os.pread(self._output.fileno(), _LONGEST_OUTPUT_BYTES, 0).decode(errors="replace")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Collect Ctrl-C and SIGTERM, as queues send it, if in the main thread; a second one ends the process at once."""

        def collect(number: int, _: FrameType | None) -> None:
            if self._caught:
                raise KeyboardInterrupt
            self._caught.append(number)

        is_main = threading.current_thread() is threading.main_thread()
        with ExitStack() as restored:
            for number in (signal.SIGINT, signal.SIGTERM) if is_main else ():
                restored.callback(signal.signal, number, signal.signal(number, collect))
            yield
