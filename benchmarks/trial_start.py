"""What a trial costs beside its own work: from its start to its first epoch, in trials that do next to nothing."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, figure
from xraytune.data.phantom import draw_phantoms
from xraytune.search.messages import Callbacks
from xraytune.search.run import search

_TRIALS = 8
_SPACE = """\
version: 1
name: trial-start
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 8, max_epochs: 1, steps_per_epoch: 1}
"""


def measure() -> Iterator[Figure]:
    """The median over eight trials, as many at once as there are cores; and the whole search, Ray's start included."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_phantoms(root / "xrays", patients=20, seed=1, image_size_px=32)
        (root / "space.yaml").write_text(_SPACE, encoding="utf-8")
        began_at, first_epoch_at = dict[int, float](), dict[int, float]()
        callbacks = Callbacks(
            on_trial_start=lambda suggestion: began_at.update({suggestion.number: time.perf_counter()}),
            on_epoch=lambda number, _: first_epoch_at.update({number: time.perf_counter()}),  # a trial has one epoch
        )
        started = time.perf_counter()
        search(root / "space.yaml", studies=root / "studies", callbacks=callbacks)
        whole = time.perf_counter() - started
    waits = [first_epoch_at[number] - began_at[number] for number in range(_TRIALS)]
    yield figure("trial_start: from start to first epoch, median", statistics.median(waits), "s")
    yield figure(f"trial_start: a search of {_TRIALS} such trials", whole, "s")
