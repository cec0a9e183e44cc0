"""The charts of a report: Plotly traces and layouts as plain dicts. page.js draws them in the colours of the theme.

Colours follow the source of extra images in all charts; they are distinct for colour-blind readers (Okabe and Ito 2008).
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from xraytune.config.domains import Value
from xraytune.figures.drawing import SOURCE_COLOURS as _COLOURS
from xraytune.figures.drawing import VERDICT_COLOURS as _VERDICTS
from xraytune.figures.drawing import colour_of
from xraytune.metrics.curves import Calibration, ClassCurves, Curve
from xraytune.search.status import StudyView, TrialView

Trace = dict[str, Any]
_SYMBOLS = {"better": "triangle-right", "equivalent": "circle", "worse": "triangle-left", "undecided": "diamond"}
_FEW = 8
"""Values of a parameter up to which they stand side by side instead of to scale."""
_MANY = 40
"""Trials from which on only the best ones have intervals and strong curves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart.

    Attributes:
        id: Unique in the page.
        traces: See Plotly's reference.
        layout: Without colours of text, grid and background.
        height: In px.
        min_width: In px; narrower pages scroll it.
        alt: What it shows, as text for a screen reader.
        caption: Below the chart.
    """

    id: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 360
    min_width: int = 0
    alt: str
    caption: str = ""


def differences(finalist: Mapping[str, Any], metric: str, rope: float) -> Chart:
    """Show the differences of a finalist (`verdict.json`) from its controls, with intervals and the ROPE."""
    rows = finalist["comparisons"][::-1]
    traces = []
    for word, symbol in _SYMBOLS.items():
        own = [one for one in rows if one["verdict"][0] == word]
        if own:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": word,
                    "x": [one["difference"] for one in own],
                    "y": [_escaped(one["control"]) for one in own],
                    "error_x": _error([one["difference"] for one in own], own, width=5),
                    "marker": {"color": _VERDICTS[word], "size": 11, "symbol": symbol},
                    "text": [f"{one['low']:+.4f} to {one['high']:+.4f}" for one in own],
                    "hovertemplate": "%{y}<br>%{x:+.4f} (%{text})<extra></extra>",
                }
            )
    names = [_escaped(one["control"]) for one in rows]
    above = {"xref": "paper", "x": 0, "xanchor": "left", "yshift": 19, "showarrow": False, "font": {"size": 13}}
    layout = {
        "xaxis": {"title": {"text": f"difference in {metric}, 95 % interval"}, "nticks": 6},
        "yaxis": {
            **{"categoryorder": "array", "categoryarray": names, "showticklabels": False, "showgrid": False},
            "range": [-0.5, len(names) - 0.25],
        },
        "shapes": [_band(-rope, rope), _line(x=0)],
        "annotations": [*({"text": name, "y": name} | above for name in names), _note(f"ROPE ±{rope:g}", x=0, y=1.0)],
        "legend": {**_LEGEND, "y": 1 + 20 / (8 + 54 * len(rows))},
        "margin": {"l": 4, "r": 16, "t": 62, "b": 50},
    }
    alt = "; ".join(f"{one['control']}: {one['difference']:+.4f}" for one in rows)
    return Chart(id="differences", traces=traces, layout=layout, height=120 + 54 * len(rows), alt=alt)


def ratio_response(points: Sequence[Mapping[str, Any]], source: str, metric: str) -> Chart:
    """Show the gain over ratio 0 at each ratio, of a finalist's source and of duplicates (`verdict.json`)."""
    with_ratio = [one for one in points if one["ratio"]]
    places = {one["ratio"]: place for place, one in enumerate(with_ratio)}
    series: dict[str, list[Mapping[str, Any]]] = {
        source: with_ratio,
        "duplicate": [{"ratio": o["ratio"], **o["duplicate"]} for o in with_ratio if o["duplicate"]],
    }
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [places[one["ratio"]] + (0.04 if name == source else -0.04) for one in own],
            "y": [one["gain"] for one in own],
            "error_y": _error([one["gain"] for one in own], own, width=4),
            "line": {"color": colour_of(name)},
            "marker": {"color": colour_of(name), "size": 8},
            "text": [
                f"r = {one['ratio']:g}: {one['gain']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})" for one in own
            ],
            "hovertemplate": f"{name}, %{{text}}<extra></extra>",
        }
        for name, own in series.items()
        if own
    ]
    layout = {
        "xaxis": {
            "title": {"text": "extra images per real image (r)"},
            "tickvals": [*places.values()],
            "ticktext": [f"{ratio:g}" for ratio in places],
        },
        "yaxis": {"title": {"text": f"gain in val-B {metric} over r = 0"}},
        "shapes": [_line(y=0)],
        "legend": _LEGEND,
    }
    alt = "; ".join(f"r = {one['ratio']:g}: {one['gain']:+.4f}" for one in with_ratio)
    return Chart(id="ratios", traces=traces, layout=layout, alt=f"gain of {source} over r = 0: {alt}")


