"""Run trials on Ray, from a process that survives Ray.

A child process starts Ray, runs Tune and makes all decisions, each of which it records first
(`search/ray/tuning.py`). This one supervises it: if Ray dies, the child dies with it and is started
again, and the trials that ran resume from their checkpoints. Whatever the reason, the child and Ray
are ended by SIGKILL, since nothing is lost with them.

This process sends the child an order, and gets its answer in a tuple. Meanwhile, it gets the
callbacks of the search to call, each as its name and arguments, and raises the exceptions that it
gets.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from xraytune.base.cores import cpu_count
from xraytune.base.errors import MachineError, Problem
from xraytune.nets.compute import Allocation
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import TrialLoop, TuneRun
from xraytune.search.ray.setup import PrivateFolder, protect_token, why_ray_cannot_start
from xraytune.space.settings import Settings
from xraytune.study.folder import StudyFolder

# Ray reads these when it is imported or started: no log files, tables or snapshots of Tune's own.
_ENVIRONMENT = {
    # A script called random.py next to another script is not the module of that name.
    "PYTHONSAFEPATH": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Else a process for each core, none of which a trial uses.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # start processes in parallel; the loop counts the slots
}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes Ray listen on 127.0.0.1 only, on Linux too.

`ray.init(_node_ip_address="127.0.0.1")` would not.
"""
_ONE_ATTEMPT = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
"""An attempt takes 40 seconds.

By default, Ray retries for a quarter of an hour if there is no cluster.
"""
_FRUITLESS_STARTS = 3
_LONGEST_OUTPUT_BYTES = 2**20


class RayDiedError(MachineError):
    """Ray's process ended, or Ray did not start."""


class Runner:
    """Ray, started by `start` or for the first trial; a context manager that ends it.

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
        cache: Path,
        address: str | None,
        callbacks: Callbacks,
    ) -> None:
        self.study = study
        self.cache = cache
        self.address = address
        self.callbacks = callbacks
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: PrivateFolder | None = None
        self._dashboard: str | None = None
        self._is_shown = False

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to start Ray on this machine, or to connect to the cluster.

        That takes seconds; `run` waits for it.

        Raises MachineError if it cannot start here.
        """
        if self._process is not None:
            return
        environment = {**os.environ, **_ENVIRONMENT}
        if path := os.environ.get("PYTHONPATH"):  # the child has another working folder
            parts = path.split(os.pathsep)
            environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, parts))
        folder = ""
        if self.address is not None:
            self.callbacks.note(f"connecting to Ray at {self.address} ...")
            environment |= _ONE_ATTEMPT
        else:
            if problem := why_ray_cannot_start():
                raise MachineError(problem)
            protect_token()
            self.callbacks.note("starting Ray ...")
            self._temporary = PrivateFolder()
            folder = str(self._temporary.path)
            environment |= {**_LOOPBACK, "RAY_TMPDIR": folder, "TMPDIR": folder}
        self._output = TemporaryFile()
        self._connection, theirs = Pipe()
        pipe = theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xraytune.search.ray.driver", str(pipe)],
            pass_fds=(pipe,),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env=environment,
            cwd=folder or "/",  # Ray makes it a folder of modules
            start_new_session=True,  # the terminal's Ctrl-C goes to the search alone
        )
        theirs.close()
        with suppress(OSError):  # if it has died, `_request` says so
            here = (os.getpid(), folder, self.address or "", cpu_count(), self.study.path.name)
            self._connection.send(here)

    def survey(self, settings: Settings, *, has_gpu: bool | None = None) -> dict[str, Any]:
        """Set the allocation for a cluster.

        Return the `environment` of a node with room for a trial.

        Raises MachineError if no cluster answers, or it has no room for a trial.
        """
        self._wait_for_ray()
        self.allocation, environment = self._request((settings, has_gpu))
        return dict(environment)

    def run(self, folder: StudyFolder, make_loop: Callable[[Callbacks], TrialLoop]) -> None:
        """Run the trials of a folder until there are no more.

        The folder also contains the split and the environment.

        `make_loop` is called in Ray's process, each time it starts.

        Raises:
            XraytuneError: From the loop, such as a full disk.
            MachineError: Ray cannot or does not start, or dies repeatedly.
            KeyboardInterrupt: Ctrl-C or SIGTERM; running trials stay unfinished.
        """
        order = TuneRun(
            make_loop=make_loop,
            folder=folder.path,
            driver_lock=self.study.driver_lock_path,
            study=self.study.path.name,
            cache=self.cache,
            allocation=self.allocation,
        )
        fruitless = 0
        with _signals_interrupt():
            while True:
                self._has_results = False
                try:
                    dashboard = self._wait_for_ray()
                    if not self._is_shown:
                        self.callbacks.on_start(self.study.path, dashboard)
                    self._is_shown = True
                    self._request(order)
                    return
                except RayDiedError as error:
                    fruitless = 0 if self._has_results else fruitless + 1
                    if fruitless == _FRUITLESS_STARTS:
                        raise self._give_up(error) from None
                    self.close()
                    self.callbacks.note(f"{error}; restarting Ray and resuming the trials")

    def _give_up(self, error: RayDiedError) -> MachineError:
        log = self.study.path / ".ray.log"
        log.write_bytes(os.pread(self._output.fileno(), _LONGEST_OUTPUT_BYTES, 0))
        what = (
            f"Ray ended {_FRUITLESS_STARTS} times before a trial reported anything; the last "
            f"time: {error}"
        )
        fix = (
            "if the machine was overloaded, run the same command again; otherwise, "
            "run `xraytune doctor`"
        )
        return MachineError(Problem(what, log, fix))

    def _wait_for_ray(self) -> str:
        """Return the address of the dashboard once Ray runs."""
        self.start()
        if self._dashboard is None:
            self._dashboard = str(self._request(None))
        return self._dashboard

    def _request(self, order: TuneRun | tuple[Settings, bool | None] | None) -> Any:
        """Send an order, and return its answer; without one, wait until Ray has started.

        What the process raises is raised, and RayDiedError if it dies.
        """
        with suppress(OSError):  # if the process has died, what is received says so
            if order:
                self._connection.send(order)
        while True:
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
                    return answer

    def close(self) -> None:
        """End Ray's process, and with it Ray, and delete the temporary files."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._output.close()
        if self._temporary:
            self._temporary.remove()
        self._process = None
        self._temporary = None
        self._dashboard = None
        self._is_shown = False


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and on SIGINT.

    Queues send SIGTERM; jobs in the background ignore SIGINT.

    Only the main thread can.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
