"""Which trials continue past a rung, and which are pruned there: the decision rule of ASHA.

A rung is an epoch at which a trial's best value so far is compared with the values of the trials
that reached the rung before; the trial continues if it is among the best 1/reduction of them. The
state depends only on the values and their order of arrival, so after a restart the rungs are
rebuilt by replaying the values. `TrialLoop` (loop.py) ends a trial that may not continue.

Trials with equal settings are one trial here: a repeat gets the decision of the first one, and is
no further value that other trials must beat.

With `within: arm`, a trial is compared only with its rung group, the trials with the same arm
and mixing. A network that is trained on extra images in each step, or first on extra images alone,
learns later. Shared rungs would therefore prune whole arms before they can be compared
(docs/report.md, "Pruned trials").

From: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", in the stopping
form of Ray Tune's `AsyncHyperBandScheduler`, which makes the same decisions with `within: all`
(tested).
"""

from collections.abc import Hashable, Iterable

import numpy as np

from xraytune.space.search_settings import SchedulerSettings

_FIRST_OF_ARM = 2
"""How many trials of a group pass each rung in any case, so that the best trial of an arm is chosen
from several."""


class Rungs:
    """The rungs of one study.

    Args:
        scheduler: Settings of the scheduler; if its name is `none`, there are no rungs.
        max_epochs: The last epoch; a trial that reaches it is complete, not pruned.
        reports: What trials have reported until now, from `Journal.rung_reports`.

    Attributes:
        epochs: The epochs of the rungs.
    """

    def __init__(
        self,
        scheduler: SchedulerSettings,
        *,
        max_epochs: int,
        reports: Iterable[tuple[Hashable, int, float, str]] = (),
    ) -> None:
        self._scheduler = scheduler
        self.epochs: list[int] = []
        epoch = scheduler.grace
        while scheduler.name == "asha" and epoch < max_epochs:
            self.epochs.append(epoch)
            epoch *= scheduler.reduction
        # For each rung group and epoch, the decision on each settings, and the values.
        self._reached: dict[tuple[str, int], tuple[dict[Hashable, bool], list[float]]] = {}
        for report in reports:
            self.should_continue(*report)

    def should_continue(
        self, settings: Hashable, epoch: int, value: float, rung_group: str = ""
    ) -> bool:
        """Return whether a trial with these `settings` that has `value` after `epoch` continues.

        The cutoff is the (1 - 1/reduction) quantile of the values of the trials that reached the
        rung before, in the trial's `rung_group` or among all trials. Only the first value of the
        settings at a rung counts: a repeated call returns the same answer, even with another value,
        such as after a restart on a machine that rounds differently.
        """
        if epoch not in self.epochs:
            return True
        is_by_arm = self._scheduler.within == "arm"
        group = rung_group if is_by_arm else ""
        decisions, values = self._reached.setdefault((group, epoch), ({}, []))
        if settings not in decisions:
            is_first = len(values) < (_FIRST_OF_ARM if is_by_arm else 1)
            share = 1 - 1 / self._scheduler.reduction
            decisions[settings] = is_first or value >= float(np.quantile(values, share))
            values.append(value)
        return decisions[settings]