def trials_by_ratio(view: StudyView) -> Chart:
    """Show the val-A score of each trial over its ratio."""
    traces, axis = _scatter_by_source(view, "synthetic_ratio")
    layout = {
        "xaxis": axis | {"title": {"text": "extra images per real image (r)"}},
        "yaxis": {**_score_axis(view), "range": _upper_range(view)},
        "legend": _LEGEND,
    }
    return Chart(id="ratios", traces=traces, layout=layout, alt="val-A score of each trial over its synthetic ratio")


def learning_curves(view: StudyView, rungs: Sequence[int]) -> Chart:
    """Show the best score so far of each trial after each epoch; pruned trials are pale, and of many all but the best.

    `meta` of a trace has a label for each of its lines, which page.js turns into `text`.
    """
    strong = {trial.number for trial in _strong(view)}
    groups: dict[tuple[bool, str], list[TrialView]] = {}
    for trial in view.trials:
        if trial.values:
            groups.setdefault((trial.number in strong, f"{trial.parameters.get('source')}"), []).append(trial)
    pale = 0.5 if len(view.trials) <= _MANY else 0.25
    traces = [
        {
            "type": "scatter",
            "mode": "lines" + ("+markers" if max(len(one.values) for one in trials) == 1 else ""),
            "name": source,
            "legendgroup": source,
            "x": list(chain.from_iterable([*range(1, len(one.values) + 1), None] for one in trials)),
            "y": list(chain.from_iterable([*_rounded(one.values), None] for one in trials)),
            "meta": [_label(one) for one in trials],
            "hovertemplate": "%{text}<br>epoch %{x}: %{y:.4f}<extra></extra>",
            "line": {"color": colour_of(source), "width": 2.5 if is_strong else 1.2},
            "opacity": 1 if is_strong else pale,
            "showlegend": is_strong or (True, source) not in groups,
        }
        for (is_strong, source), trials in sorted(groups.items())
    ]
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"},
        "yaxis": {**_score_axis(view), "range": _upper_range(view)},
        "shapes": [_line(x=epoch, dash="dot") for epoch in rungs],
        "legend": _LEGEND,
    }
    caption = (
        "Strong: complete. " if len(strong) == view.count("complete") else "Strong: the best trial of each source. "
    )
    if rungs:
        caption += "Dotted lines: ASHA's rungs, where trials are compared and pruned. "
    return Chart(
        id="curves",
        traces=traces,
        layout=layout,
        height=420,
        alt="best val-A score so far of each trial, by epoch",
        caption=f"{caption}Double-click to see the lowest scores, too.",
    )


def parameter_charts(view: StudyView, ranges: Mapping[str, bool]) -> tuple[Chart, ...]:
    """Show the val-A score of all trials over each searched parameter; `ranges` are of floats, and whether logarithmic."""
    charts = []
    for name in view.searched:
        if len({trial.parameters.get(name) for trial in view.trials} - {None}) > 1:
            traces, axis = _scatter_by_source(view, name, is_log=ranges.get(name))
            charts.append(
                Chart(
                    id=f"parameter-{name.replace('.', '-')}",
                    traces=traces,
                    layout={
                        "xaxis": axis,
                        "yaxis": {**_score_axis(view), "range": _upper_range(view)},
                        "showlegend": False,
                    },
                    height=270,
                    alt=f"val-A score of each trial over {name}",
                )
            )
    return tuple(charts)


