"""How much each searched parameter matters for the score, by Optuna's PED-ANOVA."""

from __future__ import annotations

from optuna.importance import get_param_importances
from optuna.trial import TrialState

from xraytune.study.journal import Journal, quiet_optuna

_FEWEST_TRIALS = 20
"""PED-ANOVA compares the top tenth with all complete trials; with fewer trials, that is a single one."""


def parameter_importances(journal: Journal) -> dict[str, float]:
    """Return the importance of each parameter in the complete trials, the highest first; the sum is 1.

    Without enough complete trials or a second parameter, there are none.
    """
    complete = [trial for trial in journal.trials if trial.state is TrialState.COMPLETE]
    if len(complete) < _FEWEST_TRIALS:
        return {}
    with quiet_optuna():
        shares = get_param_importances(journal.study)
    return shares if len(shares) > 1 else {}
