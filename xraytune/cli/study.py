"""Commands on a study, `status`, `report` and `export`, and on the cache that studies share."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from xraytune.base.tables import Table
from xraytune.cli import console, options
from xraytune.space.load import STUDY_NAME


def status(
    study: Annotated[
        list[Path] | None,
        Argument(metavar="STUDY...", help="Folder of a study, or of several studies."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the trials of a study, the best one so far and the time left, or list all studies.

    Several studies are shown side by side. Works during a search, too.

    Example: xraytune status studies/gan-ratio; without a study, it lists all
    """
    folders = study or [Path("studies")]
    console.event(f"reading {', '.join(map(str, folders))}")  # before the imports
    from xraytune.cli.results import propose_next
    from xraytune.present.studies import compare_studies, list_studies, studies_frame
    from xraytune.present.trials import status_frame
    from xraytune.study.status import status as read_status

    first = folders[0]
    is_study = not first.is_dir() or (first / STUDY_NAME).exists()
    if len(folders) == 1 and is_study:
        view = read_status(first)
        if as_json:
            console.show_json(view)
        else:
            console.show(*status_frame(view))
            if view.best and not view.is_running:
                propose_next(view)
        return
    summaries = list_studies(*folders)
    if as_json:
        console.show_json({"studies": summaries})
    elif is_study:
        console.show(compare_studies(summaries))
    else:
        console.show(*studies_frame(summaries))
        console.write_command("xraytune status STUDY", "the trials of one: ")


def report(
    study: options.StudyArgument,
    out: Annotated[
        Path | None,
        options.out("FILE", "HTML file to write; default: report.html in the study."),
    ] = None,
    cache: options.Cache = None,
    as_json: options.AsJson = False,
) -> None:
    """Write an HTML report of a study that opens offline: verdict, trials, images, data.

    It also works during a search.

    Example: xraytune report studies/gan-ratio
    """
    from xraytune.present.page import write_report

    file = write_report(study, out=out, cache=cache)
    if as_json:
        console.show_json({"report": file})
    else:
        console.write(str(file))


def export(
    study: options.StudyArgument,
    out: Annotated[Path, options.out("FILE", "YAML file to write.")] = Path("best.yaml"),
    trial: Annotated[int | None, Option(metavar="NUMBER", help="Trial to export instead.")] = None,
    exact: Annotated[
        bool,
        options.flag(
            "--exact", "Write the trial's own settings, so that `train` reproduces it bit for bit."
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write the configuration of a study's best mix to a file for `train`, and say why this one.

    With this file, `train` uses all patients, including those that `data.train_patients` left out
    of the search.

    Example: xraytune export studies/gan-ratio -o best.yaml
    """
    from xraytune.model.export import export as export_mix

    exported = export_mix(study, out=out, trial=trial, exact=exact)
    if as_json:
        console.show_json(exported)
        return
    console.write(f"{out}: {exported.sentence}")
    if exported.synthetic:
        console.write(f"the benefit of its synthetic images is {exported.synthetic}")
    console.write_command(exported.command, "next: ")


def cache_clean(
    max_size: Annotated[
        str, Option(metavar="SIZE", help="Maximum size of the cache, e.g. 50GB or 50GiB.")
    ],
    cache: Annotated[Path, Option("--cache", metavar="DIR", help="Cache folder.")] = Path("cache"),
    dry_run: Annotated[
        bool, options.flag("--dry-run", "Only print what would be removed.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove the least recently used artifacts until the cache is no larger than SIZE.

    Artifacts that running commands use are kept. What is removed is computed again when it is
    needed.

    Example: xraytune cache clean --max-size 50GB --dry-run
    """
    from xraytune.study.clean import clean_cache

    cleaned = clean_cache(cache, max_size=max_size, dry_run=dry_run)
    if as_json:
        console.show_json(cleaned)
        return
    verb = "would free" if cleaned.is_dry_run else "freed"
    head = (
        f"{verb} {sum(cleaned.removed.values()) / 2**20:,.1f} MiB"
        if cleaned.removed
        else "nothing to remove"
    )
    console.write(head, "good")
    if cleaned.note:
        console.write(f"note: {cleaned.note}", "dim")
    if cleaned.removed:
        rows = [
            {"path": str(path), "MiB": f"{size / 2**20:,.1f}"}
            for path, size in cleaned.removed.items()
        ]
        console.show(Table(rows))
