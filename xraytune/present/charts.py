"""The charts of a report, as Plotly figures; page.js adds the colours of the theme.

In all charts of trials, the colour shows the source of extra images; colours are distinct for
colour-blind readers (Okabe and Ito 2008). `optuna.visualization` colours by trial number, so it
cannot show the arms.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from xraytune.confirm.record import Confirmation, FinalistVerdict
from xraytune.stats.verdict import Interval
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView
from xraytune.synth.sources.which import source_of

_MARKERS = {
    "better": ("#009e73", "circle"),
    "equivalent": ("#2288cc", "diamond"),
    "worse": ("#d55e00", "square"),
    "no better": ("#7a5fb5", "x"),
    "undecided": ("#8c8c8c", "cross"),
}
"""Colour and symbol of each result of a comparison."""
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "title": ""}
_VERTICAL = {"type": "line", "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
"""A vertical line for `add_shape`; a line from `add_vline` would be hidden by the grid."""
_GREY = {"color": "#8c8c8c", "width": 1}


def plot_differences(finalist: FinalistVerdict, metric: str, rope: float) -> Any:
    """Plot the differences of a finalist from its controls, with intervals and the ROPE."""
    rows = [(row.control, row) for row in finalist.comparisons]
    results = {row.control: finalist.words(row)[0] for row in finalist.comparisons}
    axis = (f"difference in {metric}", f"grey: ROPE ±{rope:g}")
    figure = plot_forest(rows, *axis, results=results)
    figure.add_vrect(-rope, rope, fillcolor="rgba(140,140,140,0.18)", line_width=0, layer="below")
    figure.update_layout(legend=_LEGEND)
    return figure


def plot_subgroups(record: Confirmation) -> Any:
    """Plot the first finalist minus its strongest control: over all images, by group, by hospital.

    Returns None if there is no hospital and no group is large enough.
    """
    finalist = record.finalists[0]
    overall = next(pair for pair in finalist.comparisons if pair.control == finalist.strongest)
    everyone = f"all ({record.test.patients:,})"
    if record.sites:
        everyone = f"mean of {len(record.sites)} sites"
    rows: list[tuple[str, Interval]] = [(everyone, overall)]
    for group in record.subgroups:
        if group.difference:
            rows.append((f"{group.column}: {group.value} ({group.patients:,})", group.difference))
    for hospital in record.hospitals:
        compared = {pair.control: pair for pair in hospital.finalist.comparisons}
        label = f"at {hospital.name} ({hospital.test.patients:,})"
        rows.append((label, compared[overall.control]))
    if len(rows) == 1:
        return None
    axis = [
        f"{record.metric} of {finalist.arm} minus that of {finalist.strongest}",
        f"right of 0, {finalist.arm} is better",
        "95 % intervals; number of patients",
    ]
    return plot_forest(rows, *axis)


def plot_forest(
    rows: Sequence[tuple[str, Interval]], *axis: str, results: Mapping[str, str] | None = None
) -> Any:
    """Plot labelled differences with their intervals, from top to bottom.

    Args:
        rows: Label and difference of each row.
        axis: Lines of text below the horizontal axis.
        results: Result of each label, such as `better`, which a legend explains. Without it, the
            first row is marked as the overall difference.
    """
    figure = go.Figure()
    in_legend = set()
    for row in rows[::-1]:
        label, interval = row
        result = results[label] if results else ""
        overall = ("#2266aa", "diamond" if row is rows[0] else "circle")
        colour, symbol = _MARKERS.get(result, overall)
        figure.add_scatter(
            x=[interval.difference],
            y=["<br>".join(textwrap.wrap(label, 26))],
            error_x={
                "array": [interval.high - interval.difference],
                "arrayminus": [interval.difference - interval.low],
                "width": 5,
                "thickness": 1.4,
            },
            marker={"size": 11, "symbol": symbol},
            line_color=colour,
            hovertext=f"{interval.difference:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})",
            name=result,
            legendgroup=result,
            showlegend=bool(result) and result not in in_legend,
        )
        in_legend.add(result)
    figure.add_shape(_VERTICAL, x0=0, x1=0, line=_GREY)
    lines = [part for line in axis for part in textwrap.wrap(line, 60)]
    figure.update_xaxes(title="<br>".join(lines), nticks=6)
    figure.update_yaxes(title="", showgrid=False)
    figure.update_layout(height=150 + 40 * len(rows))
    return figure


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
            line_dash="dot" if trial.parameters.rivals else "solid",
            line_width=2.5 if is_best else 1.2,
            opacity=1 if is_best else 0.4,
            showlegend=is_best,
        )
    for epoch in rungs:
        figure.add_shape(_VERTICAL, x0=epoch, x1=epoch, line={**_GREY, "dash": "dot"})
    figure.update_xaxes(title="epoch", range=(0, 1.03 * view.max_epochs))
    _scale_scores(figure, view, trials)
    figure.update_yaxes(title=f"val-A {view.metric}, best so far")
    figure.update_layout(legend=_LEGEND, height=420)
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
