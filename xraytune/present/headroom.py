"""The headroom of a space, as text with a table."""

from __future__ import annotations

from xraytune.base.tables import Cell, Entry, Frame, Row, Table, Tone
from xraytune.confirm.headroom import Gain, Headroom


def headroom_frame(headroom: Headroom) -> Frame:
    """Show what the gains mean, then a row for each number of patients, a column for each ratio."""
    first, *others = headroom.sentences
    gains = sorted(headroom.gains, key=lambda gain: gain.ratio)
    rows: list[Row] = []
    for count in headroom.ladder:
        of_count = [gain for gain in gains if gain.patients == count]
        row: dict[str, Entry] = {
            "patients": f"{count:,}",
            headroom.metric: f"{of_count[0].baseline:.3f}",
        }
        row |= {f"ratio {gain.ratio:g}": _cell(gain, headroom.margin) for gain in of_count}
        rows.append(row)
    draws = _range([gain.draws for gain in gains])
    scored = _range([gain.test_patients for gain in gains])
    design = (
        f"{draws} draws of patients, scored on {scored} held-out patients; gains, with 95 % "
        f"intervals, over {headroom.baseline}"
    )
    return Cell(first, "strong"), *others, Cell(design, "dim"), Table(rows)


def _range(values: list[int]) -> str:
    return " to ".join(f"{value:,}" for value in sorted({min(values), max(values)}))


def _cell(gain: Gain, margin: float) -> Cell:
    interval = gain.interval
    tone: Tone = "plain"
    if interval.low >= margin:
        tone = "good"
    elif interval.high < margin:
        tone = "dim"
    return Cell(f"{gain.gain:+.3f} ± {(interval.high - interval.low) / 2:.3f}", tone)
