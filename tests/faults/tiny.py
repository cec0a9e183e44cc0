"""A tiny study, searched in this process, one trial at a time and without Ray; and what it looks like afterwards.

Real trials on phantom X-rays: a GAN, copies, real images alone; one that its process loses once, one that is lost for good,
at least one that ASHA stops. What was trained, and what the director had heard, is noted outside of the study.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xraytune.classifier import train
from xraytune.config.load import load_space
from xraytune.config.settings import Experiment, Parameters, Settings
from xraytune.confirm import training as confirm_training
from xraytune.confirm.runs import RUNS_FILE, Run, RunList
from xraytune.data.phantom import draw_phantoms
from xraytune.files import read_json, read_jsonl, sha256_of
from xraytune.gan import train as gan_train
from xraytune.pipeline import synthesize
from xraytune.pipeline.artifacts import is_whole
from xraytune.pipeline.prepare import prepare, read_prepared, write_prepared
from xraytune.pipeline.synthesize import gan_need
from xraytune.records import Compute
from xraytune.search.director import Director
from xraytune.search.journal import Journal
from xraytune.search.run import Quiet
from xraytune.search.rungs import Rungs
from xraytune.search.study import (
    StudyFolder,
    create_study,
    locked,
    require_free,
    require_same_images,
    require_same_space,
)
from xraytune.search.view import status
from xraytune.search.work import Asked, Work
from xraytune.search.worker import Job, TrialWorker

SPACE = """\
version: 1
name: tiny
data: {path: ../xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, duplicate, gan]}
  synthetic_ratio: {value: 0.5, when: {source: [duplicate, gan]}}
  gan:
    when: {source: gan}
    parameters: {image_size: {value: 32}, steps: {value: 5}, batch_size: {value: 8}, width: {value: 4}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 3e-2, distribution: log_uniform_values}
  batch_size: {value: 8}
budget: {trials: 5, max_epochs: 2, steps_per_epoch: 2}
scheduler: {name: asha, grace: 1, reduction: 2}
sampler: {startup_trials: 2, seed: 3}
resources: {retries: 1}
start_from:
  - {source: gan, lr: 5e-3}
