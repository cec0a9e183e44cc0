"""The verdict of `confirm` as a section."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from xraytune.present.tables import Cell, Column, Row, Section, Table, Tone, numbers, sentence
from xraytune.stats.verdict import verdict_text

if TYPE_CHECKING:
    from xraytune.confirm.record import (
        Confirmation,
        ControlVerdict,
        FinalistVerdict,
        FindingDifference,
    )

_TONES: dict[str, Tone] = {"helps": "good", "better": "good", "hurts": "bad", "worse": "bad"}
_DIFFERENCE_COLUMNS = (Column("difference", "right"), "95 % interval")


def verdict_section(record: Confirmation) -> Section:
    """Show the verdict on the first finalist, and the comparisons behind it."""
    first, test = record.finalists[0].arm, record.test
    prefix = "exploratory: " if record.exploratory else ""
    unused = " that the search had not used" if test.kind == "unused" else ""
    size = f"{test.images:,} images of {test.patients:,} patients{unused}, {record.replicates} replicates"
    tables = [_comparisons(finalist, record.metric) for finalist in record.finalists]
    if findings := [row for row in record.findings if row.finalist == first]:
        tables.append(_findings(findings, first))
    notes = [
        f"{first} against its controls: {size}.",
        *(f"Exploratory: {reason}." for reason in record.exploratory),
        *_headroom(record),
        *_top_ups(record),
        *(generator.sentence for generator in record.generators if generator.arm == first),
        *map(sentence, record.notes),
    ]
    return Section(
        lead=sentence(f"{prefix}{record.scope}{verdict_text(record.verdict, record.metric)}"),
        tone=_TONES.get(record.verdict, "strong"),
        notes=notes,
        tables=tables,
    )


def _top_ups(record: Confirmation) -> Iterator[str]:
    controls = (comparison.control for finalist in record.finalists for comparison in finalist.comparisons)
    if any("top-up" in control for control in controls):
        yield "A top-up is a trial that `confirm` added to a control's arm, so that it was tuned as much as the finalist's."


def _headroom(record: Confirmation) -> Iterator[str]:
    first = record.finalists[0]
    if reached := first.headroom:
        gain = f"{reached.gain:+.4f} ({reached.low:+.4f} to {reached.high:+.4f})"
        share = "" if reached.share is None else f"; the synthetic images reached {reached.share:.0%} of that"
        yield f"Headroom: real images of other patients in their place gained {gain} {record.metric}{share}."


def _comparisons(finalist: FinalistVerdict, metric: str) -> Table:
    rows: list[Row] = []
    for comparison in finalist.comparisons:
        words = finalist.words(comparison)
        chance = comparison.p_better_by_rope
        rows.append(
            (
                comparison.control,
                f"{comparison.control_score:.3f}",
                *_signed(comparison),
                "< 0.001" if chance < 0.001 else f"{chance:.3f}",
                Cell(", ".join(words), _TONES.get(words[0], "plain")),
            )
        )
    columns = (
        Column("control", flexible=True),
        Column(metric, "right"),
        *_DIFFERENCE_COLUMNS,
        Column("p (gain >= ROPE)", "right", optional=True),
        "result",
    )
    return Table(columns, rows, f"{finalist.arm}, {metric} {finalist.score:.3f}: {finalist.verdict.replace('_', ' ')}")


def _signed(difference: FindingDifference | ControlVerdict) -> tuple[str, str]:
    return f"{difference.difference:+.4f}", f"{difference.low:+.4f} to {difference.high:+.4f}"


def _findings(differences: Sequence[FindingDifference], finalist: str) -> Table:
    rows = [
        (row.finding, row.control, f"{row.value:.3f}", f"{row.control_value:.3f}", *_signed(row), f"{row.p_value:.3f}")
        for row in differences
    ]
    control = Column("control", flexible=True)
    columns = ("finding", control, *numbers("finalist", "control"), *_DIFFERENCE_COLUMNS, *numbers("p (Holm)"))
    return Table(columns, rows, f"{finalist}: AUROC of each finding, not part of the verdict", details=True)
