"""The charts of a report: Plotly traces and layouts as plain dicts. page.js draws them in the colours of the theme.

Colours follow the source of extra images in all charts; they are distinct for colour-blind readers (Okabe and Ito 2008).
"""

from __future__ import annotations

import html
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraytune.config.domains import Value
from xraytune.metrics.curves import ClassCurves, Curve
from xraytune.search.status import StudyView, TrialView

Trace = dict[str, Any]
_SYMBOLS = {"better": "triangle-right", "equivalent": "circle", "worse": "triangle-left", "undecided": "diamond"}
_SOURCE_COLOURS = {
    "none": "#8c8c8c",
    "duplicate": "#e69f00",
    "gan": "#2288cc",
    "diffusion": "#cc79a7",
    "folder": "#009e73",
}
"""The colour of each source of extra images."""
_OTHER_COLOUR = "#56b4e9"
_VERDICT_COLOURS = {"better": "#009e73", "equivalent": "#2288cc", "worse": "#d55e00", "undecided": "#8c8c8c"}
_COLOUR = _SOURCE_COLOURS["gan"]
"""Of what does not depend on the source of extra images."""
_GREY = "#8c8c8c"
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
_LINE = {"type": "line", "x0": 0, "x1": 1, "y0": 0, "y1": 1, "layer": "below"}
_DIAGONAL = {**_LINE, "line": {"color": _GREY, "width": 1, "dash": "dot"}}
_HORIZONTAL = {**_LINE, "y1": 0, "xref": "paper", "line": {"color": _GREY, "width": 1}}
_ROPE = {**_LINE, "type": "rect", "yref": "paper", "fillcolor": "rgba(140,140,140,0.18)", "line": {"width": 0}}
_FEW = 8
"""Values of a parameter up to which they stand side by side instead of to scale."""
_MANY = 40
"""Trials from which on only the best ones have intervals and strong curves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart: Plotly's traces and layout, without colours of text, grid and background; sizes are in px.

    `alt` says what it shows, for a screen reader. Pages narrower than `min_width` scroll it.
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
    names = [_escaped(one["control"]) for one in rows]
    traces = [
        _scatter(
            "markers",
            [one["difference"] for one in own],
            [_escaped(one["control"]) for one in own],
            "%{y}<br>%{x:+.4f} (%{text})",
            name=word,
            error_x=_error((one["difference"] for one in own), _ends(own), width=5),
            marker={"color": _VERDICT_COLOURS[word], "size": 11, "symbol": symbol},
            text=[f"{one['low']:+.4f} to {one['high']:+.4f}" for one in own],
        )
        for word, symbol in _SYMBOLS.items()
        if (own := [one for one in rows if one["verdict"][0] == word])
    ]
    above = {"xref": "paper", "x": 0, "xanchor": "left", "yshift": 19, "showarrow": False, "font": {"size": 13}}
    rope_name = {"yref": "paper", "x": 0, "y": 1.0, "yanchor": "bottom", "showarrow": False, "font": {"size": 11}}
    layout = {
        "xaxis": _axis(f"difference in {metric}, 95 % interval", nticks=6),
        "yaxis": {"categoryorder": "array", "categoryarray": names, "range": [-0.5, len(names) - 0.25]}
        | {"showticklabels": False, "showgrid": False},
        "shapes": [_ROPE | {"x0": -rope, "x1": rope}, _vertical(0)],
        "annotations": [*({"text": one, "y": one} | above for one in names), {"text": f"ROPE ±{rope:g}"} | rope_name],
        "legend": {**_LEGEND, "y": 1 + 20 / (8 + 54 * len(rows))},
        "margin": {"l": 4, "r": 16, "t": 62, "b": 50},
    }
    alt = "; ".join(f"{one['control']}: {one['difference']:+.4f}" for one in rows)
    return Chart(id="differences", traces=traces, layout=layout, height=120 + 54 * len(rows), alt=alt)


def ratio_response(points: Sequence[Mapping[str, Any]], source: str, metric: str) -> Chart:
    """Show the gain over ratio 0 at each ratio, of a finalist's source and of duplicates (`verdict.json`)."""
    with_ratio = [one for one in points if one["ratio"]]
    ratios = [f"{one['ratio']:g}" for one in with_ratio]
    traces = []
    for name, gains, shift in ((source, with_ratio, 0.04), ("duplicate", [o["duplicate"] for o in with_ratio], -0.04)):
        if own := {place: gain for place, gain in enumerate(gains) if gain}:
            values = [gain["gain"] for gain in own.values()]
            text = "r = {}: {gain:+.4f} ({low:+.4f} to {high:+.4f})"
            trace = _scatter(
                "lines+markers",
                [place + shift for place in own],
                values,
                f"{name}, %{{text}}",
                name=name,
                error_y=_error(values, _ends(own.values()), width=4),
                line={"color": _colour_of(name)},
                marker={"color": _colour_of(name), "size": 8},
                text=[text.format(ratios[place], **gain) for place, gain in own.items()],
            )
            traces.append(trace)
    layout = {
        "xaxis": _axis("extra images per real image (r)", tickvals=[*range(len(ratios))], ticktext=ratios),
        "yaxis": _axis(f"gain in val-B {metric} over r = 0"),
        "shapes": [_HORIZONTAL],
        "legend": _LEGEND,
    }
    alt = "; ".join(f"r = {one['ratio']:g}: {one['gain']:+.4f}" for one in with_ratio)
    return Chart(id="ratios", traces=traces, layout=layout, alt=f"gain of {source} over r = 0: {alt}")


