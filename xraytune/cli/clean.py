"""`xraytune clean STUDY`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.console import Cell, Column, Frame, Table
from xraytune.cli.options import AsJson, Cache, StudyArgument

if TYPE_CHECKING:
    from xraytune.search.clean import Cleaned


def clean(
    study: StudyArgument,
    cache: Cache = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Free what can be made again: checkpoints of ended trials, leftovers, shared work of this study; never results."""
    from xraytune.search.clean import clean

    cleaned = clean(study, cache=cache, dry_run=dry_run)
    if as_json:
        console.show_json(cleaned.to_json())
    else:
        console.show(_frame(cleaned))


def _frame(cleaned: Cleaned) -> Frame:
    notes = tuple(Cell(f"note: {note}", "dim") for note in cleaned.notes)
    if not cleaned.freed_bytes:
        return Frame(lines=("there is nothing to free", *notes))
    would = "would free" if cleaned.is_dry_run else "freed"
    columns = (Column(name=would), Column(name="MiB", align="right"))
    rows = tuple((kind, _mebibytes(size)) for kind, size in cleaned.freed_bytes.items())
    lines = (Cell(f"{would} {_mebibytes(cleaned.total_bytes)} MiB; what is needed is made again", "good"), *notes)
    return Frame(lines=lines, tables=(Table(columns=columns, rows=rows),))


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f}"
