"""A curve over numbers of patients, as text with a table."""

from collections.abc import Iterator

from xraytune.base.tables import Cell, Entry, Table, Tone
from xraytune.confirm.curve import Curve, CurvePoint


def curve_frame(curve: Curve) -> Iterator[Cell | Table]:
    """Lay out what the gains mean, then a table of arms by numbers of patients."""
    yield Cell(curve.sentence, "strong")
    rows: dict[str, dict[str, Entry]] = {}
    for point in curve.points:
        if point.role == "donor" and point.patients == curve.patients:
            yield Cell(f"Worth of the {point.arm}: {curve.worth_of(point, ' patients')}.", "strong")
        empty = {f"{number:,}": "" for number in curve.numbers}
        row = rows.setdefault(point.arm, {"patients": point.arm, **empty})
        row[f"{point.patients:,}"] = _cell(point, curve)
    design = (
        f"{len(point.scores)} draws of patients, scored on {curve.test_patients:,} others: "
        f"{curve.metric} of {curve.baseline}, then gains over it, with 95 % intervals, and how "
        "many further patients would gain as much"
    )
    yield Cell(design, "dim")
    yield Table([*rows.values()])


def _cell(point: CurvePoint, curve: Curve) -> Cell:
    gain = point.gain
    if point.arm == "none":
        half = (point.score.high - point.score.low) / 2
        return Cell(f"{point.score.value:.3f} ± {half:.3f}")
    tone: Tone = "plain"
    if gain.low >= curve.margin:
        tone = "good"
    elif gain.high < curve.margin:
        tone = "dim"
    worth = curve.worth_of(point).replace("more than", ">").replace("less than", "<")
    return Cell(f"{gain.difference:+.3f} ± {(gain.high - gain.low) / 2:.3f}\n{worth}", tone)
