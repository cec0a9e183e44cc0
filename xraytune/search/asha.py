"""ASHA as arithmetic: which trials go on past a rung.

A rung is an epoch at which a trial's value so far is compared with those of the trials that were there before it; it goes
on when it is in the best 1/reduction of them. The state follows from the values in their order of arrival alone, so after
a restart the rungs are rebuilt by hearing them again.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", in the stopping form that Ray Tune's
`AsyncHyperBandScheduler` has, to which it is equal (tested).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from xraytune.config.settings import Settings


class Rungs:
    """The rungs of one study.

    Args:
        grace: Epochs that every trial gets; the first rung.
        reduction: Each rung lies `reduction` times further, and lets the best 1/reduction pass.
        max_epochs: The last epoch; a trial that gets there has ended, not been stopped.
    """

    def __init__(self, *, grace: int, reduction: int, max_epochs: int) -> None:
        self._reduction = reduction
        self._values: dict[int, dict[int, float]] = {}
        epoch = grace
        while epoch < max_epochs:
            self._values[epoch] = {}
            epoch *= reduction

    def goes_on(self, trial: int, epoch: int, value: float) -> bool:
        """Whether a trial that has `value` after `epoch` goes on.

        Asked again for the same epoch it says the same, also where the value has become another: after a lost checkpoint
        on a machine that rounds otherwise.

        The cutoff is the (1 - 1/reduction) quantile of the values that reached the rung before.
        """
        recorded = self._values.get(epoch)
        if recorded is None:
            return True
        earlier = []
        for other, other_value in recorded.items():
            if other == trial:
                break
            earlier.append(other_value)
        value = recorded.setdefault(trial, value)
        return not earlier or value >= float(np.quantile(earlier, 1 - 1 / self._reduction))

    def reached(self) -> dict[int, int]:
        """How many trials reached each rung."""
        return {epoch: len(values) for epoch, values in self._values.items()}


def rungs_of(settings: Settings, reports: Iterable[tuple[int, int, float]]) -> Rungs:
    """Rebuild the rungs of a study; without ASHA it has none.

    Args:
        settings: The study's.
        reports: Trial, epoch and value in their order of arrival, as `Journal.reports` gives them.
    """
    scheduler, last = settings.scheduler, settings.budget.max_epochs
    grace = scheduler.grace if scheduler.name == "asha" else last
    rungs = Rungs(grace=grace, reduction=scheduler.reduction, max_epochs=last)
    for trial, epoch, value in reports:
        rungs.goes_on(trial, epoch, value)
    return rungs
