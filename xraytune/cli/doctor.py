"""`xraytune doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.console import Cell, Column, Frame, Table, Tone
from xraytune.cli.options import AsJson, WeightsDir
from xraytune.errors import MachineError

if TYPE_CHECKING:
    from xraytune.export.doctor import Check

_TONES: dict[str, Tone] = {"ok": "good", "warning": "busy", "missing": "bad"}


def doctor(
    space: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A space file, whose trials' weights are looked for.")
    ] = None,
    weights_dir: WeightsDir = None,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where studies and the cache will lie.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Look at this machine: versions, GPUs, disk, Ray, weights; what is missing, and how to get it."""
    from xraytune.export.doctor import doctor

    checks = doctor(space=space, weights_dir=weights_dir, folder=folder)
    is_ready = all(check.status != "missing" for check in checks)
    if as_json:
        console.show_json({"ok": is_ready, "checks": [check.to_json() for check in checks]})
    else:
        console.show(_frame(checks, is_ready=is_ready))
    if not is_ready:
        raise typer.Exit(MachineError.exit_code)


def _frame(checks: tuple[Check, ...], *, is_ready: bool) -> Frame:
    columns = (Column(name="what"), Column(name="state"), Column(name="found, and what to do", flexible=True))
    rows = tuple(
        (check.name, Cell(check.status, _TONES[check.status]), check.found + (f"\n{check.fix}" if check.fix else ""))
        for check in checks
    )
    heading = "ready: xraytune demo" if is_ready else "something is missing"
    return Frame(lines=(Cell(heading, "good" if is_ready else "bad"),), tables=(Table(columns=columns, rows=rows),))
