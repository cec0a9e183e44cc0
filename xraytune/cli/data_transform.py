"""`xraytune data transform DIR OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from xraytune.cli import console
from xraytune.cli.options import AsJson, SkipBroken

if TYPE_CHECKING:
    from xraytune.data.transform import TransformSummary


def transform(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The image folder; its test/ is not touched.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    copies: Annotated[int, typer.Option("--copies", metavar="N", help="Of each image.")] = 2,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror half of the copies, left for right.")] = True,
    rotate: Annotated[float, typer.Option(metavar="DEGREES", help="Largest turn, either way.")] = 10.0,
    shift: Annotated[float, typer.Option(metavar="SHARE", help="Largest shift, of width and of height.")] = 0.05,
    zoom: Annotated[float, typer.Option(metavar="SHARE", help="Largest change of scale: 0.1 is 0.9 to 1.1.")] = 0.1,
    shear: Annotated[float, typer.Option(metavar="DEGREES", help="Largest shear, along both axes.")] = 5.0,
    contrast: Annotated[float, typer.Option(metavar="SHARE", help="Largest change: 0.2 is 0.8 to 1.2.")] = 0.2,
    elastic: Annotated[
        float, typer.Option(metavar="PERCENT", help="Largest bend: mean displacement, of the shorter side.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    classes: Annotated[
        Literal["binary", "three", "auto"],
        typer.Option(help="NORMAL and PNEUMONIA; normal, bacterial, viral; or one class for each folder."),
    ] = "binary",
    group_regex: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Over the file's path; its first group is the patient.")
    ] = None,
    skip_broken: SkipBroken = False,
    as_json: AsJson = False,
) -> None:
    """Write transformed copies of X-rays, usable as `source: folder`, with their patients and their provenance."""
    from xraytune.config.settings import DataSettings, SplitSettings
    from xraytune.data.transform import transform_folder
    from xraytune.data.transformation import Strengths

    settings = DataSettings(path=folder, classes=classes, split=SplitSettings(group_regex=group_regex))
    strengths = Strengths(
        flip=flip, rotate=rotate, shift=shift, zoom=zoom, shear=shear, contrast=contrast, elastic=elastic
    )
    with console.progress() as on_progress:
        made = transform_folder(
            settings, out, strengths, copies=copies, seed=seed, skip_broken=skip_broken, on_progress=on_progress
        )
    for warning in made.warnings:
        console.tell(f"note: {warning}", "dim")
    for image in made.broken:
        console.tell(f"left out: {image.file}: {image.reason}", "dim")
    if made.sealed_count:
        console.tell(f"test/ stays sealed: its {made.sealed_count} images were not transformed", "dim")
    if as_json:
        console.show_json(made.to_json())
    else:
        _show(made)


def _show(made: TransformSummary) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in made.counts.items())
    console.say(
        f"{made.path}: {counts}, copies of {made.source_count} images of {made.patient_count} patients, "
        "with patients.csv and provenance.json"
    )
