"""The charts of a report, as Plotly figures; page.js adds the colours of the theme.

In all charts of trials, the colour shows the source of extra images; colours are distinct for
colour-blind readers (Okabe and Ito 2008). `optuna.visualization` colours by trial number, so it
cannot show the arms.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from xraytune.present.forest import GREY, LEGEND, VERTICAL
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView
from xraytune.synth.sources.registry import source_of


def plot_learning_curves(view: StudyView, rungs: Sequence[int]) -> Any:
    """Plot the best score so far of each trial after each epoch, by arm.

    The curve of each arm's best trial is emphasised.
    """
    trials = [trial for trial in view.trials if trial.values]
    best_of_arm = {trial.arm: trial for trial in (*trials, *view.ranked[::-1])}
    figure = go.Figure()
    for trial in sorted(trials, key=lambda trial: (trial is best_of_arm[trial.arm], trial.arm)):
        is_best = trial is best_of_arm[trial.arm]
        figure.add_scatter(
            mode="lines" if len(trial.values) > 1 else "markers",
            x=[*range(1, len(trial.values) + 1)],
            y=trial.values,
            hovertext=f"#{trial.number} {trial.mix}",
            name=trial.arm,
            legendgroup=trial.arm,
            line_color=source_of(trial.parameters).colour,
            line_dash="dot" if trial.parameters.classical_methods else "solid",
            line_width=2.5 if is_best else 1.2,
            opacity=1 if is_best else 0.4,
            showlegend=is_best,
        )
    for epoch in rungs:
        figure.add_shape(VERTICAL, x0=epoch, x1=epoch, line={**GREY, "dash": "dot"})
    figure.update_xaxes(title="epoch", range=(0, 1.03 * view.max_epochs))
    _scale_scores(figure, view, trials)
    figure.update_yaxes(title=f"val-A {view.metric}, best so far")
    figure.update_layout(legend=LEGEND, height=420)
    return figure


def plot_parameter(name: str, view: StudyView) -> Any:
    """Plot the score of each complete trial at its value of one parameter.

    Numbers that span more than a factor of ten are on a logarithmic axis. If the parameter is
    categorical, the sources stand side by side at each choice.
    """
    trials = [trial for trial in view.ranked if name in view.values_of(trial)]
    values: list[Any] = [view.values_of(trial)[name] for trial in trials]
    is_number = all(type(value) in (int, float) for value in values)
    is_wide = is_number and 0 < 10 * min(values) < max(values)
    table = pd.DataFrame(
        {
            name: values if is_number else [*map(str, values)],
            "score": [trial.value for trial in trials],
            "trial": [f"#{trial.number} {trial.mix}" for trial in trials],
            "by source": [trial.parameters.source for trial in trials],
        }
    )
    colours = {trial.parameters.source: source_of(trial.parameters).colour for trial in trials}
    columns = {"x": name, "y": "score", "color": "by source", "hover_name": "trial"}
    if is_number:
        figure = px.scatter(table, log_x=is_wide, color_discrete_map=colours, **columns)
    else:
        mode = "overlay" if name == "source" else "group"
        figure = px.strip(table, stripmode=mode, color_discrete_map=colours, **columns)
        figure.update_xaxes(type="category", categoryorder="category ascending")
    if is_wide:
        figure.update_xaxes(dtick=1, tickformat="~g")
    figure.update_traces(marker={"size": 9, "opacity": 0.85})
    _scale_scores(figure, view, trials)
    figure.update_layout(showlegend=False, margin_t=16, height=270)
    return figure


def _scale_scores(figure: Any, view: StudyView, trials: Sequence[TrialRow]) -> None:
    """Limit the axis to the upper three quarters of the scores, where trials differ little.

    With fewer than four scores, the axis shows them all.
    """
    figure.update_yaxes(title=f"val-A {view.metric}")
    scores = [trial.value for trial in trials if trial.value is not None]
    if scores:
        low = float(np.quantile(scores, 0.25)) if len(scores) >= 4 else min(scores)
        space = max(0.1 * (max(scores) - low), 5e-3)
        figure.update_yaxes(range=(low - space, max(scores) + space))
