"""Commands on a study, `status`, `report` and `export`, and on the cache that studies share."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from xraytune.cli import COMMANDS, console, load, options
from xraytune.cli.command import run
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
    first = folders[0]
    is_study = not first.is_dir() or (first / STUDY_NAME).exists()
    if len(folders) == 1 and is_study:
        run("status", {"study": first, "as_json": as_json})
        return
    from xraytune.cli import results  # loads Optuna, which `--help` does not need
    from xraytune.present.studies import list_studies

    summaries = list_studies(*folders)
    if as_json:
        console.show_json({"studies": summaries})
    elif is_study:
        results.print_compared(summaries)
    else:
        results.print_list_studies(summaries)


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
    file = load(COMMANDS["report"])(study, out=out, cache=cache)
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
    run("export", locals())


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
    run("cache_clean", locals())
