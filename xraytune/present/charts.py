"""The charts of a report: Plotly traces and layouts as plain dicts. page.js draws them in the colours of the theme.

Colours follow the source of extra images in all charts; they are distinct for colour-blind readers (Okabe and Ito 2008).
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np

from xraytune.confirm.record import (
    ArmDifference,
    ControlVerdict,
    FinalistVerdict,
    FindingDifference,
    RatioGain,
    RatioPoint,
)
from xraytune.study.figures import Figure
from xraytune.study.status import StudyView, TrialView

Trace = dict[str, Any]
_SOURCE_COLOURS = {
    "none": "#8c8c8c",
    "duplicate": "#e69f00",
    "gan": "#2288cc",
    "diffusion": "#cc79a7",
    "folder": "#009e73",
    "generator": "#d55e00",
    "pipeline": "#999933",
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
_COLOUR = _SOURCE_COLOURS["gan"]
"""Of what does not depend on the source of extra images."""
_GREY = "#8c8c8c"
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
_LINE = {"type": "line", "x0": 0, "x1": 1, "y0": 0, "y1": 1, "layer": "below"}
_HORIZONTAL = {**_LINE, "y1": 0, "xref": "paper", "line": {"color": _GREY, "width": 1}}
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
            error_x=_intervals(rows, "difference", width=5),
            marker={"size": 11, **marker},
            text=[f"{row.low:+.4f} to {row.high:+.4f}" for row in rows],
        )
        for word, marker in _MARKERS.items()
        if (rows := [comparison for comparison in comparisons if finalist.words(comparison)[0] == word])
    ]
    above = {"xref": "paper", "x": 0, "xanchor": "left", "yshift": 19, "showarrow": False, "font": {"size": 13}}
    rope_name = {"yref": "paper", "x": 0, "y": 1.0, "yanchor": "bottom", "showarrow": False, "font": {"size": 11}}
    layout = {
        "xaxis": _axis(f"difference in {metric}, 95 % interval", nticks=6),
        "yaxis": {"categoryorder": "array", "categoryarray": names, "range": [-0.5, len(names) - 0.25]}
        | {"showticklabels": False, "showgrid": False},
        "shapes": [_ROPE | {"x0": -rope, "x1": rope}, _vertical(0)],
        "annotations": [
            *({"text": name, "y": name} | above for name in names),
            {"text": f"ROPE ±{rope:g}"} | rope_name,
        ],
        "legend": {**_LEGEND, "y": 1 + 20 / (8 + 54 * len(names))},
        "margin": {"l": 4, "r": 16, "t": 62, "b": 50},
    }
    alt = "; ".join(f"{comparison.control}: {comparison.difference:+.4f}" for comparison in comparisons)
    return Chart(id="differences", traces=traces, layout=layout, height=120 + 54 * len(names), alt=alt)


def finding_differences(rows: Sequence[FindingDifference]) -> Chart:
    """Show the differences in the AUROC of each finding from each control, with intervals."""
    controls, names = (
        [*dict.fromkeys(values)] for values in zip(*((row.control, row.finding) for row in rows), strict=True)
    )
    traces = []
    for place, (control, symbol) in enumerate(zip(controls, cycle(_MARKERS.values()), strict=False)):
        of_control = [row for row in rows if row.control == control]
        shift = (place + 1) / (len(controls) + 1) - 0.5
        traces.append(
            _scatter(
                "markers",
                [row.difference for row in of_control],
                [len(names) - 1 - names.index(row.finding) - shift for row in of_control],
                "%{text}",
                name=_escaped(control, 60),
                error_x=_intervals(of_control, "difference", width=3),
                marker={"size": 8, **symbol},
                text=[f"{row.finding}: {row.low:+.4f} to {row.high:+.4f}" for row in of_control],
            )
        )
    layout = {
        "xaxis": _axis("difference in AUROC by finding, 95 % interval", nticks=6),
        "yaxis": {"tickvals": [*range(len(names))], "ticktext": [_escaped(name, 30) for name in names[::-1]]},
        "shapes": [_vertical(0)],
        "legend": _LEGEND,
    }
    alt = "; ".join(f"{row.finding} against {row.control}: {row.difference:+.4f}" for row in rows)
    return Chart(id="findings", traces=traces, layout=layout, height=140 + 24 * len(rows), alt=alt)


def ratio_chart(points: Sequence[RatioPoint], source: str, metric: str) -> Chart:
    """Show the gain over ratio 0 at each ratio, of a finalist's source and of duplicates."""
    points = [point for point in points if point.ratio]
    ratios = [f"{point.ratio:g}" for point in points]
    duplicates = [(place, point.duplicate) for place, point in enumerate(points) if point.duplicate]
    traces = [
        _scatter(
            "lines+markers",
            [place + shift for place, _ in gains],
            [gain.gain for _, gain in gains],
            f"{name}, %{{text}}",
            name=name,
            error_y=_intervals([gain for _, gain in gains], "gain", width=4),
            line={"color": _colour_of(name)},
            marker={"color": _colour_of(name), "size": 8},
            text=[
                f"r = {ratios[place]}: {gain.gain:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})" for place, gain in gains
            ],
        )
        for name, gains, shift in ((source, [*enumerate(points)], 0.04), ("duplicate", duplicates, -0.04))
        if gains
    ]
    layout = {
        "xaxis": _axis("extra images per real image (r)", tickvals=[*range(len(ratios))], ticktext=ratios),
        "yaxis": _axis(f"gain in val-B {metric} over r = 0"),
        "shapes": [_HORIZONTAL],
        "legend": _LEGEND,
    }
    alt = "; ".join(f"r = {point.ratio:g}: {point.gain:+.4f}" for point in points)
    return Chart(id="ratios", traces=traces, layout=layout, alt=f"gain of {source} over r = 0: {alt}")


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


