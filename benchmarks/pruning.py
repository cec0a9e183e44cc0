"""What pruning saves and what it hides, on the learning curves of real studies without pruning.

    xraytune search --space search_spaces/gan_ratio_cpu.yaml --data chest_xray --set name=unpruned \
        --set scheduler.name=none --set sampler.name=random --set budget.trials=60 --set trainable=all ...
    make bench ONLY=pruning STUDY=studies/unpruned

`STUDY` may name several studies, separated by commas. The recorded epochs of each are replayed 1,000 times, two trials at a
time in a random order. Regret is the best AUROC of all trials minus that of the chosen one: on val-A, which the scheduler
sees, the best complete trial there; on val-B, the trial that `export` would take. `arm 3/2` means rungs of each arm, the
first after epoch 3, and a reduction of 2; `all` shares them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, figure
from xraytune.base.seeding import numpy_generator
from xraytune.search.asha import Rungs
from xraytune.space.search_settings import SchedulerSettings
from xraytune.stats.classification import Floats
from xraytune.study.status import status

NEEDS = ("STUDY",)
_ORDERS, _SLOTS = 1000, 2
_OUTCOME = (
    *("share of epochs saved", "regret on val-A", "regret on val-B", "best arm on val-B found"),
    *("arms with fewer than two complete trials", "orders without a complete GAN trial"),
)
SCHEDULERS = {
    f"{within} {grace}/{reduction}": SchedulerSettings(
        grace=grace, reduction=reduction, within=within
    )
    for within in ("all", "arm")
    for grace, reduction in ((1, 3), (3, 2), (3, 3), (9, 3))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Best value of each trial up to each epoch, [trials, epochs]; its score on val-B, [trials], and its arm."""

    val_a: Floats
    val_b: Floats
    arms: Sequence[str]


def replay(curves: Curves, scheduler: SchedulerSettings, order: Sequence[int]) -> dict[int, int]:
    """Return the epochs of each trial under a scheduler."""
    last = curves.val_a.shape[1]
    rungs = Rungs(scheduler, max_epochs=last)
    waiting, running, epochs = list(order[::-1]), list[int](), dict[int, int]()
    while waiting or running:
        while waiting and len(running) < _SLOTS:
            running.append(waiting.pop())
        for trial in tuple(running):
            epochs[trial] = epoch = epochs.get(trial, 0) + 1
            value, arm = curves.val_a[trial, epoch - 1], curves.arms[trial]
            if epoch == last or not rungs.should_continue(trial, epoch, value, rung_group=arm):
                running.remove(trial)
    return epochs


def measure() -> Iterator[Figure]:
    """Yield what each scheduler saves and hides in each study."""
    for path in os.environ["STUDY"].split(","):
        study = status(Path(path))
        trials = [trial for trial in study.trials if trial.status == "complete"]
        curves = Curves(
            val_a=np.array([trial.values for trial in trials]),
            val_b=np.array([trial.val_b_score for trial in trials]),
            arms=[trial.arm for trial in trials],
        )
        for name, scheduler in SCHEDULERS.items():
            rows = [_outcome(curves, scheduler, seed) for seed in range(_ORDERS)]
            for label, value in zip(_OUTCOME, np.mean(rows, axis=0).tolist(), strict=True):
                yield figure(f"pruning: {study.name}, {name}: {label}", value, "")


def _outcome(curves: Curves, scheduler: SchedulerSettings, seed: int) -> tuple[float, ...]:
    order = numpy_generator(seed, "order").permutation(len(curves.val_b)).tolist()
    epochs = replay(curves, scheduler, order)
    last, best = curves.val_a.shape[1], int(curves.val_b.argmax())
    complete = [trial for trial, epoch in epochs.items() if epoch == last]
    chosen = max(complete, key=lambda trial: curves.val_b[trial])
    of_arm = Counter(curves.arms[trial] for trial in complete)
    return (
        1 - sum(epochs.values()) / (last * len(order)),
        curves.val_a[:, -1].max() - curves.val_a[complete, -1].max(),
        curves.val_b.max() - curves.val_b[chosen],
        curves.arms[chosen] == curves.arms[best],
        sum(of_arm[arm] < min(2, count) for arm, count in Counter(curves.arms).items()),
        not any("gan" in arm for arm in of_arm),
    )
