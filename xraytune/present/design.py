"""The output of `plan`, the design of a study and what the machine lacks, as lines and tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xraytune.base.errors import counted, join_names
from xraytune.base.tables import Cell, Row, Table, Tone
from xraytune.confirm.outlook import Outlook
from xraytune.present.trials import sides_frame
from xraytune.stats.precision import ASSUMED

if TYPE_CHECKING:  # it imports torch, which may be missing
    from xraytune.confirm.design import Design

_TONES: dict[str, Tone] = {"ok": "good", "warning": "busy", "missing": "bad"}
_SCORED = {
    "unused": "unused patients are scored, and each replicate trains on its own draw of others",
    "outside": "each replicate trains on a draw of unused patients, and is scored on the others",
    "draws": "the test folder is scored, and each replicate trains on its own draw of patients",
    "folder": "the test folder is scored, and all replicates train on the search's patients",
}


def outlook_frame(outlook: Outlook) -> Iterator[Cell | str | Table]:
    """Lay out a design and what the machine lacks for it; without a design, lay out all checks."""
    checks = outlook.checks
    title = ""
    if outlook.design:
        yield from _design(outlook.design)
        checks = tuple(check for check in checks if check.status != "ok")
        title = "What this machine lacks"
    elif outlook.is_ready:
        yield Cell("ready", "good")
    else:
        yield Cell("something is missing", "bad")
    rows: list[Row] = [
        {
            "check": check.name,
            "status": Cell(check.status, _TONES[check.status]),
            "result and fix": f"{check.found}\n{check.fix}".strip(),
        }
        for check in checks
    ]
    if rows:
        yield Table(rows, title)


def _design(design: Design) -> Iterator[Cell | str | Table]:
    """Lay out what a study does, what it can tell, how long it takes, and larger confirmations."""
    yield Cell(f"{design.name}: {design.outlook}", "bad" if design.problem else "strong")
    if design.problem and design.problem.fix:
        yield f"fix: {design.problem.fix}"
    yield Cell(design.time, "strong")
    gans = f" with {counted(design.generators, 'GAN')}" if design.generators else ""
    arms = join_names(design.arms, len(design.arms))
    yield f"search: {counted(design.trials, 'trial')}{gans}, of the arms {arms}"
    top_ups = f"{design.top_ups:,} or more top-up trials, then " if design.top_ups else ""
    networks = f"{counted(design.replicates, 'replicate')} of {'; '.join(design.trainings)}"
    yield f"confirmation: {top_ups}{networks}"
    if design.test:
        yield f"test: {_SCORED[design.test]}"
    if design.precision:
        assumed = f"an AUROC of {design.auroc:.3g} (--auroc)"
        assumed += f", an SD over replicates of {design.sd:g} (--sd)"
        yield Cell(f"assumed: {assumed}, {ASSUMED}", "dim")
    yield from sides_frame([*design.sides, *([design.scored] if design.scored else [])])
    if design.precision:
        yield Table([*_alternatives(design)], "Larger confirmations")


def _alternatives(design: Design) -> Iterator[Row]:
    for alternative in design.alternatives:
        precision = alternative.precision
        missing = alternative.missing_patients
        yield {
            "replicates": precision.replicates,
            "scored\npatients": precision.patients,
            "half-width": f"{precision.half_width:.4f}",
            "gain found\nover one control": f"{precision.gain:.4f}",
            "over all": f"{precision.gain_over_all:.4f}",
            "patients\nto add": missing,
        }