def trials_by_ratio(view: StudyView) -> Chart:
    """Show the val-A score of each trial over its ratio."""
    traces, axis = _scatter_by_source(view, "synthetic_ratio")
    axis |= _axis("extra images per real image (r)")
    layout = {"xaxis": axis, "yaxis": _score_axis(view), "legend": _LEGEND}
    return Chart(id="ratios", traces=traces, layout=layout, alt="val-A score of each trial over its synthetic ratio")


def learning_curves(view: StudyView, rungs: Sequence[int]) -> Chart:
    """Show the best score so far of each trial after each epoch; pruned trials are pale, and of many all but the best.

    `meta` of a trace has a label for each of its lines, which page.js turns into `text`.
    """
    strong = {trial.number for trial in _strong(view)}
    groups: dict[tuple[bool, str], list[TrialView]] = {}
    for trial in view.trials:
        if trial.values:
            groups.setdefault((trial.number in strong, _source(trial)), []).append(trial)
    pale = 0.5 if len(view.trials) <= _MANY else 0.25
    traces = [
        _scatter(
            "lines" if max(len(one.values) for one in trials) > 1 else "lines+markers",
            list(chain.from_iterable([*range(1, len(one.values) + 1), None] for one in trials)),
            list(chain.from_iterable([*_rounded(one.values), None] for one in trials)),
            "%{text}<br>epoch %{x}: %{y:.4f}",
            name=source,
            legendgroup=source,
            meta=[_label(one) for one in trials],
            line={"color": _colour_of(source), "width": 2.5 if is_strong else 1.2},
            opacity=1 if is_strong else pale,
            showlegend=is_strong or (True, source) not in groups,
        )
        for (is_strong, source), trials in sorted(groups.items())
    ]
    layout = {
        "xaxis": _axis("epoch", rangemode="tozero"),
        "yaxis": _score_axis(view),
        "shapes": [_vertical(epoch, dash="dot") for epoch in rungs],
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
            layout = {"xaxis": axis, "yaxis": _score_axis(view), "showlegend": False}
            alt = f"val-A score of each trial over {name}"
            chart_id = f"parameter-{name.replace('.', '-')}"
            charts.append(Chart(id=chart_id, traces=traces, layout=layout, height=270, alt=alt))
    return tuple(charts)


def parallel_coordinates(view: StudyView, ranges: Mapping[str, bool]) -> Chart | None:
    """Show all searched parameters and the score of complete and pruned trials; None with fewer than two parameters."""
    trials = [trial for trial in view.trials if trial.values]
    dimensions = []
    for name in view.searched:
        values = [trial.parameters.get(name) for trial in trials]
        places, ticks = _places(values, is_log=ranges.get(name))
        if len(places) > 1:
            nowhere = min(places.values())
            if ticks:
                nowhere -= (max(places.values()) - nowhere) / 6
            if ticks and None in values:
                ticks = {"tickvals": [nowhere, *ticks["tickvals"]], "ticktext": ["-", *ticks["ticktext"]]}
            dimensions.append({"label": name, "values": [places.get(one, nowhere) for one in values], **ticks})
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


def _places(values: Iterable[Value], *, is_log: bool | None) -> tuple[dict[Value, float], Trace]:
    """Return where the values stand on an axis, and its ticks; {} leaves these to Plotly.

    Choices and few integers stand side by side, a range of floats to scale; `is_log` is None unless it is such a range.
    """
    known = sorted({value for value in values if value is not None}, key=lambda one: (isinstance(one, str), one))
    numbers = [float(one) for one in known if isinstance(one, int | float) and not isinstance(one, bool)]
    if not known or len(numbers) < len(known) or (len(known) <= _FEW and is_log is None):
        places: dict[Value, float] = {value: float(place) for place, value in enumerate(known)}
        return places, {"tickvals": [*places.values()], "ticktext": [*map(value_text, known)]}
    if not is_log:
        return dict(zip(known, numbers, strict=True)), {}
    steps = (1, 3) if numbers[-1] / numbers[0] < 100 else (1,)
    ticks = [step * 10.0**power for power in range(-12, 12) for step in steps]
    ticks = [tick for tick in ticks if numbers[0] <= tick <= numbers[-1]]
    shown = {"tickvals": np.log10(ticks).tolist(), "ticktext": [f"{tick:g}" for tick in ticks]}
    return dict(zip(known, np.log10(numbers).tolist(), strict=True)), shown


def curve_charts(curves: ClassCurves, positive: str, captions: Mapping[str, str]) -> tuple[Chart, ...]:
    """Show ROC, precision-recall and calibration of one class, with pointwise 95 % bands; `captions` are by id."""
    found = curves.calibration
    bins = _scatter(
        "lines+markers",
        _rounded(found.mean_probability),
        _rounded(found.share),
        "predicted %{x:.3f}<br>observed %{y:.3f}<br>%{text}",
        error_y=_error(found.share, zip(found.low, found.high, strict=True), width=3),
        line={"color": _COLOUR, "width": 1},
        marker={"color": _COLOUR, "size": 7},
        text=[f"{count} images" for count in found.images],
    )
    roc = _banded(curves.roc, "1 - specificity %{x:.3f}<br>sensitivity %{y:.3f}")
    pr = _banded(curves.pr, "recall %{x:.3f}<br>precision %{y:.3f}", shape="hv")

    def chart(name: str, alt: str, traces: Sequence[Trace], title: str, x: str, y: str, **layout: Any) -> Chart:
        axes = {"xaxis": _axis(x, range=[-0.01, 1.01]), "yaxis": _axis(y, range=[-0.01, 1.01])}
        layout |= {**axes, "showlegend": False, "title": _title(title)}
        return Chart(id=name, traces=traces, layout=layout, alt=alt, caption=captions[name])

    on_roc, on_pr = (
        f"ROC curve of {positive}, {captions['roc']}",
        f"precision-recall curve of {positive}, {captions['pr']}",
    )
    probability, share = "predicted probability", "observed share"
    return (
        chart("roc", on_roc, roc, "ROC", "1 - specificity", "sensitivity", shapes=[_DIAGONAL]),
        chart("pr", on_pr, pr, "Precision and recall", "recall", "precision"),
        chart(
            "calibration", f"calibration of {positive}", [bins], "Calibration", probability, share, shapes=[_DIAGONAL]
        ),
    )


def confusion(counts: NDArray[np.int64], names: Sequence[str], caption: str) -> Chart:
    """Show a confusion matrix, images by true (rows) and predicted class, [C, C]."""
    labels = [_escaped(name, 16) for name in names]
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
        "xaxis": _axis("predicted class", type="category", showgrid=False),
        "yaxis": _axis("true class", type="category", autorange="reversed", showgrid=False),
        "title": _title("Confusion matrix"),
    }
    alt = "; ".join(f"true {name}: {', '.join(map(str, row))}" for name, row in zip(names, counts, strict=True))
    return Chart(id="confusion", traces=[trace], layout=layout, alt=alt, caption=caption)


