"""The charts of a report, as Plotly figures; page.js adds the colours of the theme.

Colours follow the source of extra images in all charts; they are distinct for colour-blind readers
(Okabe and Ito 2008). `optuna.visualization` colours by trial number, so it cannot show the arms.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from xraytune.confirm.record import FinalistVerdict
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView
from xraytune.synth.sources.which import source_of

_MARKERS = {
    "better": {"symbol": "triangle-right", "color": "#009e73"},
    "equivalent": {"symbol": "circle", "color": "#2288cc"},
    "worse": {"symbol": "triangle-left", "color": "#d55e00"},
    "no better": {"symbol": "square", "color": "#7a5fb5"},
    "undecided": {"symbol": "diamond", "color": "#8c8c8c"},
}
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
_MANY = 40
"""Trials from which on points are small and only the best curves strong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A figure without the colours of the theme; `alt` describes it to a screen reader."""

    figure: Any
    alt: str
    caption: str = ""


def plot_differences(finalist: FinalistVerdict, metric: str, rope: float) -> Chart:
    """Plot the differences of a finalist from its controls, with intervals and the ROPE."""
    comparisons = finalist.comparisons[::-1]
    names = {row.control: "<br>".join(textwrap.wrap(row.control, 26)) for row in comparisons}
    figure = go.Figure()
    for word, marker in _MARKERS.items():
        rows = [row for row in comparisons if finalist.words(row)[0] == word]
        if not rows:
            continue
        figure.add_scatter(
            mode="markers",
            x=[row.difference for row in rows],
            y=[names[row.control] for row in rows],
            text=[f"{row.low:+.4f} to {row.high:+.4f}" for row in rows],
            hovertemplate="%{y}<br>%{x:+.4f} (%{text})<extra></extra>",
            name=word,
            marker={"size": 11, **marker},
            error_x={
                "symmetric": False,
                "array": [row.high - row.difference for row in rows],
                "arrayminus": [row.difference - row.low for row in rows],
                "width": 5,
                "thickness": 1.4,
            },
        )
    figure.add_vrect(-rope, rope, fillcolor="rgba(140,140,140,0.18)", line_width=0, layer="below")
    _add_line(figure, 0, "solid")
    figure.update_xaxes(title=f"difference in {metric}<br>grey: ROPE ±{rope:g}", nticks=6)
    figure.update_yaxes(categoryorder="array", categoryarray=[*names.values()], showgrid=False)
    figure.update_layout(legend=_LEGEND, height=160 + 44 * len(names))
    alt = "; ".join(f"{row.control}: {row.difference:+.4f}" for row in comparisons)
    return Chart(figure=figure, alt=alt)


def plot_learning_curves(view: StudyView, rungs: Sequence[int]) -> Chart:
    """Plot the best score so far of each trial after each epoch, by arm.

    Pruned trials are pale; of many trials, all but the best of each arm are. `meta` of a trace has
    a label for each of its lines, which page.js turns into `text`.
    """
    strong = {trial.number for trial in view.ranked}
    which = "complete"
    if len(strong) > _MANY:
        strong = {trial.number for trial in {row.arm: row for row in view.ranked[::-1]}.values()}
        which = "the best trial of each arm"
    groups: dict[tuple[bool, str], list[TrialRow]] = {}
    for trial in view.trials:
        if trial.values:
            groups.setdefault((trial.number in strong, trial.arm), []).append(trial)

    figure = go.Figure()
    for (is_strong, arm), trials in sorted(groups.items()):
        epochs: list[int | None] = []
        scores: list[float | None] = []
        for trial in trials:
            epochs += [*range(1, len(trial.values) + 1), None]
            scores += [*_round(trial.values), None]
        first = trials[0].parameters
        figure.add_scatter(
            mode="lines" if max(len(trial.values) for trial in trials) > 1 else "lines+markers",
            x=epochs,
            y=scores,
            hovertemplate="%{text}<br>epoch %{x}: %{y:.4f}<extra></extra>",
            name=arm,
            legendgroup=arm,
            meta=[_label(trial) for trial in trials],
            line_color=source_of(first).colour,
            line_dash="dot" if first.classical else "solid",
            line_width=2.5 if is_strong else 1.2,
            opacity=1 if is_strong else (0.5 if len(view.trials) <= _MANY else 0.25),
            showlegend=is_strong or (True, arm) not in groups,
        )
    for epoch in rungs:
        _add_line(figure, epoch, "dot")
    figure.update_xaxes(title="epoch", rangemode="tozero")
    figure.update_yaxes(_score_axis(view, view.trials))
    figure.update_layout(legend=_LEGEND, height=420)
    caption = f"Strong: {which}. Dotted curves: with classical augmentation. "
    if rungs:
        caption += "Vertical lines: ASHA's rungs, where trials are compared and pruned. "
    return Chart(
        figure=figure,
        alt="best val-A score so far of each trial, by epoch",
        caption=f"{caption}Double-click to see the lowest scores, too.",
    )


def plot_parameter(name: str, view: StudyView) -> Chart:
    """Plot the score of each complete trial at its value of one parameter.

    Numbers that span more than a factor of ten are on a logarithmic axis. At a choice, sources
    stand side by side.
    """
    groups: dict[str, list[TrialRow]] = {}
    for trial in view.ranked:
        if trial.values and trial.by_name.get(name) is not None:
            groups.setdefault(trial.parameters.source, []).append(trial)
    values: list[Any] = [trial.by_name[name] for trials in groups.values() for trial in trials]
    is_number = all(type(value) in (int, float) for value in values)
    size = 9 if len(view.trials) <= _MANY else 6

    figure = go.Figure()
    for source, trials in sorted(groups.items()):
        colour = source_of(trials[0].parameters).colour
        shared = {
            "x": [trial.by_name[name] for trial in trials],
            "y": _round(trial.values[-1] for trial in trials),
            "text": [_label(trial) for trial in trials],
            "hovertemplate": "%{text}<br>%{x}: %{y:.4f}<extra></extra>",
            "name": source,
            "marker": {"color": colour, "size": size, "opacity": 0.85},
        }
        if is_number:
            figure.add_scatter(mode="markers", **shared)
        else:  # a box plot of which only the points are shown
            figure.add_box(
                boxpoints="all",
                pointpos=0,
                hoveron="points",
                fillcolor="rgba(0,0,0,0)",
                line_width=0,
                offsetgroup=source,
                **shared,
            )
    figure.update_xaxes(title=name)
    if not is_number:
        figure.update_xaxes(type="category", categoryorder="category ascending")
    elif 0 < 10 * min(values) < max(values):
        figure.update_xaxes(type="log", dtick=1, tickformat="~g")
    figure.update_yaxes(_score_axis(view, view.ranked))
    boxmode = "overlay" if name == "source" else "group"
    figure.update_layout(boxmode=boxmode, showlegend=False, margin_t=16, height=270)
    return Chart(figure=figure, alt=f"score of each complete trial over {name}")


def _add_line(figure: Any, x: float, dash: str) -> None:
    """Add a vertical line; that of `add_vline` would be hidden by the grid."""
    line = {"color": "#8c8c8c", "width": 1, "dash": dash}
    figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, yref="paper", layer="below", line=line)


def _label(trial: TrialRow) -> str:
    return f"#{trial.number} {trial.mix}"


def _score_axis(view: StudyView, trials: Sequence[TrialRow]) -> Mapping[str, Any]:
    """Return an axis for the upper three quarters of the scores, where trials differ little."""
    axis: dict[str, Any] = {"title": f"val-A {view.metric}"}
    scores = [trial.values[-1] for trial in trials if trial.values]
    if len(scores) >= 4:
        low = float(np.quantile(scores, 0.25))
        space = max(0.1 * (max(scores) - low), 1e-3)
        axis["range"] = (low - space, max(scores) + space)
    return axis


def _round(values: Iterable[float]) -> list[float]:
    return [round(value, 5) for value in values]
