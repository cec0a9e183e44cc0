"""Run trials on Ray, from a process that survives Ray.

A child process starts Ray, runs Tune and makes all decisions, each of which it records first (`search/ray/driver.py`). This
one supervises it: if Ray dies, the child dies with it and is started again, and the trials that ran resume from their
checkpoints.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from xraytune.base.errors import MachineError, Problem
from xraytune.base.records import Compute
from xraytune.nets.compute import Allocation, allocation_of
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.ray.process import Needs, RayDiedError, RayProcess, RayStarted, TokenRefusedError, TuneRun
from xraytune.search.ray.setup import protect_token, why_ray_cannot_start
from xraytune.search.slots import count_slots
from xraytune.space.settings import Settings
from xraytune.study.folder import StudyFolder, numeric_releases

_FRUITLESS_STARTS = 3
_JOIN_SECONDS = 600.0


class Runner:
    """Ray, started by `start` or for the first trial; a context manager that shuts it down.

    Without the `address` of a cluster, Ray starts on this machine. If it ends repeatedly, its output is in the study's
    `.ray.log`. The `allocation` is set before `run`; on a cluster, by `survey`.
    """

    allocation: Allocation

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
        self._needs: Needs | None = None
        self._process: RayProcess | None = None
        self._is_ready = False
        self._has_run = False

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
        self._process = RayProcess(None, "", self.study.path.name, self.callbacks.note)

    def run(
        self, folder: StudyFolder, make_loop: Callable[[Callbacks], TrialLoop], *, reuse_processes: bool = False
    ) -> None:
        """Run the trials of a folder, which also contains the split and the environment, until there are no more.

        `make_loop` is called in Ray's process, each time it starts. With `reuse_processes`, a process runs several trials in
        turn, which then start seconds sooner.

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
            needs=self._needs,
            reuse_processes=reuse_processes,
        )
        fruitless = 0
        with _signals() as caught:
            while True:
                try:
                    self._ready(caught).run(order, self.callbacks, caught)
                    break
                except RayDiedError as error:
                    fruitless = 0 if self._process and self._process.has_results else fruitless + 1
                    output = self._process.output() if self._process else ""
                    self.close()
                    if caught:
                        break
                    if fruitless == _FRUITLESS_STARTS:
                        raise self._given_up(error, output) from None
                    self.callbacks.note(f"{error}; restarting Ray and resuming the trials")
            if caught:
                raise KeyboardInterrupt

    def _given_up(self, error: RayDiedError, output: str) -> MachineError:
        log = self.study.path / ".ray.log"
        log.write_text(output, encoding="utf-8")
        what = f"Ray ended {_FRUITLESS_STARTS} times before a trial reported anything; the last time: {error}"
        fix = "if the machine was overloaded, run the same command again; otherwise, run `xraytune doctor`"
        return MachineError(Problem(what, log, fix))

    def _ready(self, caught: list[int]) -> RayProcess:
        """Return the process, once Ray has started."""
        if self._process is not None and self._is_ready:
            return self._process
        if self.address is None:
            self.start()
            assert self._process is not None
            self._process.wait(caught)
            count_slots(self.allocation, self._process.started.nodes)
        elif self._process is None:
            try:
                self._connect(self.address, caught)
            except MachineError as error:
                if self._has_run:  # a head node takes a while to restart
                    raise RayDiedError(error.problems[0].what) from error
                raise
        assert self._process is not None
        started = self._process.started
        if started.warning and not self._has_run:
            self.callbacks.note(started.warning)
        self._is_ready = self._has_run = True
        self.callbacks.on_start(self.study.path, started.dashboard)
        return self._process

    def _connect(self, address: str, caught: list[int]) -> RayStarted:
        """Try without a token, then with one: a cluster without tokens would lose every trial of a search that has one."""
        self.callbacks.note(f"connecting to Ray at {address} ...")
        refusal = ""
        for auth in ("disabled", "token"):
            self._process = RayProcess(address, auth, self.study.path.name, self.callbacks.note)
            try:
                self._process.wait(caught)
                return self._process.started
            except TokenRefusedError as error:
                refusal = str(error)
                self.close()
        fix = (
            "put the output of `ray get-auth-token` on the cluster's head node into ~/.ray/auth_token here; "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, if set, takes precedence"
        )
        raise MachineError(Problem(refusal, address, fix))

    def survey(self, settings: Settings, recorded: Compute | None) -> dict[str, Any]:
        """Look at each node of the cluster that has room for a trial; return the `environment` of one.

        Trials use the cluster's GPUs if it has any or no cores yet, or what is `recorded` of their study.

        Raises:
            MachineError: No cluster answers, it has no room for a trial, or nodes lack something; all of them are named.
        """
        assert self.address
        try:
            started = self._process.started if self._process else self._connect(self.address, [])
            assert self._process
            has_gpu = _is_empty(started) or any(node.gpus >= 1 for node in started.nodes)
            self.allocation = allocation_of(settings, has_gpu=recorded.device == "cuda" if recorded else has_gpu)
            trial = self.allocation.trial
            self._needs = Needs(
                resources={name: float(value) for name, value in (("CPU", trial.cpus), ("GPU", trial.gpus)) if value},
                folders=(str(self.study.path), str(self.cache)),
                data=str(settings.data.path),
                releases=numeric_releases(),
            )
            environment, problems = self._process.look(self._needs, wait_seconds=self._wait_seconds(started))
        except RayDiedError as error:
            last_line = self._process.output().strip().rpartition("\n")[2] if self._process else ""
            what = f"{error} while it looked at the nodes: {last_line or 'it left no message'}"
            raise MachineError(Problem(what, self.address, "run the same command again")) from error
        if problems:
            raise MachineError(*problems)
        return environment

    def _wait_seconds(self, started: RayStarted) -> float | None:
        """Return how long to wait for a node with room for a trial, None if there is one; MachineError if none may join."""
        trial = self.allocation.trial
        try:
            count_slots(self.allocation, started.nodes)
        except MachineError:
            waits_for_gpus = trial.gpus > 0 and not any(node.gpus for node in started.nodes)
            if not (_is_empty(started) or waits_for_gpus):
                raise
            node = f"a node with {trial.cpus} CPU cores and {trial.gpus:g} GPUs"
            otherwise = "; for trials without GPUs, set resources.gpus_per_trial=0" if trial.gpus else ""
            self.callbacks.note(f"waiting up to {_JOIN_SECONDS / 60:g} minutes for {node} to join{otherwise}")
            return _JOIN_SECONDS
        return None

    def close(self) -> None:
        """End Ray's process, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process, self._is_ready = None, False


def _is_empty(started: RayStarted) -> bool:
    """Whether no node of a cluster has cores for trials: they run on nodes that an autoscaler adds."""
    return not any(node.cpus for node in started.nodes)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, as queues send it, if in the main thread; a second one ends the process at once."""
    caught: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()

    def end(number: int, _: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    with ExitStack() as restored:
        for number in (signal.SIGINT, signal.SIGTERM) if is_main else ():
            restored.callback(signal.signal, number, signal.signal(number, end))
        yield caught
