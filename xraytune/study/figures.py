"""Optuna's charts of a search, as Plotly figures in plain dicts.

Unlike in Optuna, a pruned or running trial has its last score: where ASHA prunes most trials, few points would be left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import optuna
from optuna import visualization
from optuna.trial import TrialState, create_trial

from xraytune.study.journal import Journal, quiet_optuna
from xraytune.study.status import StudyView

Figure: TypeAlias = dict[str, Any]
_IMPORTANCE_TRIALS = 20
"""PED-ANOVA compares the top tenth with all trials; with fewer trials, that is a single one."""


def search_figures(journal: Journal, view: StudyView) -> dict[str, Figure]:
    """Return `history`, `importances`, and for each parameter `slice NAME`.

    Without enough trials, a figure is missing, as are parameters without two values.
    """
    scores = {trial.number: trial.values[-1] for trial in view.trials if trial.values and trial.status != "failed"}
    with quiet_optuna():
        return dict(_figures(journal, view, scores)) if scores else {}


def _figures(journal: Journal, view: StudyView, scores: Mapping[int, float]) -> Iterator[tuple[str, Figure]]:
    scored = [trial for trial in journal.trials if trial.number in scores]
    searched = [name for name in view.searched if len({trial.params.get(name) for trial in scored}) > 1]
    study = _study(journal, view, scores)
    yield "history", _plain(visualization.plot_optimization_history(study))
    for name in searched:
        yield f"slice {name}", _plain(visualization.plot_slice(study, [name]))
    if len(searched) > 1 and len(scores) >= _IMPORTANCE_TRIALS:
        yield "importances", _plain(visualization.plot_param_importances(study, params=searched))


def _study(journal: Journal, view: StudyView, scores: Mapping[int, float]) -> optuna.Study:
    """Return a copy in memory where the trials with a score are complete; the others keep their numbers, but failed."""
    study = optuna.create_study(direction=view.objective.goal)
    for trial in journal.trials:
        score = scores.get(trial.number)
        state = TrialState.FAIL if score is None else TrialState.COMPLETE
        study.add_trial(create_trial(state=state, value=score, params=trial.params, distributions=trial.distributions))
    return study


def _plain(figure: Any) -> Figure:
    content: Figure = json.loads(figure.to_json())
    return content
