"""`xraytune report`: write or serve the page about a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xraytune.cli import console
from xraytune.cli.options import AsJson, Cache, StudyArgument
from xraytune.cli.search import shown_path


def report(
    study: StudyArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="HTML file to write; default: report.html in the study."),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page on this machine instead, and update it during a search.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port for --serve; 0 for a free one.")
    ] = 8888,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Write a page about a study that opens without a network: verdict, trials, images, cost. Also works during a search."""
    if serve:
        from xraytune.report.server import serve as serve_report

        if out or as_json:
            raise typer.BadParameter("give either --serve, or --out and --json", param_hint="--serve")
        serve_report(study, port=port, cache=cache, on_start=lambda url: console.write(f"{url} (Ctrl-C ends)"))
        return
    from xraytune.report.page import write_report

    written = write_report(study, out=out, cache=cache)
    console.show_json({"report": f"{written}"}) if as_json else console.write(f"{shown_path(written)}")
