"""Run trials on Ray, from a process that survives Ray.

A child process talks to Ray (`search/ray/driver.py`) and asks this one over a pipe which trials to run and to stop. All
decisions are made and saved here, by `TrialLoop`. If Ray dies, the child dies with it; it is started again, and the trials
that ran resume from their checkpoints.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from xraytune.base.errors import MachineError, Problem
from xraytune.base.records import Compute
from xraytune.nets.compute import Allocation, allocation_of
from xraytune.search import messages
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.ray.process import RayDiedError, RayProcess, connected
from xraytune.search.ray.setup import protect_token, why_ray_cannot_start
from xraytune.search.slots import Held, count_slots, held
from xraytune.space.settings import Settings
from xraytune.study.folder import SCRATCH_NAME, StudyFolder, numeric_releases
from xraytune.study.suggestion import TrialSuggestion

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
        self.needs: messages.Needs | None = None
        self._process: RayProcess | None = None
        self._is_ready = self._has_run = False

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

    def run(self, trials: TrialLoop, *, token: str, reuse_processes: bool = False) -> None:
        """Run trials until there are no more. Their folder also contains the split and the environment.

        `token` is that of the study's lock. With `reuse_processes`, a process runs several trials in turn, which then start
        seconds sooner.

        Raises:
            XraytuneError: From `trials`, such as a full disk.
            MachineError: Ray cannot or does not start, or dies repeatedly.
            KeyboardInterrupt: Ctrl-C or SIGTERM; running trials stay unfinished.
        """
        with _signals() as caught:
            trials.run(RayWorkers(self, trials, caught, token=token, reuse_processes=reuse_processes))

    def ray(self, caught: list[int]) -> RayProcess:
        """Return Ray's process, once Ray has started."""
        if self._process is not None and self._is_ready:
            return self._process
        if self.address is None:
            self.start()
            assert self._process is not None
            self._process.wait(caught)
        else:
            try:
                self._process = self._process or self._connected(self.address, caught)
            except MachineError as error:
                if self._has_run:  # a head node takes a while to restart
                    raise RayDiedError(error.problems[0].what) from error
                raise
        started = self._process.started
        if started.warning and not self._has_run:
            self.callbacks.note(started.warning)
        self._is_ready = self._has_run = True
        if self.address is None:
            count_slots(self.allocation, started.nodes)
        self.callbacks.on_start(self.study.path, started.dashboard)
        return self._process

    def _connected(self, address: str, caught: list[int]) -> RayProcess:
        self.callbacks.note(f"connecting to Ray at {address} ...")
        return connected(address, self.study.path.name, caught, self.callbacks.note)

    def survey(self, settings: Settings, recorded: Compute | None) -> dict[str, Any]:
        """Look at each node of the cluster that has room for a trial; return the `environment` of one.

        Trials use the cluster's GPUs if it has any or no cores yet, or what is `recorded` of their study.

        Raises:
            MachineError: No cluster answers, it has no room for a trial, or nodes lack something; all of them are named.
        """
        assert self.address
        try:
            self._process = self._process or self._connected(self.address, [])
            started = self._process.started
            has_gpu = _is_empty(started) or any(node.gpus >= 1 for node in started.nodes)
            self.allocation = allocation_of(settings, has_gpu=recorded.device == "cuda" if recorded else has_gpu)
            trial = self.allocation.trial
            self.needs = messages.Needs(
                resources={name: float(value) for name, value in (("CPU", trial.cpus), ("GPU", trial.gpus)) if value},
                folders=(str(self.study.path), str(self.cache)),
                data=str(settings.data.path),
                releases=numeric_releases(),
            )
            seen = self._process.look(self.needs, wait_seconds=self._wait_seconds(started))
        except RayDiedError as error:
            last_line = error.output.strip().rpartition("\n")[2]
            what = f"{error} while it looked at the nodes: {last_line or 'it left no message'}"
            raise MachineError(Problem(what, self.address, "run the same command again")) from error
        if seen.problems:
            raise MachineError(*seen.problems)
        return seen.environment

    def _wait_seconds(self, started: messages.RayStarted) -> float | None:
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


def _is_empty(started: messages.RayStarted) -> bool:
    """Whether no node of a cluster has cores for trials: they run on nodes that an autoscaler adds."""
    return not any(node.cpus for node in started.nodes)


