"""The charts of a report: Plotly traces and layouts as plain dicts. page.js draws them in the colours of the theme.

Colours follow the source of extra images in all charts; they are distinct for colour-blind readers (Okabe and Ito 2008).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from xraytune.config.domains import Value
from xraytune.metrics.curves import Calibration, ClassCurves, Curve
from xraytune.search.status import StudyView, TrialView

Trace = dict[str, Any]
_COLOURS = {"none": "#8c8c8c", "duplicate": "#e69f00", "gan": "#2288cc", "diffusion": "#cc79a7", "folder": "#009e73"}
_OTHER = "#56b4e9"
_VERDICTS = {"better": "#009e73", "equivalent": "#2288cc", "worse": "#d55e00", "undecided": "#8c8c8c"}
_SYMBOLS = {"complete": "circle", "pruned": "circle-open", "failed": "x-thin-open"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart.

    Attributes:
        id: Unique in the page.
        traces: See Plotly's reference.
        layout: Without colours of text, grid and background.
        height: In px.
        alt: What it shows, as text for a screen reader.
        caption: Below the chart.
    """

    id: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 360
    alt: str
    caption: str = ""


def colour_of(source: Value) -> str:
    """Return the colour of a source of extra images."""
    return _COLOURS.get(f"{source}", _OTHER)


def differences(finalist: Mapping[str, Any], metric: str, rope: float) -> Chart:
    """Show the differences of a finalist (`verdict.json`) from its controls, with intervals and the ROPE."""
    rows = finalist["comparisons"][::-1]
    traces = []
    for word, colour in _VERDICTS.items():
        own = [one for one in rows if one["verdict"][0] == word]
        if own:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": word,
                    "x": [one["difference"] for one in own],
                    "y": [one["control"] for one in own],
                    "error_x": _error([one["difference"] for one in own], own, width=5),
                    "marker": {"color": colour, "size": 10},
                    "text": [f"{one['low']:+.4f} to {one['high']:+.4f}" for one in own],
                    "hovertemplate": "%{y}<br>%{x:+.4f} (%{text})<extra></extra>",
                }
            )
    layout = {
        "xaxis": {"title": {"text": f"difference in {metric} (finalist minus control), 95 % interval"}},
        "yaxis": {"categoryorder": "array", "categoryarray": [one["control"] for one in rows], "automargin": True},
        "shapes": [_band(-rope, rope), _line(x=0)],
        "annotations": [_note(f"ROPE ±{rope:g}", x=0, y=1.0)],
        "legend": _LEGEND,
    }
    alt = "; ".join(f"{one['control']}: {one['difference']:+.4f}" for one in rows)
    return Chart(id="differences", traces=traces, layout=layout, height=130 + 46 * len(rows), alt=alt)


def ratio_response(points: Sequence[Mapping[str, Any]], source: str, metric: str) -> Chart:
    """Show the gain over ratio 0 at each ratio, of a finalist's source and of duplicates (`verdict.json`)."""
    with_ratio = [one for one in points if one["ratio"]]
    series: dict[str, list[Mapping[str, Any]]] = {
        source: with_ratio,
        "duplicate": [{"ratio": o["ratio"], **o["duplicate"]} for o in with_ratio if o["duplicate"]],
    }
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [f"{one['ratio']:g}" for one in own],
            "y": [one["gain"] for one in own],
            "error_y": _error([one["gain"] for one in own], own, width=4),
            "line": {"color": colour_of(name)},
            "marker": {"color": colour_of(name), "size": 8},
            "text": [f"{one['low']:+.4f} to {one['high']:+.4f}" for one in own],
            "hovertemplate": f"{name}, r = %{{x}}<br>%{{y:+.4f}} (%{{text}})<extra></extra>",
        }
        for name, own in series.items()
        if own
    ]
    layout = {
        "xaxis": {"title": {"text": "extra images per real image (r)"}, "type": "category"},
        "yaxis": {"title": {"text": f"gain in val-B {metric} over r = 0"}},
        "shapes": [_line(y=0)],
        "legend": _LEGEND,
    }
    alt = "; ".join(f"r = {one['ratio']:g}: {one['gain']:+.4f}" for one in with_ratio)
    return Chart(id="ratios", traces=traces, layout=layout, alt=f"gain of {source} over r = 0: {alt}")


