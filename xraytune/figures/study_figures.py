"""The figures of a study for a paper: differences from controls, ratio response, and learning curves.

Each is as wide as one or both columns of a journal page, in 7-point text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xraytune.figures.drawing import (
    COLUMN_INCHES,
    PAGE_INCHES,
    SOURCE_COLOURS,
    VERDICT_COLOURS,
    colour_of,
    new_figure,
    upper_range,
)

if TYPE_CHECKING:
    from xraytune.figures.drawing import Axes

_TEXT, _SMALL = 7, 6
_GREY, _DARK = "#8c8c8c", "#222222"
_MARKERS = {"better": "^", "equivalent": "s", "worse": "v", "undecided": "o"}
_STYLE: Mapping[str, Any] = {
    **{"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.5},
    **{"linewidth": 1.1, "elinewidth": 1.0, "capsize": 2},
}
Row: TypeAlias = Mapping[str, Any]
"""A difference as in `verdict.json`, with `low` and `high`, the ends of its 95 % interval."""
Curve: TypeAlias = tuple[str, Sequence[float], bool]
"""Source of a trial, its best score so far after each epoch, and whether it is complete."""


def draw_differences(rows: Sequence[Row], file: Path, *, metric: str, rope: float) -> None:
    """Draw the `comparisons` of a finalist with its controls, one below the other, with the ROPE as a band."""
    with new_figure([file], 0.62 + 0.36 * len(rows), width=COLUMN_INCHES) as figure:
        axes = figure.add_subplot()
        axes.axvspan(-rope, rope, color=_GREY, alpha=0.18, linewidth=0)
        axes.axvline(0, color=_GREY, linewidth=0.7)
        for word, colour in VERDICT_COLOURS.items():
            places = [place for place, row in enumerate(rows) if row["verdict"][0] == word]
            if places:
                values, errors = _errors([rows[place] for place in places], "difference")
                axes.errorbar(values, places, xerr=errors, fmt=_MARKERS[word], color=colour, label=word, **_STYLE)
        axes.set_yticks(range(len(rows)), labels=[""] * len(rows))
        for place, row in enumerate(rows):
            style: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right"}
            axes.text(-0.03, place - 0.04, row["control"], va="bottom", fontsize=_TEXT, color=_DARK, **style)
            text = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})".replace("-", "\N{MINUS SIGN}")
            axes.text(-0.03, place + 0.06, text, va="top", fontsize=_SMALL, color="#666666", **style)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _finish(axes, f"difference in {metric}", "")
        style = {"transform": axes.get_xaxis_transform(), "ha": "center", "color": "#666666"}
        axes.text(0, 1, f"ROPE ±{rope:g}", va="bottom", fontsize=_SMALL, **style)
        figure.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=_SMALL, handletextpad=0.2)


def draw_ratio_response(points: Sequence[Row], source: str, file: Path, *, metric: str) -> None:
    """Draw the gain over ratio 0 at each ratio of a `ratio_response`, of a source and of duplicated real images."""
    ratios = [f"{one['ratio']:g}" for one in points]
    with new_figure([file], 2.4, width=COLUMN_INCHES) as figure:
        axes = figure.add_subplot()
        axes.axhline(0, color=_GREY, linewidth=0.7)
        for name, gains, shift in ((source, points, -0.05), ("duplicate", [one["duplicate"] for one in points], 0.05)):
            places = [place for place, gain in enumerate(gains) if gain]
            if places:
                values, errors = _errors([gains[place] for place in places], "gain")
                axes.errorbar(
                    [place + shift for place in places],
                    values,
                    yerr=errors,
                    fmt="s-" if name == "duplicate" else "o-",
                    color=colour_of(name),
                    label=name,
                    **_STYLE,
                )
        axes.set_xticks(range(len(ratios)), labels=ratios)
        axes.set_xlim(-0.4, len(ratios) - 0.6)
        _finish(axes, "extra images per real image (r)", f"gain in {metric} over r = 0")
        figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=_TEXT)


def draw_learning_curves(
    curves: Sequence[Curve], rungs: Sequence[int], file: Path, *, score: str, is_higher_better: bool
) -> None:
    """Draw the best score so far of each trial; incomplete trials are pale, and rungs dotted.

    If higher scores are better, the axis covers the top three quarters of the final scores, where trials differ little.
    """
    with new_figure([file], 3.0, width=PAGE_INCHES) as figure:
        axes = figure.add_subplot()
        for epoch in rungs:
            axes.axvline(epoch, color=_GREY, linewidth=0.7, linestyle=(0, (1, 2)))
        for source, scores, is_complete in sorted(curves, key=lambda one: one[2]):  # complete trials on top
            style: dict[str, Any] = {"linewidth": 1.3} if is_complete else {"linewidth": 0.8, "alpha": 0.4}
            marker = "." if len(scores) == 1 else ""
            axes.plot(range(1, len(scores) + 1), scores, color=colour_of(source), marker=marker, markersize=3, **style)
        sources = {source for source, _, _ in curves}
        for source in [one for one in SOURCE_COLOURS if one in sources] + sorted(sources - SOURCE_COLOURS.keys()):
            axes.plot([], [], color=colour_of(source), linewidth=1.3, label=source)
        if is_higher_better and (ends := upper_range([scores[-1] for _, scores, _ in curves])):
            axes.set_ylim(ends)
        axes.locator_params(axis="x", integer=True)
        axes.margins(x=0.015)
        _finish(axes, "epoch", score)
        figure.legend(loc="outside upper left", ncols=6, frameon=False, fontsize=_TEXT)


def _errors(rows: Sequence[Row], name: str) -> tuple[list[float], list[list[float]]]:
    """Return the values of that name, and the lengths of their intervals below and above."""
    values = [row[name] for row in rows]
    ends = [(row[name] - row["low"], row["high"] - row[name]) for row in rows]
    return values, [[below for below, _ in ends], [above for _, above in ends]]


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, fontsize=_TEXT)
    axes.set_ylabel(y_label, fontsize=_TEXT)
    axes.tick_params(labelsize=_TEXT, labelcolor=_DARK)
