"""The regret of ASHA, successive halving and Hyperband on the learning curves of a real study without pruning.

    xraytune search --space search_spaces/gan_ratio_cpu.yaml --data chest_xray --set name=unpruned \
        --set scheduler.name=none --set sampler.name=random --set budget.trials=40 --set points_to_evaluate=[] \
        --set data.image_size=64 --set gan.image_size=32 --set gan.width=16 --set "gan.steps={values: [300, 1200]}"
    make bench ONLY=pruning STUDY=studies/unpruned

The recorded epochs are replayed 1,000 times, two trials at a time in a random order. Regret is the best AUROC of all trials
minus that of the chosen one: on val-A, which the scheduler sees, the best complete trial there; on val-B, the trial that
`export` would take. Saved epochs could pay for more trials, so each is fixed in turn: 24 trials, and 216 epochs (a third of
those of 24 trials). `3/2` means a first rung after epoch 3 and a reduction of 2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from benchmarks.figures import Figure, figure
from xraytune.base.seeding import numpy_generator
from xraytune.search.asha import Rungs
from xraytune.stats.classification import Floats
from xraytune.study.status import status

NEEDS = ("STUDY",)
_ORDERS, _TRIALS, _SLOTS = 1000, 24, 2
_OUTCOME = ("epochs", "regret on val-A", "regret on val-B", "orders without a complete GAN trial")
_BRACKETS = {1: 27, 3: 12, 9: 6, 27: 4}
"""Hyperband with 27 epochs and a reduction of 3: grace of each bracket -> its trials (Li et al. 2018, table 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Best value of each trial up to each epoch, [trials, epochs]; its score on val-B and its source, [trials]."""

    val_a: Floats
    val_b: Floats
    is_gan: NDArray[np.bool_]


Scheduler = Callable[[Curves, Sequence[int], int], dict[int, int]]
"""Maps curves, trials in order and a budget of epochs to the epochs of each trial."""


def asha(graces: Sequence[int], reduction: int) -> Scheduler:
    """ASHA as a search runs it; with several graces, which alternate from trial to trial, asynchronous Hyperband."""

    def run(curves: Curves, order: Sequence[int], budget: int) -> dict[int, int]:
        last = curves.val_a.shape[1]
        rungs = {grace: Rungs(grace=grace, reduction=reduction, max_epochs=last) for grace in graces}
        own = {trial: rungs[graces[17 * place % len(graces)]] for place, trial in enumerate(order)}
        waiting, running, epochs = list(order[::-1]), list[int](), dict[int, int]()
        while (waiting or running) and sum(epochs.values()) < budget:
            while waiting and len(running) < _SLOTS:
                running.append(waiting.pop())
            for trial in tuple(running):
                epochs[trial] = epoch = epochs.get(trial, 0) + 1
                if epoch == last or not own[trial].should_continue(trial, epoch, curves.val_a[trial, epoch - 1]):
                    running.remove(trial)
        return epochs

    return run


def halving(shares: dict[int, int]) -> Scheduler:
    """Synchronous successive halving with a reduction of 3; with several graces, Hyperband with these shares of trials."""

    def bracket(curves: Curves, trials: Sequence[int], grace: int) -> dict[int, int]:
        epochs, last = dict.fromkeys(trials, grace), curves.val_a.shape[1]
        while grace < last and trials:
            trials = sorted(trials, key=lambda trial: -curves.val_a[trial, grace - 1])[: max(1, len(trials) // 3)]
            grace = min(3 * grace, last)
            epochs |= dict.fromkeys(trials, grace)
        return epochs

    def run(curves: Curves, order: Sequence[int], budget: int) -> dict[int, int]:
        for count in range(len(order), 0, -1):
            ends = np.round(np.cumsum([0, *shares.values()]) / sum(shares.values()) * count).astype(int)
            parts = zip(shares, ends[:-1], ends[1:], strict=True)
            found = {k: v for grace, a, b in parts for k, v in bracket(curves, order[a:b], grace).items()}
            if sum(found.values()) <= budget:
                return found
        return {}

    return run


SCHEDULERS: dict[str, Scheduler] = {
    "none": asha([27], 3),
    **{f"ASHA {g}/{r}": asha([g], r) for g, r in ((1, 2), (1, 3), (1, 4), (3, 2), (3, 3), (3, 4), (9, 3))},
    **{f"successive halving {g}/3": halving({g: 1}) for g in (1, 3, 9)},
    "Hyperband": halving(_BRACKETS),
    "asynchronous Hyperband": asha([g for g, n in _BRACKETS.items() for _ in range(n)], 3),
}


def measure() -> Iterator[Figure]:
    """Yield rank correlations with the last epoch; then epochs, regrets and missing GAN trials of each scheduler."""
    study = status(Path(os.environ["STUDY"]))
    trials = [trial for trial in study.trials if trial.status == "complete"]
    curves = Curves(
        val_a=np.array([trial.values for trial in trials]),
        val_b=np.array([trial.val_b_score for trial in trials]),
        is_gan=np.array([trial.parameters.source == "gan" for trial in trials]),
    )
    last = curves.val_a.shape[1]
    for epoch in (1, 3, 9, last):
        now, of = curves.val_a[:, epoch - 1], f"pruning: {study.name} after epoch {epoch}:"
        agreement = spearmanr(now, curves.val_a[:, -1]).statistic
        yield figure(f"{of} rank correlation with the last epoch", agreement, "")
        gap = np.median(now[~curves.is_gan]) - np.median(now[curves.is_gan])
        yield figure(f"{of} median without GAN images minus median with them", gap, "AUROC")
    for name, scheduler in SCHEDULERS.items():
        for what, count, budget in (("24 trials", _TRIALS, 10**6), ("216 epochs", len(trials), _TRIALS * last // 3)):
            rows = [_outcome(curves, scheduler, count, budget, seed) for seed in range(_ORDERS)]
            for label, value in zip(_OUTCOME, np.mean(rows, axis=0).tolist(), strict=True):
                yield figure(f"pruning: {study.name}, {what}, {name}: {label}", value, "")


def _outcome(curves: Curves, scheduler: Scheduler, count: int, budget: int, seed: int) -> tuple[float, ...]:
    order = numpy_generator(seed, "order").permutation(len(curves.val_b))[:count].tolist()
    epochs = scheduler(curves, order, budget)
    complete = [trial for trial, epoch in epochs.items() if epoch == curves.val_a.shape[1]]
    regrets = (scores.max() - scores[complete].max() for scores in (curves.val_a[:, -1], curves.val_b))
    return sum(epochs.values()), *regrets, not curves.is_gan[complete].any()
