"""What a search costs per trial besides training.

A no-op trial is the cheapest that a search can run: it trains one step on cached features of 24
small images and writes all files of a trial. Its marginal cost is compared with that of the
function in Ray Tune's tutorial, which returns a number, run with the defaults. Both exclude
starting Ray: ours is the slope between the ends of an earlier and the last trial, Tune's the
difference between two runs of different length.

The cost of the search process alone, which draws trials and records their epochs and ends, is
measured alternately in studies of 200 and of 2,000 ended trials. The sampler is random, since TPE's
own cost grows with the number of trials.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.figures import Figure, figure
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import prepare
from xraytune.nets.backbones import build_backbone
from xraytune.nets.compute import choose_compute
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.run import search
from xraytune.search.trials import SearchTrials
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.start import create_study
from xraytune.study.trial import OpenTrial

_SIZES, _BATCH, _BATCHES, _EPOCHS = (200, 2000), 20, 15, 5
_FIRST, _LAST, _ROUNDS = 20, 80, 3
_SPACE = """\
name: driver
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, duplicate]}
  synthetic_ratio: {values: [0.25, 0.5, 1.0, 2.0], when: {source: duplicate}}
  augmentation: {values: [none, flip, affine]}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 1000000, max_epochs: 5, steps_per_epoch: 1}
scheduler: {name: asha, grace: 1}
sampler: {name: random}
"""
_NO_OP = """\
name: no-op
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  backbone: {value: small_cnn}
  weights: {value: backbone.safetensors}
  trainable: {value: head}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 80, max_epochs: 1, steps_per_epoch: 1}
scheduler: {name: none}
"""
_TUNE = """\
import json, sys, time
from ray import tune

def objective(config):
    return {"score": config["a"] ** 2 + config["b"]}

def seconds(trials):
    started = time.perf_counter()
    space = {"a": tune.uniform(0, 1), "b": tune.uniform(0, 1)}
    tune.Tuner(objective, param_space=space, tune_config=tune.TuneConfig(num_samples=trials)).fit()
    return time.perf_counter() - started

seconds(2)  # starts Ray
few, many = 4, 24
before = seconds(few)
print(json.dumps((seconds(many) - before) / (many - few)))
"""


def measure() -> Iterator[Figure]:
    """Measure no-op trials, then the search process alone."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        paint_phantoms(root / "xrays", patients=20, seed=1, image_size_px=32)
        yield from _no_op_trials(root)
        yield from _search_process(root)


def _no_op_trials(root: Path) -> Iterator[Figure]:
    backbone, _ = build_backbone("small_cnn")
    save_file(
        {name: one.contiguous() for name, one in backbone.state_dict().items()},
        root / "backbone.safetensors",
    )
    (root / "no-op.yaml").write_text(_NO_OP, encoding="utf-8")
    ours = [_our_seconds(root, round_) for round_ in range(_ROUNDS - 1)]
    theirs = _tune_seconds(root)
    ours.append(_our_seconds(root, _ROUNDS))
    yield figure("driver: no-op trial, xraytune", 1000 * statistics.median(ours), "ms")
    yield figure("driver: no-op trial, Ray Tune with its defaults", 1000 * theirs, "ms")
    yield figure(
        "driver: no-op trial, xraytune / Ray Tune", statistics.median(ours) / theirs, "x", "<= 0.05"
    )


def _our_seconds(root: Path, round_: int) -> float:
    ends = list[float]()
    search(
        root / "no-op.yaml",
        studies=root / f"studies-{round_}",
        cache=root / "cache",
        callbacks=Callbacks(on_trial_end=lambda _: ends.append(time.perf_counter())),
    )
    return (ends[-1] - ends[_FIRST]) / (_LAST - 1 - _FIRST)


def _tune_seconds(root: Path) -> float:
    (root / "tune.py").write_text(_TUNE, encoding="utf-8")
    found = subprocess.run(
        [sys.executable, root / "tune.py"], cwd=root, check=True, capture_output=True, text=True
    )
    return float(json.loads(found.stdout.strip().rpartition("\n")[2]))


def _search_process(root: Path) -> Iterator[Figure]:
    (root / "space.yaml").write_text(_SPACE, encoding="utf-8")
    few, many = _SIZES
    wall, cpu = (dict[int, list[float]]({size: [] for size in _SIZES}) for _ in range(2))
    with _open_study(root, "few") as a, _open_study(root, "many") as b:
        studies = {few: a, many: b}
        for size, loop in studies.items():
            _end_trials(loop, size - _BATCH * _BATCHES // 2)
        for _ in range(_BATCHES):
            for size, loop in studies.items():
                started, cpu_started = time.perf_counter(), time.process_time()
                _end_trials(loop, _BATCH)
                wall[size].append((time.perf_counter() - started) / _BATCH)
                cpu[size].append((time.process_time() - cpu_started) / _BATCH)
    for what, found in (("wall time", wall), ("CPU time", cpu)):
        at = {size: statistics.median(found[size]) for size in _SIZES}
        for size in _SIZES:
            yield figure(
                f"driver: search process, {what} per trial after {size} trials",
                1000 * at[size],
                "ms",
            )
        yield figure(
            f"driver: search process, {what} per trial after {many} / after {few}",
            at[many] / at[few],
            "x",
            "<= 1.3",
        )


@contextmanager
def _open_study(root: Path, studies: str) -> Iterator[TrialLoop]:
    """Create a study, hold its lock and yield a loop without workers."""
    space = load_space(root / "space.yaml")
    prepared, _ = prepare(space.settings, root / "cache")
    folder = StudyFolder(root / studies / "driver")
    create_study(folder, space, prepared, choose_compute(gpus=0, threads=1))
    with locked(folder):
        yield SearchTrials(folder, space, lambda *_: None)


def _end_trials(loop: TrialLoop, count: int) -> None:
    """Draw `count` trials and report the epochs and the end of each, as a worker would."""
    for _ in range(count):
        suggestion = loop.next_trial()
        assert isinstance(suggestion, OpenTrial)
        value = random.Random(suggestion.number).random()
        for epoch in range(1, _EPOCHS + 1):
            losses = {
                "train_loss": 0.5,
                "val_loss": 0.5,
                "val_score": value,
                "best_val_score": value,
            }
            record = EpochRecord(epoch=epoch, steps=epoch, lr=1e-3, seconds=1.0, **losses)
            if not loop.on_result(suggestion.number, record):
                break
        result = TrialResult(
            value=value, best_epoch=1, epochs=_EPOCHS, val_b_score=value, threshold=0.5
        )
        loop.on_result(suggestion.number, result)