def trials_by_ratio(view: StudyView) -> Chart:
    """Show the val-A score of each trial over its ratio."""
    traces = _scatter_by_source(view, "synthetic_ratio")
    ratios = sorted({float(trial.parameters.get("synthetic_ratio") or 0) for trial in view.trials})
    ticks = {"tickvals": ratios} if len(ratios) <= 8 else {}
    layout = {
        "xaxis": {"title": {"text": "extra images per real image (r)"}, **ticks},
        "yaxis": _score_axis(view),
        "legend": _LEGEND,
    }
    return Chart(id="ratios", traces=traces, layout=layout, alt="val-A score of each trial over its synthetic ratio")


def learning_curves(view: StudyView, rungs: Sequence[int]) -> Chart:
    """Show the best score so far of each trial after each epoch; pruned trials are pale."""
    groups: dict[tuple[bool, str], list[TrialView]] = {}
    for trial in view.trials:
        if trial.values:
            groups.setdefault((trial.status == "complete", f"{trial.parameters.get('source')}"), []).append(trial)
    traces = [
        {
            "type": "scatter",
            "mode": "lines" + ("+markers" if max(len(one.values) for one in trials) == 1 else ""),
            "name": source,
            "legendgroup": source,
            "x": list(chain.from_iterable([*range(1, len(one.values) + 1), None] for one in trials)),
            "y": list(chain.from_iterable([*_rounded(one.values), None] for one in trials)),
            "text": list(chain.from_iterable([_label(one)] * len(one.values) + [""] for one in trials)),
            "hovertemplate": "%{text}<br>epoch %{x}: %{y:.4f}<extra></extra>",
            "line": {"color": colour_of(source), "width": 2 if complete else 1.2},
            "opacity": 1 if complete else 0.45,
            "showlegend": complete or (True, source) not in groups,
        }
        for (complete, source), trials in sorted(groups.items())
    ]
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"},
        "yaxis": {**_score_axis(view), "range": _upper_range(view)},
        "shapes": [_line(x=epoch, dash="dot") for epoch in rungs],
        "legend": _LEGEND,
    }
    caption = "Pale: pruned, failed or running. "
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


def parameter_charts(view: StudyView) -> tuple[Chart, ...]:
    """Show the val-A score of all trials over each searched parameter."""
    charts = []
    for name in view.searched:
        values = [trial.parameters.get(name) for trial in view.trials]
        if len({value for value in values if value is not None}) < 2:
            continue
        numbers = [value for value in values if isinstance(value, float) and value > 0]
        is_log = len(numbers) > 1 and max(numbers) / min(numbers) >= 10
        axis = {"title": {"text": name}, "type": "log" if is_log else "-"}
        if not all(value is None or isinstance(value, int | float) for value in values):
            axis["type"] = "category"
        charts.append(
            Chart(
                id=f"parameter-{name.replace('.', '-')}",
                traces=_scatter_by_source(view, name),
                layout={
                    "xaxis": axis,
                    "yaxis": {**_score_axis(view), "range": _upper_range(view)},
                    "showlegend": False,
                },
                height=260,
                alt=f"val-A score of each trial over {name}",
            )
        )
    return tuple(charts)


def parallel_coordinates(view: StudyView) -> Chart | None:
    """Show all searched parameters and the score of complete and pruned trials; None with fewer than two parameters."""
    trials = [trial for trial in view.trials if trial.values]
    dimensions = []
    for name in view.searched:
        values = [trial.parameters.get(name) for trial in trials]
        known = sorted({value for value in values if value is not None}, key=lambda one: (isinstance(one, str), one))
        if len(known) > 1:
            dimensions.append(_dimension(name, values, known))
    if len(dimensions) < 2 or len(trials) < 2:
        return None
    scores = _rounded([trial.values[-1] for trial in trials])
    dimensions.append({"label": view.metric, "values": scores})
    low, high = np.quantile(scores, [0.25, 1]).tolist()
    colours = [[0, "#9aa5b1"], [1, "#d55e00"]]
    line = {"color": scores, "colorscale": colours, "cmin": low, "cmax": max(high, low + 1e-6), "showscale": False}
    return Chart(
        id="parallel",
        traces=[{"type": "parcoords", "dimensions": dimensions, "line": line}],
        layout={"margin": {"l": 70, "r": 50, "t": 60, "b": 30}},
        height=380,
        alt="searched parameters and score of each trial as parallel coordinates",
        caption="Drag along an axis to select trials. The best trials are orange.",
    )


