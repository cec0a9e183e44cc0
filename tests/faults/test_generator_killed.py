"""A search whose process is killed again and again while a generator of a user is trained."""

import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path

from tests.in_process import confirm_in_process
from tests.pair_files import draw_xrays
from xraytune.base.files import read_json
from xraytune.confirm.run import confirm
from xraytune.search.run import search
from xraytune.study.folder import StudyFolder
from xraytune.study.status import status

KILLED_BEFORE = (0, 1, 2, 4, 5, 6, 7, 9, 10, 11)
"""The steps of the training before which the process is killed."""
SPACE = """\
name: killed
data: {path: xrays, image_size: 32, train_patients: 20, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, killable]}
  killable: {when: {source: killable}, parameters: {steps: {values: [6, 12]}}}
  synthetic_ratio: {values: [0.5, 1, 2], when: {source: killable}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
  lr: {min: 1e-4, max: 1e-2}
budget: {trials: 12, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
quality: {allow_memorised: true}
confirm: {test: unused, finalists: 1, replicates: 2, controls: {matched: [none], tuned: []}}
resources: {gpus_per_trial: 0}
points_to_evaluate:
  - {source: killable, killable.steps: 6, synthetic_ratio: 1, lr: 1e-3}
  - {source: killable, killable.steps: 12, synthetic_ratio: 1, lr: 1e-3}
  - {source: none, lr: 1e-3}
"""
CODE = """\
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Settings:
    steps: int = 6


class Killable:
    Settings = Settings
    longer_by = "steps"
    pretrained_on = ()

    def fit(self, images, targets, *, settings, folder, seed, progress, **_):
        file = folder / "mean.npy"
        mean = np.load(file) if file.exists() else np.zeros((13, *images.shape[1:]))
        for step in range(int(mean[12, 0, 0]), settings.steps):
            kill_once(f"kill-{step}")
            mean[step] = images[(seed + step) % len(images)]
            mean[12] = step + 1
            np.save(folder / "new.npy", mean)
            (folder / "new.npy").rename(file)
            with Path(__file__).with_name("steps.txt").open("a") as log:
                log.write(f"{step}\\n")
            progress(step + 1, settings.steps)

    def sample(self, targets, *, folder, seed, **_):
        mean = np.load(folder / "mean.npy")
        of_steps = mean[: int(mean[12, 0, 0])]
        random = np.random.default_rng(seed)
        chosen = random.integers(len(of_steps), size=(2, len(targets)))
        return of_steps[chosen].mean(axis=0).astype(np.uint8)


def kill_once(name):
    order = Path(__file__).with_name(name)
    if order.exists():
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def _search(root: Path) -> None:
    with confirm_in_process():
        search(
            root / "space.yaml",
            extensions=[f"{root / 'killable.py'}:Killable"],
            studies=root / "studies",
            cache=root / "cache",
        )


def _confirm(root: Path) -> None:
    with confirm_in_process():
        confirm(root / "studies/killed", extensions=[f"{root / 'killable.py'}:Killable"])


def _exit_code(function: Callable[[Path], None], root: Path) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=function, args=(root,))
    process.start()
    process.join()
    return process.exitcode


def test_a_search_that_is_killed_ten_times_in_a_training_ends_as_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    draw_xrays(tmp_path, patients=160, seed=4)
    studies: dict[str, StudyFolder] = {}
    for name in ("killed", "undisturbed"):
        root = tmp_path / name
        root.mkdir()
        (root / "xrays").symlink_to(tmp_path / "xrays")
        (root / "space.yaml").write_text(SPACE)
        (root / "killable.py").write_text(CODE)
        studies[name] = StudyFolder(root / "studies/killed")
    for step in KILLED_BEFORE:
        (tmp_path / "killed" / f"kill-{step}").touch()

    codes = [_exit_code(_search, tmp_path / "killed") for _ in (*KILLED_BEFORE, "the last")]

    assert codes == [-signal.SIGKILL] * len(KILLED_BEFORE) + [0]
    assert _exit_code(_search, tmp_path / "undisturbed") == 0
    steps = (tmp_path / "killed/steps.txt").read_text().split()
    assert steps == [str(step) for step in range(12)], "none twice, and the longer run continues"
    generators = [path.name for path in (tmp_path / "killed/cache/extension-1").iterdir()]
    assert len([name for name in generators if not name.startswith(".")]) == 2
    trials, others = (status(study.path).trials for study in studies.values())
    assert len(trials) == 12
    assert {trial.parameters.source for trial in trials} == {"none", "killable"}
    assert [trial.value for trial in trials] == [trial.value for trial in others]
    for name in studies:
        assert _exit_code(_confirm, tmp_path / name) == 0
    verdict, other = (read_json(studies[name].path / "confirm/verdict.json") for name in studies)
    assert verdict["finalists"] == other["finalists"]