class RayWorkers:
    """The `Workers` of a loop.

    `caught` has the signals that ask the search to end, `token` is that of the study's lock.
    """

    _ray: RayProcess

    def __init__(
        self, runner: Runner, trials: TrialLoop, caught: list[int], *, token: str, reuse_processes: bool
    ) -> None:
        self._runner, self._folder, self._caught, self._token = runner, trials.folder, caught, token
        folder, self._every_epoch = trials.folder, trials.source.stops_trials
        self.slots = 0
        self._process_name = f"{folder.path.name}: several trials in turn" if reuse_processes else ""
        self._order = messages.RunTrials(
            scratch=str(folder.path / SCRATCH_NAME), reuse_actors=reuse_processes, needs=runner.needs
        )
        self._nodes: Sequence[messages.Node] = ()
        self._starts_without_result, self._end, self._output = 0, "", ""
        self._waits_for_nodes = False

    def questions(self) -> Iterator[messages.Question | None]:
        """Yield what Tune asks until it has run all trials, or Ray has died; start Ray if it does not run."""
        self._require_results()
        self._waits_for_nodes, self.slots = False, 0
        has_results = False
        try:
            self._ray = self._runner.ray(self._caught)
            for question in self._ray.questions(self._order, self._caught):
                if isinstance(question, messages.SlotFree) and not self._has_room(question):
                    self._ray.send(messages.NoTrial(is_done=False))
                    question = None
                has_results = has_results or isinstance(question, messages.TrialReported)
                yield question
            self._end, self._output = "Tune ended", self._ray.output()
        except RayDiedError as error:
            self._runner.close()
            self._end, self._output = str(error), error.output
        if self._caught:
            raise KeyboardInterrupt
        self._starts_without_result = 0 if has_results else self._starts_without_result + 1

    def _require_results(self) -> None:
        """Raise MachineError if Ray has ended repeatedly without a result; note a restart."""
        if self._starts_without_result == _FRUITLESS_STARTS:
            times = f"Ray ended {_FRUITLESS_STARTS} times before a trial reported anything"
            fix = "if the machine was overloaded, run the same command again; otherwise, run `xraytune doctor`"
            log = self._runner.study.path / ".ray.log"
            log.write_text(self._output, encoding="utf-8")
            raise MachineError(Problem(f"{times}; the last time: {self._end}", log, fix))
        if self._end and self._end != "Tune ended":
            self._runner.callbacks.note(f"{self._end}; restarting Ray and resuming the trials")

    def _has_room(self, question: messages.SlotFree) -> bool:
        """Update the slots; False if all nodes that can run a trial have left, in which case others may join.

        Raises MachineError if the last ones were left out.
        """
        nodes = question.nodes
        for why in question.left_out:
            self._runner.callbacks.note(f"left out: {why}")
        try:
            self.slots = count_slots(self._runner.allocation, nodes)
        except MachineError as error:
            if question.left_out:
                raise MachineError(*question.left_out) from error
            if not self._waits_for_nodes:
                self._runner.callbacks.note(f"waiting for a machine to join: {error.problems[0].what}")
            self._waits_for_nodes, self.slots = True, 0
            return False
        self._nodes, self._waits_for_nodes = nodes, False
        return True

    def slots_of(self, suggestion: TrialSuggestion) -> int:
        """Return the slots that a trial occupies."""
        return self._held(suggestion).slots

    def _held(self, suggestion: TrialSuggestion) -> Held:
        only_generator, times = suggestion.only_generator, suggestion.share
        return held(self._runner.allocation, self._nodes, only_generator=only_generator, times=times)

    def start(self, suggestion: TrialSuggestion, label: str) -> float:
        """Start a trial in free slots; return the GPUs that it holds."""
        runner, room = self._runner, self._held(suggestion)
        name = f"{runner.study.path.name} {label}"
        job = messages.Job(
            study=str(self._folder.path),
            cache=str(runner.cache),
            number=suggestion.number,
            only_generator=suggestion.only_generator,
            label=name,
            gpu_share=room.gpus,
            every_epoch=self._every_epoch,
            lock=str(runner.study.lock_path),
            token=self._token,
        )
        process = self._process_name or name
        self._ray.send(messages.StartTrial(job=job, process=process, resources=room.resources))
        return room.gpus

    def answer(self, answer: messages.Answer) -> None:
        """Answer the last question."""
        self._ray.send(answer)


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
