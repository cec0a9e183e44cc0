"""How long a search takes to its first trained epoch, in a new study and in one with two thousand ended trials."""

from __future__ import annotations

import math
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import Figure, figure
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import prepare
from xraytune.nets.compute import choose_compute
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.messages import EpochEnded, TrialEnded
from xraytune.search.run import search
from xraytune.search.trials import SearchTrials
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.journal import Journal
from xraytune.study.start import create_study
from xraytune.study.suggestion import TrialSuggestion

_TRIALS, _EPOCHS, _ROUNDS = 2000, 5, 3
SPACE = """\
version: 1
name: resume
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, duplicate]}
  synthetic_ratio: {values: [0.25, 0.5, 1.0, 2.0], when: {source: duplicate}}
  classical: {values: [0, 1, 2]}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 1, max_epochs: 5, steps_per_epoch: 1}
scheduler: {name: none}
"""


def measure() -> Iterator[Figure]:
    """The best of three rounds of each, in turn; Ray's start, the same for both, is in it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_phantoms(root / "xrays", patients=20, seed=1, image_size_px=32)
        (root / "space.yaml").write_text(SPACE, encoding="utf-8")
        _fill(root)
        new, resumed = math.inf, math.inf
        for round_ in range(_ROUNDS):
            shutil.rmtree(root / "new", ignore_errors=True)
            new = min(new, _seconds(root, root / "new", 1))
            resumed = min(resumed, _seconds(root, root / "old", _TRIALS + 1 + round_))
    yield figure("resume: a new study, to its first epoch", new, "s")
    yield figure(f"resume: one of {_TRIALS} ended trials, to its next first epoch", resumed, "s")
    yield figure(f"resume: {_TRIALS} ended trials against a new study", resumed / new, "x", "<= 1.5")


def _fill(root: Path) -> None:
    """A study whose trials have ended, as a search writes it; nobody trained them."""
    with open_study(root, _TRIALS) as loop:
        end_trials(loop, _TRIALS)


@contextmanager
def open_study(root: Path, trials: int, studies: str = "old") -> Iterator[TrialLoop]:
    """Create a study of `trials` trials, hold its lock and yield a loop without workers."""
    space = load_space(root / "space.yaml", [f"budget.trials={trials}"])
    prepared, _ = prepare(space.settings, root / "cache")
    folder = StudyFolder(root / studies / "resume")
    create_study(folder, space, prepared, choose_compute(gpus=0, threads=1))
    with locked(folder):
        journal = Journal(folder.journal_path, space, writable=True)
        yield TrialLoop(SearchTrials(folder, space, journal), generator_need=lambda _: None)


def end_trials(loop: TrialLoop, count: int) -> None:
    """Draw `count` trials and report the epochs and the end of each, as a worker would."""
    for _ in range(count):
        suggestion = loop.next_trial()
        assert isinstance(suggestion, TrialSuggestion)
        value = random.Random(suggestion.number).random()
        for epoch in range(1, _EPOCHS + 1):
            losses = {"train_loss": 0.5, "val_loss": 0.5, "val_score": value, "best_val_score": value}
            record = EpochRecord(epoch=epoch, steps=epoch, lr=1e-3, seconds=1.0, **losses)
            if not loop.on_result(suggestion.number, EpochEnded(record=record)):
                break
        result = TrialResult(value=value, best_epoch=1, epochs=_EPOCHS, val_b_score=value, threshold=0.5, seconds=5.0)
        loop.on_result(suggestion.number, TrialEnded(result=result))


def _seconds(root: Path, studies: Path, trials: int) -> float:
    epochs_at, started = list[float](), time.perf_counter()
    search(
        root / "space.yaml",
        overrides=[f"budget.trials={trials}"],
        studies=studies,
        cache=root / "cache",
        callbacks=Callbacks(on_epoch=lambda *_: epochs_at.append(time.perf_counter())),
    )
    return epochs_at[0] - started