def dice_by_patient(patients: Sequence[str], dices: Sequence[float]) -> Chart:
    """Show the mean Dice of each patient, sorted."""
    of_patient = defaultdict[str, list[float]](list)
    for name, dice in zip(patients, dices, strict=True):
        of_patient[name].append(dice)
    means, names = zip(*sorted((float(np.mean(own)), name) for name, own in of_patient.items()), strict=True)
    places, marker = list(range(1, len(names) + 1)), {"color": _COLOUR, "size": 7}
    trace = _scatter("markers", places, _rounded(means), "%{text}<br>Dice %{y:.3f}", text=names, marker=marker)
    layout = {"xaxis": _axis("patients, worst first"), "yaxis": _axis("Dice")}
    alt = f"Dice of {len(names)} patients, from {means[0]:.3f}"
    return Chart(id="dice", traces=[trace], layout=layout, alt=alt)


def _scatter_by_source(view: StudyView, name: str, *, is_log: bool | None = None) -> tuple[list[Trace], Trace]:
    """Return a point of each trial with a score, and the axis of the parameter."""
    groups: dict[tuple[str, str], list[TrialView]] = {}
    sources_at: dict[Value, set[str]] = {}
    shown = [trial for trial in view.trials if trial.values and _value(trial, name) is not None]
    for trial in shown:
        groups.setdefault((_source(trial), trial.status), []).append(trial)
        sources_at.setdefault(_value(trial, name), set()).add(_source(trial))
    places, ticks = _places(sources_at, is_log=is_log)
    is_spread, is_many = is_log is None and bool(ticks), len(shown) > _MANY

    def place(trial: TrialView) -> float:
        """Where few values stand side by side, each source has a lane at its value, which many trials fill."""
        beside = sorted(sources_at[_value(trial, name)])
        lane, width = beside.index(_source(trial)) - (len(beside) - 1) / 2, 0.7 / len(beside)
        within = 0.8 * (trial.number * 0.618 % 1 - 0.5) if is_many else 0.0
        return round(places[_value(trial, name)] + width * (lane + within) * is_spread, 4)

    side = next((side for side in view.sides if side.name == "val-A"), None) if view.metric == "AUROC" else None
    strong = {trial.number for trial in _strong(view)}
    traces = []
    for (source, status), trials in sorted(groups.items()):
        scores = [trial.values[-1] for trial in trials]
        trace = _scatter(
            "markers",
            [*map(place, trials)],
            _rounded(scores),
            "%{text}: %{y:.4f}",
            name=source,
            legendgroup=source,
            showlegend=status == "complete" or (source, "complete") not in groups,
            text=[f"{_label(trial)}<br>{name} {value_text(_value(trial, name))}" for trial in trials],
            marker=_marker(source, status, is_small=is_many),
        )
        intervals = [
            side.interval(score) if side and one.number in strong else None
            for one, score in zip(trials, scores, strict=True)
        ]
        if any(intervals):
            trace["error_y"] = _error(scores, intervals, width=0) | {"thickness": 1}
        traces.append(trace)
    spread = {"range": [-0.5, len(places) - 0.5], "showgrid": False} if is_spread else {}
    return traces, _axis(name, **ticks, **spread)


