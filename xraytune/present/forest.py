"""The differences of a verdict as Plotly figures, which also a page without a study shows."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from xraytune.confirm.record import Confirmation
from xraytune.present.verdict import secondary_table, verdict_frame
from xraytune.stats.verdict import Interval

_MARKERS = {
    "better": ("#009e73", "circle"),
    "equivalent": ("#2288cc", "diamond"),
    "worse": ("#d55e00", "square"),
    "no better": ("#7a5fb5", "x"),
    "undecided": ("#8c8c8c", "cross"),
}
"""Colour and symbol of each result of a comparison."""
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "title": ""}
VERTICAL = {"type": "line", "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
"""A vertical line for `add_shape`; a line from `add_vline` would be hidden by the grid."""
GREY = {"color": "#8c8c8c", "width": 1}


def verdict_parts(record: Confirmation) -> dict[str, Any]:
    """Return what a page shows of a verdict: its sentences and tables, and its charts."""
    return {
        "frame": verdict_frame(record),
        "differences": plot_verdict(record),
        "groups": plot_subgroups(record),
        "secondary": secondary_table(record),
    }


def plot_verdict(confirmation: Confirmation) -> Any:
    """Plot the differences of the first finalist from its controls, as a Plotly figure.

    The intervals are those of the verdict; differences in the grey band do not matter.
    """
    finalist = confirmation.finalists[0]
    rope = confirmation.rope
    rows = [(row.control, row) for row in finalist.comparisons]
    results = {row.control: finalist.verdict_words(row)[0] for row in finalist.comparisons}
    axis = (f"difference in {confirmation.metric}", f"grey: ROPE ±{rope:g}")
    figure = plot_forest(rows, *axis, results=results)
    figure.add_vrect(-rope, rope, fillcolor="rgba(140,140,140,0.18)", line_width=0, layer="below")
    figure.update_layout(legend=LEGEND)
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
    figure.add_shape(VERTICAL, x0=0, x1=0, line=GREY)
    lines = [part for line in axis for part in textwrap.wrap(line, 60)]
    figure.update_xaxes(title="<br>".join(lines), nticks=6)
    figure.update_yaxes(title="", showgrid=False)
    figure.update_layout(height=150 + 40 * len(rows))
    return figure
