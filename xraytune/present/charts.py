"""The charts of a report: Plotly traces and layouts as plain dicts. page.js draws them in the colours of the theme.

Colours follow the source of extra images in all charts; they are distinct for colour-blind readers (Okabe and Ito 2008).
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xraytune.confirm.record import (
    ControlVerdict,
    FinalistVerdict,
)
from xraytune.study.status import StudyView, TrialView

Trace = dict[str, Any]
_SOURCE_COLOURS = {
    "none": "#8c8c8c",
    "duplicate": "#e69f00",
    "gan": "#2288cc",
    "folder": "#009e73",
    "generator": "#d55e00",
}
"""The colour of each source of extra images."""
_OTHER_COLOUR = "#56b4e9"
_MARKERS = {
    "better": {"symbol": "triangle-right", "color": "#009e73"},
    "equivalent": {"symbol": "circle", "color": "#2288cc"},
    "worse": {"symbol": "triangle-left", "color": "#d55e00"},
    "no better": {"symbol": "square", "color": "#7a5fb5"},
    "undecided": {"symbol": "diamond", "color": "#8c8c8c"},
}
_GREY = "#8c8c8c"
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
_LINE = {"type": "line", "x0": 0, "x1": 1, "y0": 0, "y1": 1, "layer": "below"}
_ROPE = {**_LINE, "type": "rect", "yref": "paper", "fillcolor": "rgba(140,140,140,0.18)", "line": {"width": 0}}
_SMALL = 270
"""Height of a chart of one parameter, in px."""
_MANY = 40
"""Trials from which on points are small and only the best curves strong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart: Plotly's traces and layout, without colours of text, grid and background; sizes are in px.

    `alt` says what it shows, for a screen reader.
    """

    id: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 360
    alt: str
    caption: str = ""


def differences(finalist: FinalistVerdict, metric: str, rope: float) -> Chart:
    """Show the differences of a finalist from its controls, with intervals and the ROPE."""
    comparisons = finalist.comparisons[::-1]
    names = [_escaped(comparison.control) for comparison in comparisons]
    traces = [
        _scatter(
            "markers",
            [row.difference for row in rows],
            [_escaped(row.control) for row in rows],
            "%{y}<br>%{x:+.4f} (%{text})",
            name=word,
            error_x=_intervals(rows),
            marker={"size": 11, **marker},
            text=[f"{row.low:+.4f} to {row.high:+.4f}" for row in rows],
        )
        for word, marker in _MARKERS.items()
        if (rows := [comparison for comparison in comparisons if finalist.words(comparison)[0] == word])
    ]
    layout = {
        "xaxis": _axis(f"difference in {metric}<br>grey: ROPE ±{rope:g}", nticks=6),
        "yaxis": {"categoryorder": "array", "categoryarray": names, "showgrid": False},
        "shapes": [_ROPE | {"x0": -rope, "x1": rope}, _vertical(0)],
        "legend": _LEGEND,
    }
    alt = "; ".join(f"{comparison.control}: {comparison.difference:+.4f}" for comparison in comparisons)
    return Chart(id="differences", traces=traces, layout=layout, height=160 + 44 * len(names), alt=alt)


def learning_curves(view: StudyView, rungs: Sequence[int]) -> Chart:
    """Show the best score so far of each trial after each epoch, by arm.

    Pruned trials are pale; of many trials, all but the best of each arm are.
    `meta` of a trace has a label for each of its lines, which page.js turns into `text`.
    """
    best_of_arm = {trial.arm: trial for trial in reversed(view.ranked)}
    shown = view.ranked if len(view.ranked) <= _MANY else best_of_arm.values()
    strong = {trial.number for trial in shown}
    groups: dict[tuple[bool, str], list[TrialView]] = {}
    for trial in view.trials:
        if trial.values:
            groups.setdefault((trial.number in strong, trial.arm), []).append(trial)
    pale = 0.5 if len(view.trials) <= _MANY else 0.25
    traces = [
        _scatter(
            "lines" if max(len(trial.values) for trial in trials) > 1 else "lines+markers",
            [epoch for trial in trials for epoch in (*range(1, len(trial.values) + 1), None)],
            [value for trial in trials for value in (*_rounded(trial.values), None)],
            "%{text}<br>epoch %{x}: %{y:.4f}",
            name=arm,
            legendgroup=arm,
            meta=[_label(trial) for trial in trials],
            line={
                "color": _colour_of(trials[0].parameters.source),
                "dash": "dot" if trials[0].parameters.classical else "solid",
                "width": 2.5 if is_strong else 1.2,
            },
            opacity=1 if is_strong else pale,
            showlegend=is_strong or (True, arm) not in groups,
        )
        for (is_strong, arm), trials in sorted(groups.items())
    ]
    layout = {
        "xaxis": _axis("epoch", rangemode="tozero"),
        "yaxis": _score_axis(view, view.trials),
        "shapes": [_vertical(epoch, dash="dot") for epoch in rungs],
        "legend": _LEGEND,
    }
    which = "complete" if len(strong) == view.counts.get("complete") else "the best trial of each arm"
    caption = f"Strong: {which}. Dotted curves: with classical augmentation. "
    if rungs:
        caption += "Vertical lines: ASHA's rungs, where trials are compared and pruned. "
    return Chart(
        id="curves",
        traces=traces,
        layout=layout,
        height=420,
        alt="best val-A score so far of each trial, by epoch",
        caption=f"{caption}Double-click to see the lowest scores, too.",
    )


def parameter_slice(name: str, view: StudyView) -> Chart:
    """Show the score of each complete trial at its value of one parameter.

    Numbers that span more than a factor of ten are on a logarithmic axis. At a choice, sources stand side by side.
    """
    trials = [trial for trial in view.ranked if trial.values and trial.by_name.get(name) is not None]
    values = [trial.by_name[name] for trial in trials]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    axis = _axis(name)
    style: Trace = {"type": "scatter", "mode": "markers"}
    if len(numbers) < len(values):
        axis |= {"type": "category", "categoryorder": "category ascending"}
        style = {"type": "box", "boxpoints": "all", "pointpos": 0, "hoveron": "points"}
        style |= {"fillcolor": "rgba(0,0,0,0)", "line": {"width": 0}}
    elif 0 < 10 * min(numbers) < max(numbers):
        axis |= {"type": "log", "dtick": 1, "tickformat": "~g"}
    size = 9 if len(view.trials) <= _MANY else 6
    groups: dict[str, list[TrialView]] = {}
    for trial in trials:
        groups.setdefault(trial.parameters.source, []).append(trial)
    traces = [
        style
        | {
            "x": [trial.by_name[name] for trial in group],
            "y": _rounded(trial.values[-1] for trial in group),
            "text": [_label(trial) for trial in group],
            "hovertemplate": "%{text}<br>%{x}: %{y:.4f}<extra></extra>",
            "name": source,
            "legendgroup": source,
            "offsetgroup": source,
            "marker": {"color": _colour_of(source), "size": size, "opacity": 0.85},
        }
        for source, group in sorted(groups.items())
    ]
    return Chart(
        id=f"parameter-{name.replace('.', '-')}",
        traces=traces,
        layout={
            "xaxis": axis,
            "yaxis": _score_axis(view, view.ranked),
            "boxmode": "overlay" if name == "source" else "group",
            "showlegend": False,
            "margin": {"t": 16},
        },
        height=_SMALL,
        alt=f"score of each complete trial over {name}",
    )


def _label(trial: TrialView) -> str:
    return f"#{trial.number} {trial.mix}"


def _score_axis(view: StudyView, trials: Sequence[TrialView]) -> Trace:
    """Return an axis for the upper three quarters of the last scores, where trials differ little."""
    scores = [trial.values[-1] for trial in trials if trial.values]
    if len(scores) < 4:
        return _axis(f"val-A {view.metric}", range=None)
    low, high = float(np.quantile(scores, 0.25)), max(scores)
    space = max(0.1 * (high - low), 1e-3)
    return _axis(f"val-A {view.metric}", range=(low - space, high + space))


def _colour_of(source: object) -> str:
    return _SOURCE_COLOURS.get(f"{source}", _OTHER_COLOUR)


def _scatter(mode: str, x: Sequence[Any], y: Sequence[Any], hover: str, **more: Any) -> Trace:
    return {"type": "scatter", "mode": mode, "x": x, "y": y, "hovertemplate": f"{hover}<extra></extra>", **more}


def _intervals(rows: Sequence[ControlVerdict]) -> Trace:
    above = _rounded(row.high - row.difference for row in rows)
    below = _rounded(row.difference - row.low for row in rows)
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "width": 5, "thickness": 1.4}


def _axis(title: str, **more: Any) -> Trace:
    return {"title": {"text": title}, **more}


def _escaped(name: str) -> str:
    """Return a name in short lines, as text for Plotly, which knows some HTML."""
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(name, 26)) or " "


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _vertical(x: float, dash: str = "solid") -> Trace:
    return {**_LINE, "x0": x, "x1": x, "yref": "paper", "line": {"color": _GREY, "width": 1, "dash": dash}}
