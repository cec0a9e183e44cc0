"""Run trials on Ray, from a process that survives Ray.

A child process starts Ray, runs Tune and makes all decisions, each of which it records first
(`search/ray/tuning.py`). This one supervises it: if Ray dies, the child dies with it and is started
again, and the trials that ran resume from their checkpoints. Whatever the reason, the child and Ray
are ended by SIGKILL, since nothing is lost with them.

This process sends the child a request, a `TuneRun` or a `Survey`, and gets an `Answer`. Meanwhile,
it makes each `Call` of the search's callbacks that it gets, and raises the exceptions that it gets.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from xraytune.base.cores import cpu_count
from xraytune.base.errors import MachineError
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import Answer, Call, Progressed, Survey, TrialLoop, TuneRun
from xraytune.search.ray.setup import private_folder, protect_token, why_ray_cannot_start
from xraytune.space.allocation import Allocation
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
    # Else `uv run` makes Ray start its workers by `uv run` in a copy of the project, and hang.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # start processes in parallel; the loop counts the slots
}
_REFUSED_BY_TUNE = ("TUNE_RESULT_DIR",)
"""Variables that earlier versions of Ray read, and for which Tune now refuses to run."""
_FRUITLESS_STARTS = 3
_LONGEST_OUTPUT_BYTES = 2**20


class RayDiedError(MachineError):
    """Ray's process ended, or Ray did not start."""


class Runner:
    """Ray, started by `start` or for the first trial; `close` ends it.

    Its process begins with `launch`, which need not be called, and waits for `start`.

    Without the `address` of a cluster, Ray starts on this machine. The output of its process is in
    the study's `.ray.log`, from the first trial on or, if it dies before, from its start on. The
    `allocation` is set before `launch`; on a cluster, by `survey`.
    """

    allocation: Allocation

    def __init__(
        self, study_folder: StudyFolder, *, cache: Path, address: str | None, callbacks: Callbacks
    ) -> None:
        self.study_folder = study_folder
        self.cache = cache
        self.address = address
        self.callbacks = callbacks
        self._is_launched = False
        self._is_started = False
        self._opened = ExitStack()

    def launch(self) -> None:
        """Let Ray's process import what it needs, while this one reads the images.

        Without a cluster, raises MachineError if Ray cannot start on this machine, or has no room
        for the allocation.
        """
        if self._is_launched:
            return
        if self.address is None:
            from xraytune.nets.compute import require_room  # imports torch; Ray's process avoids it

            require_room(self.allocation)
            if problem := why_ray_cannot_start():
                raise MachineError(problem)
            protect_token()
        environment = {**os.environ, **_ENVIRONMENT}
        for name in _REFUSED_BY_TUNE:
            if environment.pop(name, None):
                self.callbacks.note(f"{name} is ignored: the study has its own folder")
        if path := os.environ.get("PYTHONPATH"):  # the child has another working folder
            parts = path.split(os.pathsep)
            environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, parts))
        folder = ""
        if self.address is not None:
            # An attempt takes 40 seconds; by default, Ray retries for a quarter of an hour.
            environment["RAY_NUM_REDIS_GET_RETRIES"] = "1"
        else:
            folder = str(self._opened.enter_context(private_folder()))
            environment |= {"RAY_TMPDIR": folder, "TMPDIR": folder}
            # Ray listens on 127.0.0.1 only; `ray.init(_node_ip_address="127.0.0.1")` is not enough.
            environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        self._output = self._opened.enter_context(TemporaryFile())
        self._connection, theirs = Pipe()
        pipe = theirs.fileno()
        program = (sys.executable, "-m", "xraytune.search.ray.driver")
        arguments = (pipe, os.getpid(), cpu_count(), folder, self.address or "")
        process = subprocess.Popen(
            [*map(str, program + arguments)],
            pass_fds=(pipe,),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env=environment,
            cwd=folder or "/",  # Ray makes it a folder of modules
            start_new_session=True,  # the terminal's Ctrl-C goes to the search alone
        )
        theirs.close()
        self._opened.enter_context(self._connection)
        self._opened.callback(process.wait)
        self._opened.callback(process.kill)
        self._is_launched = True

    def start(self) -> None:
        """Begin to start Ray on this machine, or to connect to the cluster.

        That takes seconds; `run` waits for it. Raises MachineError as `launch`.
        """
        if self._is_started:
            return
        self.launch()
        where = f"connecting to Ray at {self.address}" if self.address else "starting Ray"
        self.callbacks.note(f"{where} ...")
        with suppress(OSError):  # as in `_request`
            self._connection.send("start")
        self._is_started = True

    def close(self) -> None:
        """End Ray's process, and with it Ray, and delete the temporary files."""
        self._opened.close()
        self._is_launched = False
        self._is_started = False

    def survey(self, settings: Settings, *, has_gpu: bool | None = None) -> dict[str, Any]:
        """Set the allocation for a cluster; return the `environment` of a node with room for it.

        Raises:
            MachineError: No cluster answers, or a node lacks what a trial needs.
        """
        try:
            self.allocation, environment = self._request(Survey(settings=settings, has_gpu=has_gpu))
        except RayDiedError as error:
            last_line = self._read_output().decode(errors="replace").strip().rpartition("\n")[2]
            raise MachineError(f"{error}: {last_line}", self.address, "see `ray status`") from error
        return dict(environment)

    def _read_output(self) -> bytes:
        return os.pread(self._output.fileno(), _LONGEST_OUTPUT_BYTES, 0)

    def run(self, make_loop: Callable[[Callbacks], TrialLoop]) -> None:
        """Run all trials of a loop, which Ray's process makes each time it starts.

        Raises:
            XraytuneError: The loop raised it, as for a full disk.
            MachineError: Ray cannot or does not start, or dies repeatedly.
        """
        request = TuneRun(
            make_loop=make_loop,
            study_folder=self.study_folder,
            cache=self.cache,
            allocation=self.allocation,
        )
        fruitless = 0
        while True:
            self._has_results = False
            try:
                self._request(request)
                return
            except RayDiedError as error:
                fruitless = 0 if self._has_results else fruitless + 1
                # The process wrote here until its trials started.
                with self.study_folder.log_path.open("ab") as log:
                    log.write(self._read_output())
                if fruitless == _FRUITLESS_STARTS:
                    fix = (
                        "if the machine was overloaded, run the same command again; otherwise, "
                        "run `xraytune plan`"
                    )
                    raise MachineError(
                        f"Ray ended {_FRUITLESS_STARTS} times before a trial reported anything",
                        self.study_folder.log_path,
                        fix,
                    ) from error
                self.close()
                self.callbacks.note(f"{error}; restarting Ray and resuming the trials")

    def _request(self, request: TuneRun | Survey) -> Any:
        """Send a request to Ray's process, and return its answer.

        What the process raises is raised, and RayDiedError if it dies.
        """
        self.start()
        with suppress(OSError):  # if the process has died, what is received says so
            self._connection.send(request)
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                raise RayDiedError("Ray died") from None
            match message:
                case Exception():
                    raise message
                case Progressed():
                    self._has_results = True
                case Call():
                    getattr(self.callbacks, message.name)(*message.arguments)
                case Answer():
                    return message.value
