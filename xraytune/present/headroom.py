"""The headroom of a space, as text with a table."""

from __future__ import annotations

from xraytune.confirm.headroom import Gain, Headroom
from xraytune.present.tables import Cell, Frame, Row, Table, Tone, numbers


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
