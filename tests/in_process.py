"""Trials, searches and commands in this process, pinned like a trial's own, without Ray."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from shlex import split
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from xraytune.base.records import Compute
from xraytune.base.tensors import save_state
from xraytune.cli.main import build_app
from xraytune.confirm import run as confirm_run
from xraytune.data.prepare import SplitData, prepare
from xraytune.nets.backbones import build_backbone
from xraytune.nets.compute import configure_torch
from xraytune.search import run as search_run
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.trials import SearchTrials
from xraytune.search.worker import TrialWorker
from xraytune.space.allocation import Allocation
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.start import create_study, inputs_of_space, read_inputs
from xraytune.study.trial import Job, OpenTrial
from xraytune.synth.generator_inputs import lineage_to_train

TINY_GAN = ("source=gan", "gan.image_size=32", "gan.width=4", "gan.batch_size=4", "gan.steps=2")
"""What to set of a space for a GAN that trains in a second."""
CPU = Compute(device="cpu", threads=1, precision="float32")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as `CPU` says, and afterwards as before."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    configure_torch(CPU)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])


def save_backbone(file: Path, name: str = "small_cnn", seed: int = 0) -> None:
    """Write random weights of a backbone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_state(build_backbone(name)[0].state_dict(), file)


@contextmanager
def one_core() -> Iterator[None]:
    """Run on one CPU core, where the final training of small images is as fast as it gets."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with one_thread():
            yield
    finally:
        os.sched_setaffinity(0, before)


def loop_of(folder: StudyFolder, space: Space, prepared: SplitData, cache: Path) -> SearchTrials:
    """The loop of a study whose trials are trained on `CPU`."""
    find_lineage = partial(lineage_to_train, prepared=prepared, compute=CPU, cache=cache)
    return SearchTrials(folder, space, find_lineage)


def job_of(trial: OpenTrial, folder: StudyFolder, cache: Path) -> Job:
    """The task of a trial's worker."""
    return Job(
        study_folder=folder,
        cache=cache,
        number=trial.number,
        label="",
        resources={},
        trains_alone=trial.trains_alone,
    )


class InProcess:
    """A `Runner` whose trials run in this process, one after the other."""

    allocation: Allocation
    address: str | None = None

    def __init__(
        self,
        folder: StudyFolder,
        *,
        cache: Path,
        callbacks: Callbacks = NO_CALLBACKS,
        reserve: Callable[[OpenTrial], None] | None = None,
        **_: Any,
    ) -> None:
        self.study_folder = folder
        self.cache = cache
        self.callbacks = callbacks
        self.reserve = reserve

    def launch(self) -> None: ...

    def start(self) -> None: ...

    def close(self) -> None: ...

    def run(self, make_loop: Callable[[Callbacks], TrialLoop]) -> None:
        """Run a loop as Ray's process does."""
        self.run_loop(make_loop(self.callbacks))

    def run_loop(self, work: TrialLoop) -> None:
        """Run the trials of a loop."""
        while (suggestion := work.next_trial(reserve=self.reserve)) != "done":
            if isinstance(suggestion, OpenTrial):
                self.run_trial(work, suggestion)

    def run_trial(self, work: TrialLoop, suggestion: OpenTrial) -> None:
        """Run a trial until it ends or is stopped."""
        work.on_placed(suggestion.number)
        with closing(TrialWorker(job_of(suggestion, work.study_folder, self.cache))) as worker:
            while work.on_result(suggestion.number, worker.step()):
                pass


@contextmanager
def confirm_in_process() -> Iterator[None]:
    """Run the trials of searches and the replicates of confirmations in this process."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        for module in (search_run, confirm_run):
            patch.setattr(module, "Runner", InProcess)
        yield


def search_in_process(
    space: Space, root: Path, reserve: Callable[[OpenTrial], None] | None = None
) -> StudyFolder:
    """A whole search below `root/studies`, with `root/cache`; gives the study, which has ended."""
    folder = StudyFolder(root / "studies" / space.settings.name)
    cache = root / "cache"
    prepared, _ = prepare(space.settings, cache, sizes_px=space.sizes_px())
    inputs = read_inputs(inputs_of_space(space), space.settings, prepared, cache)
    create_study(folder, space, prepared, CPU, inputs)
    with one_thread(), locked(folder):
        loop = loop_of(folder, space, prepared, cache)
        InProcess(folder, cache=cache, reserve=reserve).run_loop(loop)
    return folder


def command(*arguments: object) -> Result:
    """What a command of `xraytune` says, and its exit code.

    The first argument may be several words; each further one is a word.
    """
    line, *words = map(str, arguments)
    with one_thread():
        return CliRunner().invoke(build_app(), [*split(line), *words], env={"COLUMNS": "80"})


def shown(*arguments: object) -> str:
    """What a command prints on stdout, in one line."""
    return " ".join(command(*arguments).stdout.split())


def proposed_by(result: Result) -> dict[str, str]:
    """The commands that a command proposes, without `xraytune`, by their first word."""
    lines = re.findall(r"^\w.*: xraytune ((\S+).*)$", result.stdout, re.MULTILINE)
    return {name: line for line, name in lines}


PROGRAM = f"{sys.executable} -m xraytune"


def other_process(line: str, *words: str, **options: Any) -> CompletedProcess[str]:
    """Run a program in a process of its own, until it ends; `line` may be several words."""
    program = [*split(line), *words]
    return subprocess.run(program, capture_output=True, text=True, check=False, **options)


def said(*arguments: object) -> dict[str, Any]:
    """The JSON object that a command prints, which is all that it prints on stdout."""
    done = command(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content
