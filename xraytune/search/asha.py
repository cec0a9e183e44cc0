"""The decision rule of ASHA (`Rungs.should_continue`): which trials continue past a rung, and which are pruned there.

A rung is an epoch at which a trial's value so far is compared with those of the trials that reached it before; the trial
continues if it is among the best 1/reduction of them. The state depends only on the values and their order of arrival,
so after a restart the rungs are rebuilt by replaying them. `TrialLoop` (loop.py) ends a trial that may not continue.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", in the stopping form of Ray Tune's
`AsyncHyperBandScheduler`, which makes the same decisions (tested).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterable

import numpy as np

from xraytune.space.settings import Objective, Settings

_HIGHER_IS_BETTER = Objective()


class Rungs:
    """The rungs of one study.

    Args:
        grace: Epochs that every trial gets; the first rung.
        reduction: Each rung is `reduction` times further than the last, and lets the best 1/reduction pass.
        max_epochs: The last epoch; a trial that reaches it is complete, not pruned.
        objective: Decides which values are better.
    """

    def __init__(
        self, *, grace: int, reduction: int, max_epochs: int, objective: Objective = _HIGHER_IS_BETTER
    ) -> None:
        self._reduction, self._rank = reduction, objective.rank
        # The decisions by trial, and the sorted values.
        self._rungs: dict[int, tuple[dict[Hashable, bool], list[float]]] = {}
        epoch = grace
        while epoch < max_epochs:
            self._rungs[epoch] = {}, []
            epoch *= reduction

    def should_continue(self, trial: Hashable, epoch: int, value: float) -> bool:
        """Return whether a trial that has `value` after `epoch` continues.

        The cutoff is the (1 - 1/reduction) quantile of the values that reached the rung before. Only the
        first value counts: a repeated call returns the same answer, even with another value, as after a restart on a
        machine that rounds differently.
        """
        decisions, values = self._rungs.get(epoch, (None, []))
        if decisions is None:
            return True
        if trial not in decisions:
            value = -self._rank(value)
            low, weight = divmod((len(values) - 1) * (1 - 1 / self._reduction), 1)
            near_cutoff = values[int(low) : int(low) + 2]  # the values are sorted
            decisions[trial] = not values or value >= float(np.quantile(near_cutoff, weight))
            insort(values, value)
        return decisions[trial]

    def reached(self) -> dict[int, int]:
        """Return how many trials reached each rung."""
        return {epoch: len(values) for epoch, (_, values) in self._rungs.items()}


def rungs_of(settings: Settings, reports: Iterable[tuple[int, int, float]]) -> Rungs:
    """Rebuild a study's rungs from `Journal.reports`: trial, epoch and value. Without ASHA, there are no rungs."""
    scheduler, last = settings.scheduler, settings.budget.max_epochs
    grace = scheduler.grace if scheduler.name == "asha" else last
    rungs = Rungs(grace=grace, reduction=scheduler.reduction, max_epochs=last, objective=settings.objective)
    for report in reports:
        rungs.should_continue(*report)
    return rungs
