"""The charts of a report, as Plotly figures; page.js adds the colours of the theme.

Colours follow the source of extra images in all charts; they are distinct for colour-blind readers
(Okabe and Ito 2008). `optuna.visualization` colours by trial number, so it cannot show the arms.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from xraytune.confirm.record import FinalistVerdict
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView
from xraytune.synth.sources.which import source_of

_COLOURS = {
    "better": "#009e73",
    "equivalent": "#2288cc",
    "worse": "#d55e00",
    "no better": "#7a5fb5",
    "undecided": "#8c8c8c",
}
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "title": ""}
_GREY = "#8c8c8c"


def plot_differences(finalist: FinalistVerdict, metric: str, rope: float) -> Any:
    """Plot the differences of a finalist from its controls, with intervals and the ROPE."""
    rows = [
        {
            "control": "<br>".join(textwrap.wrap(row.control, 26)),
            "difference": row.difference,
            "above": row.high - row.difference,
            "below": row.difference - row.low,
            "result": finalist.words(row)[0],
            "95 % interval": f"{row.low:+.4f} to {row.high:+.4f}",
        }
        for row in finalist.comparisons[::-1]
    ]
    names = [row["control"] for row in rows]
    figure = px.scatter(
        pd.DataFrame(rows),
        x="difference",
        y="control",
        error_x="above",
        error_x_minus="below",
        color="result",
        symbol="result",
        color_discrete_map=_COLOURS,
        hover_data={"difference": ":+.4f", "95 % interval": True},
    )
    figure.update_traces(marker_size=11, error_x={"width": 5, "thickness": 1.4})
    figure.add_vrect(-rope, rope, fillcolor="rgba(140,140,140,0.18)", line_width=0, layer="below")
    _add_line(figure, 0, "solid")
    figure.update_xaxes(title=f"difference in {metric}<br>grey: ROPE ±{rope:g}", nticks=6)
    figure.update_yaxes(title="", categoryorder="array", categoryarray=names, showgrid=False)
    figure.update_layout(legend=_LEGEND, height=160 + 44 * len(names))
    return figure


def plot_learning_curves(view: StudyView, rungs: Sequence[int]) -> Any:
    """Plot the best score so far of each trial after each epoch, by arm.

    The curve of the best trial of each arm is strong.
    """
    best_of_arm = {trial.arm: trial for trial in view.ranked[::-1]}
    groups: dict[tuple[bool, str], list[TrialRow]] = {}
    for trial in view.trials:
        if trial.values:
            groups.setdefault((trial is best_of_arm.get(trial.arm), trial.arm), []).append(trial)

    figure = go.Figure()
    for (is_best, arm), trials in sorted(groups.items()):
        points: list[tuple[int | None, float | None, str]] = []
        for trial in trials:
            label = f"#{trial.number} {trial.mix}"
            points += [(epoch, score, label) for epoch, score in enumerate(trial.values, start=1)]
            points.append((None, None, ""))  # a gap between two curves
        epochs, scores, labels = zip(*points, strict=True)
        first = trials[0].parameters
        figure.add_scatter(
            mode="lines" if view.max_epochs > 1 else "markers",
            x=epochs,
            y=scores,
            hovertext=labels,
            name=arm,
            legendgroup=arm,
            line_color=source_of(first).colour,
            line_dash="dot" if first.classical else "solid",
            line_width=2.5 if is_best else 1.2,
            opacity=1 if is_best else 0.4,
            showlegend=is_best or arm not in best_of_arm,
        )
    for epoch in rungs:
        _add_line(figure, epoch, "dot")
    figure.update_xaxes(title="epoch", rangemode="tozero")
    _scale_scores(figure, view, view.trials)
    figure.update_layout(legend=_LEGEND, height=420)
    return figure


def plot_parameter(name: str, view: StudyView) -> Any:
    """Plot the score of each complete trial at its value of one parameter.

    Numbers that span more than a factor of ten are on a logarithmic axis. At a choice, sources
    stand side by side.
    """
    trials = [trial for trial in view.ranked if trial.by_name.get(name) is not None]
    values: list[Any] = [trial.by_name[name] for trial in trials]
    is_number = all(type(value) in (int, float) for value in values)
    is_wide = is_number and 0 < 10 * min(values) < max(values)
    table = {
        name: values if is_number else [*map(str, values)],
        "score": [trial.value for trial in trials],
        "trial": [f"#{trial.number} {trial.mix}" for trial in trials],
        "by source": [trial.parameters.source for trial in trials],
    }
    shared = {
        "x": name,
        "y": "score",
        "color": "by source",
        "color_discrete_map": {
            trial.parameters.source: source_of(trial.parameters).colour for trial in trials
        },
        "hover_name": "trial",
    }
    if is_number:
        figure = px.scatter(pd.DataFrame(table), log_x=is_wide, **shared)
    else:
        mode = "overlay" if name == "source" else "group"
        figure = px.strip(pd.DataFrame(table), stripmode=mode, **shared)
        figure.update_xaxes(type="category", categoryorder="category ascending")
    if is_wide:
        figure.update_xaxes(dtick=1, tickformat="~g")
    figure.update_traces(marker={"size": 9, "opacity": 0.85})
    _scale_scores(figure, view, trials)
    figure.update_layout(showlegend=False, margin_t=16, height=270)
    return figure


def _add_line(figure: Any, x: float, dash: str) -> None:
    """Add a vertical line; that of `add_vline` would be hidden by the grid."""
    line = {"color": _GREY, "width": 1, "dash": dash}
    figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, yref="paper", layer="below", line=line)


def _scale_scores(figure: Any, view: StudyView, trials: Sequence[TrialRow]) -> None:
    """Show the upper three quarters of the scores, where trials differ little."""
    figure.update_yaxes(title=f"val-A {view.metric}")
    scores = [trial.value for trial in trials if trial.value is not None]
    if len(scores) >= 4:
        low = float(np.quantile(scores, 0.25))
        space = max(0.1 * (max(scores) - low), 1e-3)
        figure.update_yaxes(range=(low - space, max(scores) + space))
