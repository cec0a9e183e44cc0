"""A tiny study, searched in this process, one trial at a time and without Ray.

Real trials on phantom X-rays: a GAN, copies, real images alone; one that its process loses once,
one that is lost for good, at least one that ASHA stops. What was trained and reported to the loop
is recorded outside the study.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.in_process import CPU, job_of, loop_of
from tests.pair_files import draw_xrays
from xraytune.base.files import write_json
from xraytune.base.records import EpochRecord
from xraytune.confirm.run_list import RunList
from xraytune.data.prepare import prepare, read_prepared, write_prepared
from xraytune.search.loop import TrialLoop
from xraytune.search.worker import TrialWorker
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment, Settings
from xraytune.space.source_settings import GanSettings
from xraytune.study.folder import StudyFolder, environment, locked
from xraytune.study.journal import Journal
from xraytune.study.start import (
    create_study,
    require_free,
    require_same_images,
)
from xraytune.study.trial import LOST, OpenTrial
from xraytune.synth import gan
from xraytune.synth.generator_inputs import lineage_to_train
from xraytune.synth.sources import gan as gan_source
from xraytune.trial import training

SPACE = """\
name: tiny
data: {path: ../xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, duplicate, gan]}
  synthetic_ratio: {value: 0.5, when: {source: [duplicate, gan]}}
  gan:
    when: {source: gan}
    parameters: {image_size: {value: 32}, steps: {value: 5}, batch_size: {value: 8},
                 width: {value: 4}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 3e-2, distribution: log_uniform_values}
  batch_size: {value: 8}
budget: {trials: 5, max_epochs: 2, steps_per_epoch: 2}
scheduler: {name: asha, grace: 1, reduction: 2, within: all}
sampler: {startup_trials: 2, seed: 3}
points_to_evaluate:
  - {source: gan, lr: 5e-3}
"""
TRIALS = 5
GAN_CHECKPOINT_STEPS = 2
_LOST_ONCE = 2
_LOST_FOR_GOOD = 3
_RUNS = (
    Parameters(source="gan", gan=GanSettings(steps=3, image_size=32, batch_size=8, width=4)),
    Parameters(source="none"),
    Parameters(source="duplicate"),
)
_SMALL = {"backbone": "small_cnn", "weights": "none", "batch_size": 8}


@dataclass(frozen=True, slots=True)
class Tree:
    """The X-rays, the space, the study and the artifacts of a search, in one folder."""

    path: Path

    @property
    def study(self) -> StudyFolder:
        """The study."""
        return StudyFolder(self.path / "studies/tiny")

    @property
    def runs(self) -> StudyFolder:
        """A list of runs, as a confirmation has them."""
        return StudyFolder(self.path / "confirm")

    @property
    def cache(self) -> Path:
        """The artifacts."""
        return self.path / "cache"

    @property
    def space(self) -> Path:
        """The space's file."""
        return self.path / "space.yaml"


def make_start(base: Path) -> Tree:
    """Draw X-rays and decode them, once: `start/` is what each search of a drill begins with."""
    tree = Tree(base / "start")
    draw_xrays(base, patients=24, seed=3, image_size_px=48)
    tree.path.mkdir()
    tree.space.write_text(SPACE)
    prepared, _ = prepare(load_space(tree.space).settings, tree.cache)
    write_prepared(prepared, tree.path / "split.json")
    return tree


@dataclass(slots=True)
class Marks:
    """Notes of what happened, that outlive the process: each is one `write`."""

    path: Path
    current: int = -1
    _file: int = -1

    def __post_init__(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self, what: str, *about: int) -> None:
        """Note that something happened."""
        os.write(self._file, json.dumps([what, *about]).encode() + b"\n")

    def count_training(self) -> None:
        """From now on, note when each epoch and GAN step begins; write checkpoints often."""
        epoch = training.TrialTraining._train_epoch
        step = gan.GanTraining.update

        def marked_epoch(*arguments: Any) -> tuple[float, float]:
            self.add("epoch", self.current, len(arguments[3]) + 1)
            return epoch(*arguments)

        def marked_step(training: Any, *arguments: Any) -> Any:
            self.add("GAN step", training.settings.steps, training.step)
            return step(training, *arguments)

        often = {
            "checkpoint_every_steps": GAN_CHECKPOINT_STEPS,
            "report_every_steps": 1,
        }
        often_trained = partial(gan.train_generator, **often)  # type: ignore[arg-type]
        for module, name, function in (
            (training, "_CHECKPOINT_SECONDS", -1.0),  # one after each epoch
            (training.TrialTraining, "_train_epoch", marked_epoch),
            (gan.GanTraining, "update", marked_step),
            (gan_source, "train_generator", often_trained),
        ):
            setattr(module, name, function)


def search(tree: Tree, marks: Marks, trials: int = TRIALS) -> None:
    """What `search` does, in one process; the same call resumes the study."""
    space = load_space(tree.space, [f"budget.trials={trials}"])
    prepared = read_prepared(tree.path / "split.json")
    folder = tree.study
    if folder.space_path.exists():
        Journal(folder.journal_path, space, is_writable=False)
        require_same_images(folder, prepared)
    else:
        require_free(folder)
        create_study(folder, space, prepared, CPU)
    with locked(folder):
        work = loop_of(folder, space, prepared, tree.cache)

        def is_lost(trial: OpenTrial, epoch: int) -> bool:
            if trial.number == _LOST_FOR_GOOD:
                return True
            return trial.number == _LOST_ONCE and epoch == 1 and not trial.failures

        _run(work, tree.cache, marks, is_lost)


def run_list(tree: Tree, marks: Marks) -> None:
    """What a confirmation does with its runs."""
    settings = load_space(tree.space).settings
    prepared = read_prepared(tree.path / "split.json")
    runs = [
        OpenTrial(number=number, label=f"run {number}", experiment=each)
        for number, each in enumerate(_runs(settings))
    ]
    tree.runs.path.mkdir(exist_ok=True)
    with locked(tree.runs):
        machine = tree.runs.path / "environment.json"
        if not machine.exists():
            write_prepared(prepared, tree.runs.path / "split.json")
            write_json(machine, environment(CPU))
        find_lineage = partial(lineage_to_train, prepared=prepared, compute=CPU, cache=tree.cache)
        work = RunList(tree.runs, runs, what="runs", lineage_to_train=find_lineage)
        _run(work, tree.cache, marks, lambda *_: False)


def _runs(settings: Settings) -> list[Experiment]:
    return [
        Experiment(settings=settings, parameters=parameters.model_copy(update=_SMALL))
        for parameters in _RUNS
    ]


def _run(
    work: TrialLoop, cache: Path, marks: Marks, is_lost: Callable[[OpenTrial, int], bool]
) -> None:
    while isinstance(trial := work.next_trial(), OpenTrial):
        marks.current = number = trial.number
        worker = TrialWorker(job_of(trial, work.study_folder, cache))
        continues = True
        epoch = 0
        while continues and not is_lost(trial, epoch):
            message = worker.step()
            continues = work.on_result(number, message)
            epoch = message.epoch if isinstance(message, EpochRecord) else 0
            work.heartbeat()
        worker.close()
        if continues:
            work.on_result(number, LOST)
