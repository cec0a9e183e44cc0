"""Commands on a study: `status`, `report`, `export` and `clean`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import BadParameter, Option

from xraytune.cli import console, options
from xraytune.cli.console import Cell, Table
from xraytune.cli.search import shown_path
from xraytune.cli.study_frame import scores_text, status_frame
from xraytune.records import to_json

if TYPE_CHECKING:
    from xraytune.export.best import Exported
    from xraytune.search.cache import Cleaned


def status(
    study: options.StudyArgument,
    sort: Annotated[
        str,
        Option(metavar="COLUMN", help="Sort by number, val-A, val-B, epochs, seconds, arm or a parameter such as lr."),
    ] = "number",
    arm: Annotated[
        str | None, Option(metavar="ARM", help="Show only this arm, e.g. real_only or classical+gan.")
    ] = None,
    as_csv: Annotated[bool, Option("--csv", help="Print the trials as CSV, with all searched parameters.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show the trials of a study, the best one so far and the time left. Also works during a search."""
    from xraytune.search.status import pruning_of, select_trials, status, trial_table

    if as_csv and as_json:
        raise BadParameter("give either --csv or --json", param_hint="--csv")
    view = status(study)
    trials = select_trials(view, sort=sort, arm=arm)
    if as_json:
        best = view.best.number if view.best is not None else None
        console.show_json(to_json(replace(view, trials=trials)) | {"best": best, "pruning": pruning_of(view)})
    elif as_csv:
        table = trial_table(view, trials)
        console.show_csv([*table], zip(*table.values(), strict=True))
    else:
        console.show(*status_frame(view, trials))


def report(
    study: options.StudyArgument,
    out: Annotated[
        Path | None,
        Option("--out", "-o", metavar="FILE", help="HTML file to write; default: report.html in the study."),
    ] = None,
    csv: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Write the tables of the page to this new folder instead, as CSV files."),
    ] = None,
    serve: Annotated[
        bool, Option("--serve", help="Serve the page on this machine instead, and update it during a search.")
    ] = False,
    port: Annotated[int, Option(min=0, max=65535, metavar="PORT", help="Port for --serve; 0 for a free one.")] = 8888,
    cache: options.Cache = None,
    as_json: options.AsJson = False,
) -> None:
    """Write an HTML report of a study that opens offline: verdict, trials, images, cost. Also works during a search."""
    if serve and (out or csv or as_json):
        raise BadParameter("give either --serve, or --out, --csv and --json", param_hint="--serve")
    if csv and out:
        raise BadParameter("give either --csv or --out", param_hint="--csv")
    from xraytune.report import page

    if serve:
        page.serve(study, port=port, cache=cache, on_start=lambda url: console.write(f"{url} (Ctrl-C ends)"))
    elif csv:
        files = page.write_tables(study, out=csv, cache=cache)
        text = "\n".join(f"{shown_path(file)}" for file in files)
        console.show_json({"files": [f"{file}" for file in files]}) if as_json else console.write(text)
    else:
        written = page.write_report(study, out=out, cache=cache)
        console.show_json({"report": f"{written}"}) if as_json else console.write(f"{shown_path(written)}")


def export(
    study: options.StudyArgument,
    out: Annotated[Path, Option("--out", "-o", metavar="FILE", help="YAML file to write.")] = Path("best.yaml"),
    trial: Annotated[int | None, Option(metavar="NUMBER", help="Trial to export; default: the best.")] = None,
    arm: Annotated[
        str | None,
        Option(
            metavar="ARM",
            help="Export the best of this arm: real_only, classical, duplicate, gan or classical+gan; after a confirmation, "
            "its tuned control.",
        ),
    ] = None,
    exact: Annotated[
        bool, Option("--exact", help="Write the trial's own settings, so that `train` reproduces it bit for bit.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write the best configuration of a study to a file for `train`: a confirmed mix, otherwise the best trial on val-B.

    With this file, `train` uses all patients, including those that `data.train_patients` left out of the search.
    """
    from xraytune.export.best import export

    exported = export(study, out=out, trial=trial, arm=arm, exact=exact)
    console.show_result(exported, show_export, as_json=as_json)


def show_export(exported: Exported, *, next_step: bool = True) -> None:
    """Print the exported trial and the next command."""
    if exported.val_score is None:
        console.write(f"{exported.path}: a control that confirm added to {exported.study}, arm {exported.arm}")
    else:
        scores = scores_text(exported.metric, exported.val_score, exported.val_b_score)
        console.write(f"{exported.path}: trial {exported.trial} of {exported.study}, arm {exported.arm}, {scores}")
    if exported.generator_steps is not None:
        console.write(f"its generator after {exported.generator_steps:,} steps, where its KID was lowest")
    else:
        _show_images(exported)
    if next_step:
        console.write_command(exported.command, "next: ")


def _show_images(exported: Exported) -> None:
    """Print the sizes of the sides, their consequences, and what the trial and `train` train on."""
    from xraytune.pipeline.sides import chance_warning

    val_b = next((size for size in exported.sides if size.name == "val-B"), None)
    if val_b and exported.metric == "AUROC" and exported.val_b_score is not None:
        images = f"{val_b.image_count:,} images of {val_b.patient_count:,} patients"
        if interval := val_b.interval(exported.val_b_score):
            ends = "{:.3f} to {:.3f}".format(*interval)
            console.write(f"val-B has {images}, for which this {exported.metric} has a 95 % interval of {ends}")
    if warning := chance_warning(exported.sides):
        console.write(f"note: {warning}", "busy")
    trial = f"{exported.trial_images:,} images of {exported.trial_patients:,} patients"
    if exported.is_exact:
        console.write(f"`train` repeats the trial: {trial}")
    else:
        why = f" (data.train_patients: {exported.train_patients})" if exported.train_patients else ""
        console.write(f"the trial trained on {trial}{why}; {exported.final_training}")
    if exported.synthetic:
        console.write(f"the benefit of its synthetic images is {exported.synthetic}")
    if exported.advice:
        console.write_command(exported.advice, "for a configuration without them: ")


def clean(
    study: options.StudyArgument,
    cache: options.Cache = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove files that can be recreated: checkpoints of ended trials, leftovers, cached artifacts. Results are kept."""
    from xraytune.search.cache import clean

    show_cleaned(clean(study, cache=cache, dry_run=dry_run), as_json=as_json)


def show_cleaned(cleaned: Cleaned, *, as_json: bool) -> None:
    """Print what was removed."""
    if as_json:
        console.show_json(to_json(cleaned) | {"total_bytes": cleaned.total_bytes})
        return
    notes = [Cell(f"note: {note}", "dim") for note in cleaned.notes]
    if not cleaned.freed_bytes:
        console.show("nothing to remove", *notes)
        return
    verb = "would free" if cleaned.is_dry_run else "freed"
    head = f"{verb} {console.mebibytes(cleaned.total_bytes)} MiB; files are recreated when needed"
    rows = [(kind, console.mebibytes(size)) for kind, size in cleaned.freed_bytes.items()]
    console.show(Cell(head, "good"), *notes, Table((verb, *console.numbers("MiB")), rows))