def _source(trial: TrialView) -> str:
    return f"{trial.parameters.get('source')}"


def _value(trial: TrialView, name: str) -> Value:
    value = trial.parameters.get(name)
    return 0 if value is None and name == "synthetic_ratio" else value


def _marker(source: str, status: str, *, is_small: bool) -> Trace:
    size = 6 if is_small else 9
    if status == "complete":
        return {"color": _colour_of(source), "size": size, "opacity": 0.85}
    symbol = "x-thin-open" if status == "failed" else "circle-open"
    return {"color": _colour_of(source), "size": size - 1, "symbol": symbol, "line": {"width": 1 if is_small else 1.8}}


def _strong(view: StudyView) -> list[TrialView]:
    """Return the complete trials or, where there are many, the best one of each source."""
    ranked = view.ranked
    if len(ranked) <= _MANY:
        return ranked
    return list({trial.parameters.get("source"): trial for trial in reversed(ranked)}.values())


def _label(trial: TrialView) -> str:
    return f"#{trial.number} {trial.mix}"


def value_text(value: object) -> str:
    """Return a value of a parameter as text: `true`, `0.001`, `gan`."""
    return f"{value:g}" if isinstance(value, float) else f"{value}".lower() if isinstance(value, bool) else f"{value}"


def _score_axis(view: StudyView) -> Trace:
    """Return an axis that shows differences between the better half of the trials; of KID, and of few trials, all."""
    if view.objective.is_of_generator:
        return _axis(view.metric, range=None)
    return _axis(
        f"val-A {view.metric}", range=_upper_range([trial.values[-1] for trial in view.trials if trial.values])
    )