"""
CPU = Compute(device="cpu", threads=1, precision="float32")
TRIALS = 5
GAN_CHECKPOINT_STEPS = 2
_LOST_ONCE, _LOST_FOR_GOOD = 2, 3
_RUNS = (
    Parameters.model_validate({"source": "gan", "gan": {"steps": 3, "image_size": 32, "batch_size": 8, "width": 4}}),
    Parameters(source="none"),
    Parameters(source="duplicate"),
)
_SMALL = {"backbone": "small_cnn", "weights": "none", "batch_size": 8}
_LOOKED_AT_ONLY = {"progress.json"}
"""Says what a trial does before its first epoch; nothing follows from it."""


@dataclass(frozen=True, slots=True)
class Tree:
    """All that a search writes, in a folder beside the X-rays: the space's file, the study, the artifacts."""

    path: Path

    @property
    def study(self) -> StudyFolder:
        """The study."""
        return StudyFolder(self.path / "studies" / "tiny")

    @property
    def runs(self) -> StudyFolder:
        """A list of runs, as a confirm has them."""
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
    draw_phantoms(base / "xrays", patients=24, seed=3, image_size_px=48)
    tree.path.mkdir()
    tree.space.write_text(SPACE, encoding="utf-8")
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
        """From here on in this process, note each epoch and each step of a GAN when it begins; checkpoint GANs often."""
        epoch, step = train._train_epoch, gan_train._train_step

        def marked_epoch(*arguments: Any) -> float:
            steps: range = arguments[3]
            self.add("epoch", self.current, steps.stop // len(steps))
            return epoch(*arguments)

        def marked_step(training: Any, *arguments: Any) -> Any:
            self.add("GAN step", training.settings.steps, training.step)
            return step(training, *arguments)

        often = {"checkpoint_every_steps": GAN_CHECKPOINT_STEPS, "grid_every_steps": 3, "report_every_steps": 1}
        for module, name, function in (
            (train, "_train_epoch", marked_epoch),
            (gan_train, "_train_step", marked_step),
            (synthesize, "train_gan", partial(gan_train.train_gan, **often)),  # type: ignore[arg-type]
        ):
            setattr(module, name, function)


def read_marks(path: Path) -> Counter[tuple[Any, ...]]:
    """How often each thing happened."""
    return Counter(tuple(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())


def search(tree: Tree, marks: Marks, trials: int = TRIALS) -> None:
    """What the command `search` does, in one process; the same call goes on with a study that was left anywhere."""
    space = load_space(tree.space, [f"budget.trials={trials}"])
    prepared = read_prepared(tree.path / "split.json")
    folder = tree.study
    if folder.space_path.exists():
        require_same_space(folder, space)
        require_same_images(folder, prepared)
    else:
        require_free(folder)
        create_study(folder, space, prepared, CPU)
        marks.add("created")
    with locked(folder) as token:
        journal = Journal(folder.journal_path, space, writable=True)
        director = Director(
            folder,
            space,
            journal,
            gan_need=lambda parameters: gan_need(parameters.gan, prepared, CPU, tree.cache),
            gpu_share=0.0,
            observer=Quiet(),
        )

        def is_lost(number: int, epoch: int) -> bool:
            if number == _LOST_FOR_GOOD:
                return True
            return number == _LOST_ONCE and epoch == 1 and not journal.failures(number)

        _run(director, folder, folder, token, tree.cache, marks, is_lost)
        director.close()


def run_list(tree: Tree, marks: Marks) -> None:
    """What a confirm does with its runs."""
    settings = load_space(tree.space).settings
    prepared = read_prepared(tree.path / "split.json")
    runs = [Run(number=number, label=f"run {number}", experiment=each) for number, each in enumerate(_runs(settings))]
    tree.runs.path.mkdir(exist_ok=True)
    with locked(tree.runs) as token:
        confirm_training._complete_folder(tree.runs, prepared, CPU)
        work = RunList(
            tree.runs,
            runs,
            what="runs",
            gan_need=lambda parameters: gan_need(parameters.gan, prepared, CPU, tree.cache),
            retries=1,
            observer=confirm_training.Quiet(),
        )
        _run(work, tree.runs, tree.runs, token, tree.cache, marks, _never)


def _never(number: int, epoch: int) -> bool:
    del number, epoch
    return False


def _runs(settings: Settings) -> list[Experiment]:
    return [Experiment(settings=settings, parameters=parameters.model_copy(update=_SMALL)) for parameters in _RUNS]


def _run(
    work: Work,
    folder: StudyFolder,
    lock: StudyFolder,
    token: str,
    cache: Path,
    marks: Marks,
    is_lost: Callable[[int, int], bool],
) -> None:
    while isinstance(asked := work.next(), Asked):
        job = Job(
            study=str(folder.path),
            cache=str(cache),
            number=asked.number,
            label="",
            gpu_share=0.0,
            lock=str(lock.lock_path),
            token=token,
        )
        if is_lost(asked.number, 0):
            work.lost(asked.number, out_of_memory=False)
            continue
        marks.current = asked.number
        worker, goes_on = TrialWorker(job), True
        while goes_on:
            message = worker.step()
            goes_on = work.hear(asked.number, message)
            epoch = message["epoch"]["epoch"] if "epoch" in message else 0
            marks.add("told", asked.number, epoch)
            if not goes_on:
                marks.add("ended", asked.number)
            work.beat()
            if epoch and goes_on and is_lost(asked.number, epoch):
                break
        worker.close()
        if goes_on:
            work.lost(asked.number, out_of_memory=False)


def told_and_missing(tree: Tree, marks: Path) -> list[str]:
    """What the director, or the list of runs, had heard and written, and the disk does not have. Reads, never writes."""
    told = read_marks(marks)
    missing = []
    if told[("created",)] and not tree.study.space_path.exists():
        return ["the study"]
    folder = tree.study if tree.study.space_path.exists() else tree.runs
    journal = rows = None
    if folder == tree.study:
        journal = Journal(folder.journal_path, folder.space(), writable=False)
        rows = {row["number"] for row in folder.rows()}
    else:
        rows = {row["number"] for row in read_jsonl(folder.path / RUNS_FILE)}
    for what, *about in told:
        if what == "told" and about[1]:
            number, epoch = about
            in_log = {row["epoch"] for row in read_jsonl(folder.trial_path(number) / "epochs.jsonl")}
            if epoch not in in_log:
                missing.append(f"epoch {epoch} of {number} in epochs.jsonl")
            if journal and epoch not in journal.reported(number):
                missing.append(f"epoch {epoch} of {number} in the journal")
        if what == "ended":
            if about[0] not in rows:
                missing.append(f"the row of {about[0]}")
            if journal and journal.status(about[0]) is None:
                missing.append(f"the end of {about[0]} in the journal")
    return missing


def look(tree: Tree) -> None:
    """Read a study as `status` does."""
    if tree.study.space_path.exists():
        status(tree.study.path)


def ends(tree: Tree) -> dict[int, tuple[Any, ...]]:
    """The ended trials of a study, by number: how, and with which value."""
    if not tree.study.space_path.exists():
        return {}
    journal = Journal(tree.study.journal_path, tree.study.space(), writable=False)
    return {row["number"]: (row["status"], row["value"]) for row in journal.rows()}


def wall(tree: Tree) -> dict[str, Any]:
    """The time that was used, as it was written down."""
    path = tree.study.path / "wall.json"
    return dict(read_json(path)) if path.exists() else {"seconds": 0.0, "trials": {}}


def picture(tree: Tree) -> dict[str, Any]:
    """All that a search or a list of runs leaves, but for times: two that are equal went the same way, bit for bit."""
    found: dict[str, Any] = {
        "artifacts": {
            str(file.relative_to(tree.cache)): _content(file)
            for file in sorted(tree.cache.glob("*/[!.]*/*"))
            if file.is_file() and file.name != "manifest.json"  # which lists the bytes of `checkpoint.pt`
        },
        "whole": {
            str(manifest.relative_to(tree.cache)): is_whole(manifest.parent)
            for manifest in sorted(tree.cache.glob("*/[!.]*/manifest.json"))
        },
        "files": sorted(_visible_files(tree.path)),
    }
    for folder in (tree.study, tree.runs):
        for trial in sorted(folder.path.glob("trials/*")):
            name = f"{folder.path.name} {trial.name}"
            found[f"{name} settings"] = _settings(trial / "config.json")
            found[f"{name} epochs"] = _untimed(read_jsonl(trial / "epochs.jsonl"))
            network = trial / "checkpoint" / "best.safetensors"
            found[f"{name} network"] = sha256_of(network) if network.exists() else None
    found["runs"] = _untimed(read_jsonl(tree.runs.path / RUNS_FILE))
    if tree.study.space_path.exists():
        found |= _study_picture(tree.study)
    return found


def _study_picture(folder: StudyFolder) -> dict[str, Any]:
    journal = Journal(folder.journal_path, folder.space(), writable=False)
    reports = list(journal.reports())
    rungs = Rungs(grace=1, reduction=2, max_epochs=2)
    return {
        "journal": [
            {
                "number": trial.number,
                "status": trial.state.name,
                "value": trial.values,
                "params": trial.params,
                "distributions": {name: repr(each) for name, each in trial.distributions.items()},
                "reported": trial.intermediate_values,
                "attributes": _untimed(trial.user_attrs),
                "system": trial.system_attrs,
            }
            for trial in journal.trials
        ],
        "reports": reports,
        "decisions": [rungs.goes_on(*report) for report in reports],
        "rungs": rungs.reached(),
        "rows": _untimed(folder.rows()),
    }


def _settings(config: Path) -> Any:
    """What a trial was trained with; how many there were to be is no setting of it."""
    content = read_json(config)
    del content["settings"]["budget"]["trials"]
    return content


def _content(file: Path) -> str:
    """A hash of a file; of one of torch's, of what is in it: the same content can be written in several ways."""
    if file.suffix != ".pt":
        return sha256_of(file)
    digest = hashlib.sha256()
    _digest(torch.load(file, weights_only=True), digest)
    return digest.hexdigest()


def _digest(content: Any, digest: Any) -> None:
    if isinstance(content, torch.Tensor):
        digest.update(f"{content.dtype} {tuple(content.shape)}".encode() + content.contiguous().numpy().tobytes())
    elif isinstance(content, dict):
        for name, value in content.items():
            digest.update(str(name).encode())
            _digest(value, digest)
    elif isinstance(content, list | tuple):
        for value in content:
            _digest(value, digest)
    else:
        digest.update(repr(content).encode())


def _untimed(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _untimed(value) for name, value in content.items() if name != "seconds"}
    return [_untimed(value) for value in content] if isinstance(content, list) else content


def _visible_files(path: Path) -> list[str]:
    names = [file.relative_to(path) for file in path.rglob("*") if file.is_file() and file.name not in _LOOKED_AT_ONLY]
    return [str(name) for name in names if not any(part.startswith(".") for part in name.parts)]
