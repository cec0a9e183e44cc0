"""The headroom of a space, as text with a table."""

from xraytune.base.tables import Cell, Entry, Frame, Table, Tone
from xraytune.confirm.headroom import Gain, Headroom


def headroom_frame(headroom: Headroom) -> Frame:
    """Show what the gains mean, then a column for each ratio."""
    first = headroom.gains[0]
    row: dict[str, Entry] = {
        "patients": f"{first.patients:,}",
        headroom.metric: f"{first.baseline:.3f}",
    }
    row |= {f"ratio {gain.ratio:g}": _cell(gain, headroom.margin) for gain in headroom.gains}
    design = (
        f"{first.draws} draws of patients, scored on {first.test_patients:,} held-out patients; "
        f"gains, with 95 % intervals, over {headroom.baseline}"
    )
    return Cell(headroom.sentence, "strong"), Cell(design, "dim"), Table([row])


def _cell(gain: Gain, margin: float) -> Cell:
    interval = gain.interval
    tone: Tone = "plain"
    if interval.low >= margin:
        tone = "good"
    elif interval.high < margin:
        tone = "dim"
    return Cell(f"{interval.difference:+.3f} ± {(interval.high - interval.low) / 2:.3f}", tone)
