"""`xraytune report`: write or serve the page about a study, or write it for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from xraytune.cli import console, options
from xraytune.cli.search import shown_path


def report(
    study: options.StudyArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="HTML file to write; default: report.html in the study. For other formats, a folder to create.",
        ),
    ] = None,
    format: Annotated[
        Literal["html", "md", "csv", "png", "svg", "pdf"],
        typer.Option(
            "--format",
            help="html: the page. md: Markdown, methods and a CLAIM and TRIPOD+AI checklist. csv: all tables. "
            "png, svg, pdf: figures at column width.",
        ),
    ] = "html",
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page on this machine instead, and update it during a search.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port for --serve; 0 for a free one.")
    ] = 8888,
    cache: options.Cache = None,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Also send the page to the W&B project of the study (`tracking`).")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a page about a study that opens without a network: verdict, trials, images, cost. Also works during a search."""
    if serve and (out or as_json or format != "html"):
        raise typer.BadParameter("give either --serve, or --out, --format and --json", param_hint="--serve")
    if wandb and (serve or format != "html"):
        raise typer.BadParameter("only the HTML page can be sent: leave out --serve and --format", param_hint="--wandb")
    if serve:
        from xraytune.report.server import serve as serve_report

        serve_report(study, port=port, cache=cache, on_start=lambda url: console.write(f"{url} (Ctrl-C ends)"))
    elif format == "html":
        from xraytune.report.page import write_report

        written = write_report(study, out=out, cache=cache, wandb=wandb)
        console.show_json({"report": f"{written}"}) if as_json else console.write(f"{shown_path(written)}")
    elif out is None:
        raise typer.BadParameter(f"--format {format} needs a folder to create", param_hint="--out")
    else:
        from xraytune.report.paper import write_paper

        files = write_paper(study, format=format, out=out, cache=cache)
        text = "\n".join(f"{shown_path(file)}" for file in files)
        console.show_json({"files": [f"{file}" for file in files]}) if as_json else console.write(text)
