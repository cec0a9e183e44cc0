"""Commands on a study, `status`, `report` and `export`, and on the cache that studies share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from xraytune.base.tables import Cell, Table, shown_path
from xraytune.cli import console, options
from xraytune.cli.command import calls

if TYPE_CHECKING:
    from xraytune.model.best import Exported
    from xraytune.study.clean import Cleaned


def status(
    study: Annotated[
        Path, Argument(metavar="STUDY", help="Folder of a study, or of several studies.")
    ] = Path("studies"),
    as_json: options.AsJson = False,
) -> None:
    """Show the trials of a study, the best one so far and the time left, or list all studies.

    Works during a search, too.
    """
    from xraytune.present.studies import list_studies, studies_frame
    from xraytune.present.trials import status_frame
    from xraytune.study.folder import StudyFolder
    from xraytune.study.status import status

    if study.is_dir() and not StudyFolder(study).space_path.exists():
        studies = list_studies(study)
        if as_json:
            console.show_json({"studies": studies})
        else:
            console.show(*studies_frame(studies))
            console.write_command("xraytune status STUDY", "the trials of one: ")
    else:
        console.show_result(
            status(study), lambda view: console.show(*status_frame(view)), as_json=as_json
        )


def report(
    study: options.StudyArgument,
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            metavar="FILE",
            help="HTML file to write; default: report.html in the study.",
        ),
    ] = None,
    cache: options.Cache = None,
    as_json: options.AsJson = False,
) -> None:
    """Write an HTML report of a study that opens offline: verdict, trials, images, data.

    Also works during a search.
    """
    from xraytune.present.page import write_report

    file = write_report(study, out=out, cache=cache)
    console.show_result(
        {"report": file}, lambda _: console.write(str(shown_path(file))), as_json=as_json
    )


def _show_export(exported: Exported) -> None:
    """Print the exported trial and the next command."""
    console.write(f"{exported.path}: {exported.sentence}")
    if exported.synthetic:
        console.write(f"the benefit of its synthetic images is {exported.synthetic}")
    console.write_command(exported.command, "next: ")


@calls("export_best", _show_export)
def export(
    study: options.StudyArgument,
    out: Annotated[Path, Option("--out", "-o", metavar="FILE", help="YAML file to write.")] = Path(
        "best.yaml"
    ),
    trial: Annotated[int | None, Option(metavar="NUMBER", help="Trial to export instead.")] = None,
    exact: Annotated[
        bool,
        Option(
            "--exact",
            metavar="",
            help="Write the trial's own settings, so that `train` reproduces it bit for bit.",
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write the configuration of a study's best mix to a file for `train`, and say why this one.

    With this file, `train` uses all patients, including those that `data.train_patients` left out
    of the search.
    """


def _show_cleaned(cleaned: Cleaned) -> None:
    verb = "would free" if cleaned.is_dry_run else "freed"
    head = (
        f"{verb} {cleaned.total_bytes / 2**20:,.1f} MiB" if cleaned.removed else "nothing to remove"
    )
    rows = [
        {"path": str(path), "MiB": f"{size / 2**20:,.1f}"} for path, size in cleaned.removed.items()
    ]
    console.show(
        Cell(head, "good"),
        *([Cell(f"note: {cleaned.note}", "dim")] if cleaned.note else []),
        *([Table(rows)] if rows else []),
    )


@calls("clean_cache", _show_cleaned)
def clean_cache(
    max_size: Annotated[
        str, Option(metavar="SIZE", help="Maximum size of the cache, e.g. 50GB or 50GiB.")
    ],
    cache: Annotated[Path, Option("--cache", metavar="DIR", help="Cache folder.")] = Path("cache"),
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove the least recently used artifacts until the cache is no larger than SIZE.

    Artifacts that running commands use are kept. What is removed is computed again when it is
    needed.
    """
