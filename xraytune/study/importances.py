"""Optuna's charts of a search, as Plotly figures in plain dicts, of its complete trials.

Trials that were pruned, or still run, have trained for fewer epochs: their scores are not comparable. The learning curves
show them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from optuna import visualization
from optuna.trial import TrialState

from xraytune.study.journal import Journal, quiet_optuna
from xraytune.study.status import StudyView

Figure: TypeAlias = dict[str, Any]
_IMPORTANCE_TRIALS = 20
"""PED-ANOVA compares the top tenth with all complete trials; with fewer trials, that is a single one."""


def search_figures(journal: Journal, view: StudyView) -> dict[str, Figure]:
    """Return `importances`, and for each parameter `slice NAME`.

    Without enough complete trials, a figure is missing, as are parameters without two values.
    """
    with quiet_optuna():
        return dict(_figures(journal, view)) if "complete" in view.counts else {}


def _figures(journal: Journal, view: StudyView) -> Iterator[tuple[str, Figure]]:
    complete = [trial for trial in journal.trials if trial.state is TrialState.COMPLETE]
    searched = [name for name in view.searched if len({trial.params.get(name) for trial in complete}) > 1]
    study = journal.study
    for name in searched:
        yield f"slice {name}", _plain(visualization.plot_slice(study, [name]))
    if len(searched) > 1 and len(complete) >= _IMPORTANCE_TRIALS:
        yield "importances", _plain(visualization.plot_param_importances(study, params=searched))


def _plain(figure: Any) -> Figure:
    content: Figure = json.loads(figure.to_json())
    return content