def parallel_coordinates(view: StudyView, ranges: Mapping[str, bool]) -> Chart | None:
    """Show all searched parameters and the score of complete and pruned trials; None with fewer than two parameters."""
    trials = [trial for trial in view.trials if trial.values]
    dimensions = []
    for name in view.searched:
        values = [trial.parameters.get(name) for trial in trials]
        places, ticks = _places(values, is_log=ranges.get(name))
        if len(places) > 1:
            nowhere = min(places.values()) - (
                0.0 if ticks is None else (max(places.values()) - min(places.values())) / 6
            )
            labels = {"-": nowhere, **(ticks or {})} if None in values and ticks is not None else ticks
            shown = {} if labels is None else {"tickvals": [*labels.values()], "ticktext": [*labels]}
            dimensions.append({"label": name, "values": [places.get(one, nowhere) for one in values], **shown})
    if len(dimensions) < 2 or len(trials) < 2:
        return None
    scores = _rounded([trial.values[-1] for trial in trials])
    dimensions.append({"label": view.metric, "values": scores})
    low, high = np.quantile(scores, [0.9, 1]).tolist()
    colours = [[0, "#9aa5b1"], [1, "#d55e00"]]
    line = {"color": scores, "colorscale": colours, "cmin": low, "cmax": max(high, low + 1e-6), "showscale": False}
    return Chart(
        id="parallel",
        traces=[{"type": "parcoords", "dimensions": dimensions, "line": line}],
        layout={"margin": {"l": 70, "r": 50, "t": 60, "b": 30}},
        height=380,
        min_width=110 * len(dimensions),
        alt="searched parameters and score of each trial as parallel coordinates",
        caption="Drag along an axis to select trials. The best trials are orange.",
    )


def _places(values: Iterable[Value], *, is_log: bool | None) -> tuple[dict[Value, float], dict[str, float] | None]:
    """Return where the values stand on an axis, and its ticks; None leaves these to Plotly.

    Choices and few integers stand side by side, a range of floats to scale; `is_log` is None unless it is such a range.
    """
    known = sorted({value for value in values if value is not None}, key=lambda one: (isinstance(one, str), one))
    numbers = [float(one) for one in known if isinstance(one, int | float) and not isinstance(one, bool)]
    if not known or len(numbers) < len(known) or (len(known) <= _FEW and is_log is None):
        return {value: float(place) for place, value in enumerate(known)}, {
            _shown(value): float(place) for place, value in enumerate(known)
        }
    if not is_log:
        return dict(zip(known, numbers, strict=True)), None
    steps = (1, 3) if numbers[-1] / numbers[0] < 100 else (1,)
    ticks = [step * 10.0**power for power in range(-12, 12) for step in steps]
    ticks = [tick for tick in ticks if numbers[0] <= tick <= numbers[-1]]
    return dict(zip(known, np.log10(numbers).tolist(), strict=True)), {
        f"{tick:g}": float(np.log10(tick)) for tick in ticks
    }


def curve_charts(curves: ClassCurves, positive: str, captions: Mapping[str, str]) -> tuple[Chart, Chart, Chart]:
    """Show ROC, precision-recall and calibration of one class, with pointwise 95 % bands."""
    roc = Chart(
        id="roc",
        traces=_banded(curves.roc, "1 - specificity %{x:.3f}<br>sensitivity %{y:.3f}"),
        layout=_square("1 - specificity", "sensitivity") | {"shapes": [_diagonal()], "title": _title("ROC")},
        alt=f"ROC curve of {positive}, {captions['roc']}",
        caption=captions["roc"],
    )
    pr = Chart(
        id="pr",
        traces=_banded(curves.pr, "recall %{x:.3f}<br>precision %{y:.3f}", shape="hv"),
        layout=_square("recall", "precision") | {"title": _title("Precision and recall")},
        alt=f"precision-recall curve of {positive}, {captions['pr']}",
        caption=captions["pr"],
    )
    return roc, pr, _calibration(curves.calibration, positive, captions["calibration"])


def _calibration(found: Calibration, positive: str, caption: str) -> Chart:
    bins = [{"low": low, "high": high} for low, high in zip(found.low, found.high, strict=True)]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": _rounded(found.mean_probability),
        "y": _rounded(found.share),
        "error_y": _error(found.share, bins, width=3),
        "line": {"color": _COLOURS["gan"], "width": 1},
        "marker": {"color": _COLOURS["gan"], "size": 7},
        "text": [f"{count} images" for count in found.images],
        "hovertemplate": "predicted %{x:.3f}<br>observed %{y:.3f}<br>%{text}<extra></extra>",
    }
    layout = _square("predicted probability", "observed share") | {
        "shapes": [_diagonal()],
        "title": _title("Calibration"),
    }
    return Chart(id="calibration", traces=[trace], layout=layout, alt=f"calibration of {positive}", caption=caption)


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str], caption: str) -> Chart:
    """Show a confusion matrix, images by true (rows) and predicted class."""
    counts, labels = np.asarray(matrix), [_escaped(name, 16) for name in names]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = [[f"{n:,}<br>{s:.0%}" for n, s in zip(*rows, strict=True)] for rows in zip(counts, share, strict=True)]
    trace = {
        "type": "heatmap",
        "z": share.tolist(),
        "x": labels,
        "y": labels,
        "text": texts,
        "texttemplate": "%{text}",
        "colorscale": [[0, "rgba(34,136,204,0.06)"], [1, "rgba(34,136,204,0.85)"]],
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
        "hovertemplate": "true %{y}, predicted %{x}<br>%{text}<extra></extra>",
        "xgap": 3,
        "ygap": 3,
    }
    layout = {
        "xaxis": {"title": {"text": "predicted class"}, "type": "category", "showgrid": False},
        "yaxis": {"title": {"text": "true class"}, "type": "category", "autorange": "reversed", "showgrid": False},
        "title": _title("Confusion matrix"),
    }
    alt = "; ".join(f"true {name}: {', '.join(map(str, row))}" for name, row in zip(names, matrix, strict=True))
    return Chart(id="confusion", traces=[trace], layout=layout, alt=alt, caption=caption)


