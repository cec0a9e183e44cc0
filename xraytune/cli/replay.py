"""`xraytune replay STUDY TRIAL`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.console import Cell, Column, Frame, Table
from xraytune.cli.options import AsJson, Cache, MovedData, StudyArgument, WeightsDir

if TYPE_CHECKING:
    from xraytune.export.replay import Replay


def replay(
    study: StudyArgument,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="The number of a trial.")],
    data: MovedData = None,
    weights_dir: WeightsDir = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Run one trial again, outside Ray, and compare every figure with what the study recorded."""
    from xraytune.export.replay import replay

    with console.progress() as on_progress:
        replayed = replay(study, trial, data=data, weights_dir=weights_dir, cache=cache, on_progress=on_progress)
    if as_json:
        console.show_json(replayed.to_json())
    else:
        console.show(_frame(study, replayed))


def _frame(study: Path, replayed: Replay) -> Frame:
    columns = (
        Column(name="epoch", align="right"),
        Column(name="recorded", align="right"),
        Column(name="replayed", align="right"),
        Column(name="to the bit"),
    )
    rows = [
        (
            f"{epoch.epoch}",
            _figure(epoch.recorded_val_auroc),
            _figure(epoch.replayed_val_auroc),
            _same(epoch.is_identical),
        )
        for epoch in replayed.epochs
    ]
    if replayed.recorded_val_b_auroc is not None:
        recorded, again = replayed.recorded_val_b_auroc, replayed.replayed_val_b_auroc
        rows.append(("val-B", _figure(recorded), _figure(again), _same(recorded == again)))
    answer = "the same figures" if replayed.is_identical else "other figures"
    heading = Cell(f"trial {replayed.trial} of {study}: {answer}", "good" if replayed.is_identical else "bad")
    failures = {"failed then": replayed.recorded_failure, "fails now": replayed.replayed_failure}
    reasons = [Cell(f"{when}: {reason}", "bad") for when, reason in failures.items() if reason]
    return Frame(lines=(heading, *reasons), tables=(Table(title="AUROC on val-A", columns=columns, rows=tuple(rows)),))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _same(is_identical: bool) -> Cell:
    return Cell("yes", "good") if is_identical else Cell("no", "bad")