def _dimension(name: str, values: Sequence[Value], known: Sequence[Value]) -> Trace:
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    if not numeric or len(known) <= 8:
        place = {value: number for number, value in enumerate(known)}
        return {
            "label": name,
            "values": [place.get(value, -1) for value in values],
            "tickvals": [-1, *place.values()] if None in values else [*place.values()],
            "ticktext": [
                *(["-"] if None in values else []),
                *(f"{value:g}" if numeric else f"{value}" for value in known),
            ],
        }
    numbers = np.array([np.nan if value is None else float(value) for value in values])
    if (numbers[np.isfinite(numbers)] > 0).all() and known[-1] / known[0] >= 10:  # type: ignore[operator]
        ticks = [10.0**power for power in range(-9, 10) if known[0] <= 10.0**power <= known[-1]]  # type: ignore[operator]
        numbers = np.log10(numbers)
        extra = {"tickvals": np.log10(ticks).tolist(), "ticktext": [f"{tick:g}" for tick in ticks]} if ticks else {}
    else:
        extra = {}
    return {"label": name, "values": np.nan_to_num(numbers, nan=float(np.nanmin(numbers))).tolist(), **extra}


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
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = [[f"{n:,}<br>{s:.0%}" for n, s in zip(*rows, strict=True)] for rows in zip(counts, share, strict=True)]
    trace = {
        "type": "heatmap",
        "z": share.tolist(),
        "x": list(names),
        "y": list(names),
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


def _scatter_by_source(view: StudyView, name: str) -> list[Trace]:
    groups: dict[tuple[str, str], list[TrialView]] = {}
    for trial in view.trials:
        if trial.values and (trial.parameters.get(name) is not None or name == "synthetic_ratio"):
            groups.setdefault((f"{trial.parameters.get('source')}", trial.status), []).append(trial)
    side = next((side for side in view.sides if side.name == "val-A"), None)
    traces = []
    for (source, status), trials in sorted(groups.items()):
        scores = [trial.values[-1] for trial in trials]
        trace = {
            "type": "scatter",
            "mode": "markers",
            "name": source,
            "legendgroup": source,
            "showlegend": status == "complete" or (source, "complete") not in groups,
            "x": [_shown(trial.parameters.get(name) or 0) for trial in trials],
            "y": _rounded(scores),
            "text": [_label(trial) for trial in trials],
            "hovertemplate": f"%{{text}}<br>{name} %{{x}}: %{{y:.4f}}<extra></extra>",
            "marker": {
                "color": colour_of(source),
                "size": 9 if status == "complete" else 7,
                "symbol": _SYMBOLS.get(status, "circle-open"),
            },
            "opacity": 0.9 if status == "complete" else 0.6,
        }
        intervals = [side.interval(score) if side and view.metric == "AUROC" else None for score in scores]
        if status == "complete" and all(intervals):
            ends = [{"low": low, "high": high} for low, high in filter(None, intervals)]
            trace["error_y"] = _error(scores, ends, width=0) | {"thickness": 0.7}
        traces.append(trace)
    return traces


def _label(trial: TrialView) -> str:
    return f"#{trial.number} {trial.mix}"


def _shown(value: Value) -> Value:
    return f"{value}".lower() if isinstance(value, bool) else value


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


def _error(centres: Iterable[float], ends: Sequence[Mapping[str, float]], *, width: int) -> Trace:
    pairs = [*zip(centres, ends, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": _rounded([end["high"] - centre for centre, end in pairs]),
        "arrayminus": _rounded([centre - end["low"] for centre, end in pairs]),
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