def importances(figure: Figure) -> Chart:
    """Show Optuna's importances of the parameters."""
    (bars,) = figure["data"]
    style = {"marker": {"color": _COLOUR}, "hoverinfo": "skip", "hovertemplate": None}
    layout = {
        "xaxis": _axis("importance", range=[0, 1.25 * max(bars["x"])]),
        "yaxis": {"showgrid": False},
        "margin": {"t": 16},
    }
    text = "; ".join(f"{name}: {text}" for name, text in zip(bars["y"][::-1], bars["text"][::-1], strict=True))
    caption = "What the best tenth of trials have in common (PED-ANOVA). The sum is 1 even if nothing matters."
    height = max(_SMALL, 80 + 26 * len(bars["y"]))
    alt = f"importance of {text}"
    return Chart(id="importances", traces=[bars | style], layout=layout, height=height, alt=alt, caption=caption)


def parameter_slice(figure: Figure, view: StudyView) -> Chart:
    """Show Optuna's slice of one parameter: the score of each complete trial at its value.

    At a choice, sources stand side by side.
    """
    points, axis = figure["data"][0], figure["layout"]["xaxis"]
    numbers, name = points["marker"]["color"], axis["title"]["text"]
    values = [f"{value}".strip("'") for value in points["x"]]  # Optuna shows Python's text of a choice: 'gan'
    choices = [value.strip("'") for value in axis.get("categoryarray", [])]
    if choices:
        axis = axis | {"type": "category", "categoryorder": "array", "categoryarray": choices}
        style = {"type": "box", "boxpoints": "all", "pointpos": 0, "fillcolor": "rgba(0,0,0,0)", "hoveron": "points"}
        points = {"x": values, "y": points["y"], "line": {"width": 0}, **style}
    elif axis.get("type") == "log" and max(points["x"]) > 10 * min(points["x"]):
        axis = axis | {"dtick": 1, "tickformat": "~g"}
    beside = "overlay" if name == "source" else "group"
    layout = {
        "xaxis": axis,
        "yaxis": _score_axis(view, view.ranked),
        "boxmode": beside,
        "showlegend": False,
        "margin": {"t": 16},
    }
    return Chart(
        id=f"parameter-{name.replace('.', '-')}",
        traces=_by_source(points, numbers, view),
        layout=layout,
        height=_SMALL,
        alt=f"score of each complete trial over {name}",
    )


def _by_source(points: Trace, numbers: Sequence[int], view: StudyView) -> list[Trace]:
    """Split points, one for each of these trials, by source."""
    places = {number: place for place, number in enumerate(numbers)}
    groups: dict[str, list[TrialView]] = {}
    for trial in view.trials:
        if trial.number in places:
            groups.setdefault(trial.parameters.source, []).append(trial)
    return [
        points
        | {
            "x": [points["x"][places[trial.number]] for trial in trials],
            "y": _rounded(points["y"][places[trial.number]] for trial in trials),
            "text": [_label(trial) for trial in trials],
            "hovertemplate": "%{text}<br>%{x}: %{y:.4f}<extra></extra>",
            "name": source,
            "legendgroup": source,
            "offsetgroup": source,
            "marker": {
                "color": _colour_of(source),
                "symbol": "circle",
                "size": 9 if len(view.trials) <= _MANY else 6,
                "opacity": 0.85,
            },
        }
        for source, trials in sorted(groups.items())
    ]


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


def _intervals(rows: Sequence[RatioGain | ControlVerdict | ArmDifference], name: str, *, width: int) -> Trace:
    above = _rounded(row.high - getattr(row, name) for row in rows)
    below = _rounded(getattr(row, name) - row.low for row in rows)
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "width": width, "thickness": 1.4}


def _axis(title: str, **more: Any) -> Trace:
    return {"title": {"text": title}, **more}


def _escaped(name: str, width: int = 100) -> str:
    """Return a name in lines of so many characters, as text for Plotly, which knows some HTML."""
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(name, width)) or " "


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _vertical(x: float, dash: str = "solid") -> Trace:
    return {**_LINE, "x0": x, "x1": x, "yref": "paper", "line": {"color": _GREY, "width": 1, "dash": dash}}