def dice_by_patient(patients: Sequence[str], dices: Sequence[float]) -> Chart:
    """Show the mean Dice of each patient, sorted."""
    means = {
        name: float(np.mean([d for d, one in zip(dices, patients, strict=True) if one == name])) for name in {*patients}
    }
    names = sorted(means, key=lambda name: (means[name], name))
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": list(range(1, len(names) + 1)),
        "y": _rounded(means[name] for name in names),
        "text": names,
        "hovertemplate": "%{text}<br>Dice %{y:.3f}<extra></extra>",
        "marker": {"color": _COLOURS["gan"], "size": 7},
    }
    layout = {"xaxis": {"title": {"text": "patients, worst first"}}, "yaxis": {"title": {"text": "Dice"}}}
    return Chart(
        id="dice", traces=[trace], layout=layout, alt=f"Dice of {len(names)} patients, from {means[names[0]]:.3f}"
    )


_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


def _scatter_by_source(view: StudyView, name: str, *, is_log: bool | None = None) -> tuple[list[Trace], Trace]:
    """Return a point of each trial with a score, and the axis of the parameter."""
    groups: dict[tuple[str, str], list[TrialView]] = {}
    shown = [trial for trial in view.trials if trial.values and _value(trial, name) is not None]
    for trial in shown:
        groups.setdefault((f"{trial.parameters.get('source')}", trial.status), []).append(trial)
    places, ticks = _places([_value(trial, name) for trial in shown], is_log=is_log)
    sources_at: dict[Value, set[str]] = {}
    for trial in shown:
        sources_at.setdefault(_value(trial, name), set()).add(f"{trial.parameters.get('source')}")
    is_spread, is_many = is_log is None and ticks is not None, len(shown) > _MANY

    def place(trial: TrialView, source: str) -> float:
        """Where few values stand side by side, each source has a lane at its value, which many trials fill."""
        beside = sorted(sources_at[_value(trial, name)])
        lane, width = beside.index(source) - (len(beside) - 1) / 2, 0.7 / len(beside)
        within = 0.8 * (trial.number * 0.618 % 1 - 0.5) if is_many else 0.0
        return round(places[_value(trial, name)] + width * (lane + within) * is_spread, 4)

    side = next((side for side in view.sides if side.name == "val-A"), None) if view.metric == "AUROC" else None
    strong = {trial.number for trial in _strong(view)}
    traces = []
    for (source, status), trials in sorted(groups.items()):
        scores = [trial.values[-1] for trial in trials]
        trace = {
            "type": "scatter",
            "mode": "markers",
            "name": source,
            "legendgroup": source,
            "showlegend": status == "complete" or (source, "complete") not in groups,
            "x": [place(trial, source) for trial in trials],
            "y": _rounded(scores),
            "text": [f"{_label(trial)}<br>{name} {_shown(_value(trial, name))}" for trial in trials],
            "hovertemplate": "%{text}: %{y:.4f}<extra></extra>",
            "marker": _marker(source, status, is_small=is_many),
        }
        intervals = [
            side.interval(score) if side and one.number in strong else None
            for one, score in zip(trials, scores, strict=True)
        ]
        if any(intervals):
            ends = [{"low": one[0], "high": one[1]} if one else None for one in intervals]
            trace["error_y"] = _error(scores, ends, width=0) | {"thickness": 1}
        traces.append(trace)
    axis: Trace = {"title": {"text": name}}
    if ticks is not None:
        axis |= {"tickvals": [*ticks.values()], "ticktext": [*ticks]}
    return traces, axis | ({"range": [-0.5, len(places) - 0.5], "showgrid": False} if is_spread else {})


