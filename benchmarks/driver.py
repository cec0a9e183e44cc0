"""What a search costs per trial besides training.

A no-op trial is the cheapest that a search can run: it trains one step on cached features of 24 small images and writes all
files of a trial. Its marginal cost is compared with that of the function in Ray Tune's tutorial, which returns a number, run
with the defaults. Both exclude starting Ray: ours is the slope between the ends of an earlier and the last trial, Tune's
the difference between two runs of different length.

The cost of the search process alone, which draws trials and records their epochs and ends, is measured alternately in
studies of 200 and of 2,000 ended trials. The sampler is random, since TPE's own cost grows with the number of trials.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.figures import Figure, figure
from benchmarks.resume import SPACE, end_trials, open_study
from xraytune.data.phantom import draw_phantoms
from xraytune.nets.backbones import build_backbone
from xraytune.search.callbacks import Callbacks
from xraytune.search.run import search

_SIZES, _BATCH, _BATCHES = (200, 2000), 20, 15
_FIRST, _LAST, _ROUNDS = 20, 80, 3
_NO_OP = """\
version: 1
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
        draw_phantoms(root / "xrays", patients=20, seed=1, image_size_px=32)
        yield from _no_op_trials(root)
        yield from _search_process(root)


def _no_op_trials(root: Path) -> Iterator[Figure]:
    backbone, _ = build_backbone("small_cnn")
    save_file({name: one.contiguous() for name, one in backbone.state_dict().items()}, root / "backbone.safetensors")
    (root / "no-op.yaml").write_text(_NO_OP, encoding="utf-8")
    ours = [_our_seconds(root, round_) for round_ in range(_ROUNDS - 1)]
    theirs = _tune_seconds(root)
    ours.append(_our_seconds(root, _ROUNDS))
    yield figure("driver: no-op trial, xraytune", 1000 * statistics.median(ours), "ms")
    yield figure("driver: no-op trial, Ray Tune with its defaults", 1000 * theirs, "ms")
    yield figure("driver: no-op trial, xraytune / Ray Tune", statistics.median(ours) / theirs, "x", "<= 0.05")


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
    found = subprocess.run([sys.executable, root / "tune.py"], cwd=root, check=True, capture_output=True, text=True)
    return float(json.loads(found.stdout.strip().rpartition("\n")[2]))


def _search_process(root: Path) -> Iterator[Figure]:
    space = SPACE.replace("{name: none}\n", "{name: asha, grace: 1}\nsampler: {name: random}\n")
    (root / "space.yaml").write_text(space, encoding="utf-8")
    few, many = _SIZES
    wall, cpu = (dict[int, list[float]]({size: [] for size in _SIZES}) for _ in range(2))
    with open_study(root, 10**6, "few") as a, open_study(root, 10**6, "many") as b:
        studies = {few: a, many: b}
        for size, loop in studies.items():
            end_trials(loop, size - _BATCH * _BATCHES // 2)
        for _ in range(_BATCHES):
            for size, loop in studies.items():
                started, cpu_started = time.perf_counter(), time.process_time()
                end_trials(loop, _BATCH)
                wall[size].append((time.perf_counter() - started) / _BATCH)
                cpu[size].append((time.process_time() - cpu_started) / _BATCH)
    for what, found in (("wall time", wall), ("CPU time", cpu)):
        at = {size: statistics.median(found[size]) for size in _SIZES}
        for size in _SIZES:
            yield figure(f"driver: search process, {what} per trial after {size} trials", 1000 * at[size], "ms")
        yield figure(
            f"driver: search process, {what} per trial after {many} / after {few}", at[many] / at[few], "x", "<= 1.3"
        )