def _colour_of(source: object) -> str:
    """Return the colour of a source of extra images."""
    return _SOURCE_COLOURS.get(f"{source}", _OTHER_COLOUR)


def _upper_range(scores: Sequence[float]) -> tuple[float, float] | None:
    """Return the range of an axis for the upper three quarters of final scores, where trials differ little; None for all."""
    if len(scores) < 4:
        return None
    low, high = float(np.quantile(scores, 0.25)), max(scores)
    space = max(0.1 * (high - low), 1e-3)
    return low - space, high + space


def _scatter(mode: str, x: Sequence[Any], y: Sequence[Any], hover: str, **more: Any) -> Trace:
    return {"type": "scatter", "mode": mode, "x": x, "y": y, "hovertemplate": f"{hover}<extra></extra>", **more}


def _ends(rows: Iterable[Mapping[str, float]]) -> list[tuple[float, float]]:
    return [(row["low"], row["high"]) for row in rows]


def _error(centres: Iterable[float], ends: Iterable[tuple[float, float] | None], *, width: int) -> Trace:
    pairs = [*zip(centres, ends, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": [end and round(end[1] - centre, 5) for centre, end in pairs],
        "arrayminus": [end and round(centre - end[0], 5) for centre, end in pairs],
        "width": width,
        "thickness": 1.4,
    }


def _banded(curve: Curve, hover: str, shape: str = "linear") -> list[Trace]:
    style = {"color": _COLOUR, "width": 2, "shape": shape}
    line = _scatter("lines", _rounded(curve.x), _rounded(curve.y), hover, line=style)
    if not np.isfinite(curve.low).all():
        return [line]
    edge = {"type": "scatter", "mode": "lines", "x": _rounded(curve.grid), "line": {"width": 0}, "hoverinfo": "skip"}
    low = edge | {"y": _rounded(curve.low)}
    high = edge | {"y": _rounded(curve.high), "fill": "tonexty", "fillcolor": "rgba(34,136,204,0.18)"}
    return [low, high, line]


def _axis(title: str, **more: Any) -> Trace:
    return {"title": {"text": title}, **more}


def _title(text: str) -> Trace:
    return {"text": text, "x": 0, "xref": "paper", "font": {"size": 14}}


def _escaped(name: str, width: int = 100) -> str:
    """Return a name in lines of so many characters, as text for Plotly, which knows some HTML."""
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(name, width)) or " "


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _vertical(x: float, dash: str = "solid") -> Trace:
    return {**_LINE, "x0": x, "x1": x, "yref": "paper", "line": {"color": _GREY, "width": 1, "dash": dash}}