def _value(trial: TrialView, name: str) -> Value:
    value = trial.parameters.get(name)
    return 0 if value is None and name == "synthetic_ratio" else value


def _marker(source: str, status: str, *, is_small: bool) -> Trace:
    size = 6 if is_small else 9
    if status == "complete":
        return {"color": colour_of(source), "size": size, "opacity": 0.85}
    symbol = "x-thin-open" if status == "failed" else "circle-open"
    return {"color": colour_of(source), "size": size - 1, "symbol": symbol, "line": {"width": 1 if is_small else 1.8}}


def _strong(view: StudyView) -> list[TrialView]:
    """Return the complete trials or, where there are many, the best one of each source."""
    ranked = view.ranked
    if len(ranked) <= _MANY:
        return ranked
    return list({trial.parameters.get("source"): trial for trial in reversed(ranked)}.values())


def _label(trial: TrialView) -> str:
    return f"#{trial.number} {trial.mix}"


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}".lower() if isinstance(value, bool) else f"{value}"


def _score_axis(view: StudyView) -> Trace:
    where = "" if view.objective.is_of_generator else "val-A "
    return {"title": {"text": f"{where}{view.metric}"}}


def _upper_range(view: StudyView) -> list[float] | None:
    """Return the range of scores that shows differences between the better half of the trials; None for all."""
    last = [trial.values[-1] for trial in view.trials if trial.values]
    if len(last) < 4 or view.objective.is_of_generator:
        return None
    low, high = float(np.quantile(last, 0.25)), max(last)
    space = max(0.1 * (high - low), 1e-3)
    return [low - space, high + space]


def _error(centres: Iterable[float], ends: Sequence[Mapping[str, float] | None], *, width: int) -> Trace:
    pairs = [*zip(centres, ends, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": [end and round(end["high"] - centre, 5) for centre, end in pairs],
        "arrayminus": [end and round(centre - end["low"], 5) for centre, end in pairs],
        "width": width,
        "thickness": 1.4,
    }


def _banded(curve: Curve, hover: str, shape: str = "linear") -> list[Trace]:
    colour = _COLOURS["gan"]
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": _rounded(curve.x),
        "y": _rounded(curve.y),
        "line": {"color": colour, "width": 2, "shape": shape},
        "hovertemplate": f"{hover}<extra></extra>",
    }
    if not np.isfinite(curve.low).all():
        return [line]
    edge = {"type": "scatter", "mode": "lines", "x": _rounded(curve.grid), "line": {"width": 0}, "hoverinfo": "skip"}
    low = edge | {"y": _rounded(curve.low)}
    high = edge | {"y": _rounded(curve.high), "fill": "tonexty", "fillcolor": "rgba(34,136,204,0.18)"}
    return [low, high, line]


def _square(x: str, y: str) -> Trace:
    return {
        "xaxis": {"title": {"text": x}, "range": [-0.01, 1.01]},
        "yaxis": {"title": {"text": y}, "range": [-0.01, 1.01]},
        "showlegend": False,
    }


def _title(text: str) -> Trace:
    return {"text": text, "x": 0, "xref": "paper", "font": {"size": 14}}


def _escaped(name: str, width: int = 100) -> str:
    """Return a name in lines of so many characters, as text for Plotly, which knows some HTML."""
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(name, width)) or " "


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _line(*, x: float | None = None, y: float | None = None, dash: str = "solid") -> Trace:
    ends = (
        {"x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"}
        if x is not None
        else {"y0": y, "y1": y, "x0": 0, "x1": 1, "xref": "paper"}
    )
    return {"type": "line", **ends, "line": {"color": "#8c8c8c", "width": 1, "dash": dash}, "layer": "below"}


def _diagonal() -> Trace:
    return {
        "type": "line",
        "x0": 0,
        "y0": 0,
        "x1": 1,
        "y1": 1,
        "line": {"color": "#8c8c8c", "width": 1, "dash": "dot"},
        "layer": "below",
    }


def _band(low: float, high: float) -> Trace:
    style = {"fillcolor": "rgba(140,140,140,0.18)", "line": {"width": 0}, "layer": "below"}
    return {"type": "rect", "x0": low, "x1": high, "y0": 0, "y1": 1, "yref": "paper", **style}


def _note(text: str, *, x: float, y: float) -> Trace:
    return {
        "text": text,
        "x": x,
        "y": y,
        "yref": "paper",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 11},
    }
