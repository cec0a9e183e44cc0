"""The headroom of a space, as text with a table and as a figure."""

from __future__ import annotations

from pathlib import Path

from xraytune.base.drawing import COLOURS, new_figure
from xraytune.confirm.headroom import Gain, Headroom
from xraytune.present.tables import Cell, Frame, Row, Table, Tone, numbers

_HEIGHT_INCHES = 4.2


def headroom_frame(headroom: Headroom) -> Frame:
    """Show what the gains mean, then a table of them: a row for each number of patients, a column for each ratio."""
    first, *others = headroom.sentences
    return Cell(first, "strong"), *others, _design(headroom), _table(headroom)


def _design(headroom: Headroom) -> Cell:
    draws, scored = ({getattr(gain, name) for gain in headroom.gains} for name in ("draws", "test_patients"))
    ranges = (" to ".join(f"{value:,}" for value in sorted({min(values), max(values)})) for values in (draws, scored))
    text = "{} draws of patients, scored on {} held-out patients; gains, with 95 % intervals, over".format(*ranges)
    return Cell(f"{text} {headroom.baseline}", "dim")


def _table(headroom: Headroom) -> Table:
    ratios = sorted({gain.ratio for gain in headroom.gains})
    rows: list[Row] = []
    for count in headroom.ladder:
        gains = sorted((gain for gain in headroom.gains if gain.patients == count), key=lambda gain: gain.ratio)
        rows.append((f"{count:,}", f"{gains[0].baseline:.3f}", *(_cell(gain, headroom.margin) for gain in gains)))
    columns = numbers("patients", headroom.metric, *(f"ratio {r:g}" for r in ratios))
    return Table(columns, rows)


def _cell(gain: Gain, margin: float) -> Cell:
    tone: Tone = "good" if gain.interval.low >= margin else "dim" if gain.interval.high < margin else "plain"
    half = (gain.interval.high - gain.interval.low) / 2
    return Cell(f"{gain.gain:+.3f} ± {half:.3f}", tone)


def draw_headroom(headroom: Headroom, file: Path) -> None:
    """Draw the gain against the number of patients, with a line for each ratio, and shade gains below the margin.

    Args:
        headroom: What `headroom` returned.
        file: Figure to write, `.svg` or `.png`.
    """
    with new_figure((file,), _HEIGHT_INCHES) as figure:
        axes = figure.add_subplot()
        axes.axhspan(0, headroom.margin, color="#000000", alpha=0.08, linewidth=0, label="below the margin")
        axes.axhline(0, color="#444444", linewidth=0.6)
        ratios = sorted({gain.ratio for gain in headroom.gains})
        for number, ratio in enumerate(ratios):
            gains = [gain for gain in headroom.gains if gain.ratio == ratio]
            shift = 1 + 0.02 * (number - (len(ratios) - 1) / 2)
            errors = [
                [gain.gain - gain.interval.low for gain in gains],
                [gain.interval.high - gain.gain for gain in gains],
            ]
            places, values = [gain.patients * shift for gain in gains], [gain.gain for gain in gains]
            colour = COLOURS[number % len(COLOURS)]
            axes.errorbar(
                places, values, errors, label=f"ratio {ratio:g}", color=colour, marker="o", markersize=4, capsize=2
            )
        axes.set_xscale("log")
        axes.set_xticks(headroom.ladder, [f"{count:,}" for count in headroom.ladder])
        axes.minorticks_off()
        axes.set_xlabel("training patients")
        axes.set_ylabel(f"gain in {headroom.metric} from perfect images")
        axes.legend(frameon=False)
