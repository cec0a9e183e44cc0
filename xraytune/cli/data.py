"""`xraytune data transform DIR OUT`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from xraytune.cli import console
from xraytune.cli.console import Cell, Column, Frame, Table
from xraytune.cli.options import AsJson, SkipBroken

if TYPE_CHECKING:
    from xraytune.data.inspect import Inspection
    from xraytune.data.near_duplicates import NearDuplicates

_EXAMPLES = 3


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The image folder.")],
    classes: Annotated[
        Literal["binary", "three", "auto"],
        typer.Option(help="NORMAL and PNEUMONIA; normal, bacterial, viral; or one class for each folder."),
    ] = "binary",
    group_regex: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Over the file's path; its first group is the patient.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT", help="Draw samples and class_frequency there, as PNG and SVG; of test/ the counts alone."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is in a folder of X-rays: classes, patients, copies, broken files, shortcuts."""
    from xraytune.config.settings import DataSettings, SplitSettings
    from xraytune.data.index import read_index
    from xraytune.data.inspect import inspect_index
    from xraytune.report.data_figures import draw_data_figures, require_no_figures

    settings = DataSettings(path=folder, classes=classes, split=SplitSettings(group_regex=group_regex))
    if figures:
        require_no_figures(figures, folder)
    with console.progress() as on_progress:
        index = read_index(settings, on_progress=on_progress)
        found = inspect_index(index, on_progress=on_progress)
    drawn = draw_data_figures(index, figures) if figures else ()
    if as_json:
        console.show_json({**found.to_json(), **({"figures": [str(file) for file in drawn]} if drawn else {})})
    else:
        console.show(_frame(folder, found))
        for file in drawn:
            console.say(str(file))


def _frame(folder: Path, found: Inspection) -> Frame:
    fewest, middle, most = found.images_per_patient
    total = sum(sum(counts.values()) for counts in found.images.values())
    duplicates = sum(len(files) - 1 for files in found.duplicates)
    formats = ", ".join(f"{count} {kind}" for kind, count in found.formats.items())
    about = console.facts(
        ("classes", f"{', '.join(found.class_names)} (sensitivity is about {found.positive})"),
        ("images of a patient", f"{fewest} to {most}, median {middle:g}"),
        ("width", "{} to {} px".format(*found.width_px)),
        ("height", "{} to {} px".format(*found.height_px)),
        ("formats", f"{formats or 'none that decodes'}{'; test/ stays sealed' if 'test' in found.images else ''}"),
        ("duplicates", f"{duplicates} files repeat another" if duplicates else "none"),
        ("near duplicates", _near_duplicates(found.near_duplicates)),
        ("shortcut", found.shortcut),
    )
    remarks = [Cell(f"note: {warning}", "busy") for warning in found.warnings]
    broken = [Cell(f"broken: {image.file}: {image.reason}", "bad") for image in found.broken]
    if found.near_duplicates.pairs:
        remarks.append(Cell(f"note: {_examples(found.near_duplicates)}", "busy"))
    heading = Cell(f"{folder}: {total} images", "strong")
    return Frame(lines=(heading, *broken, *remarks), tables=(_counts(found), about))


def _near_duplicates(found: NearDuplicates) -> str:
    if not found.pairs:
        return "none among images of different patients"
    pairs = f"{found.pairs} pairs" if found.pairs > 1 else "one pair"
    return (
        f"{pairs} of images of different patients; across training and test: {found.in_training_and_test}, "
        f"across classes: {found.in_two_classes}"
    )


def _examples(found: NearDuplicates) -> str:
    shown = []
    for pair in found.examples[:_EXAMPLES]:
        what = ["training and test"] * pair.in_training_and_test + ["two classes"] * pair.in_two_classes
        shown.append(" = ".join(pair.files) + (f" ({', '.join(what)})" if what else ""))
    more = f" and {found.pairs - len(shown)} more" if found.pairs > len(shown) else ""
    return (
        f"images that look like copies of each other, under different patients: {'; '.join(shown)}{more}. A copy in "
        "validation or test makes its scores too high: look at them, then remove one of each pair, or give both the same "
        "patient in patients.csv"
    )


def _counts(found: Inspection) -> Table:
    columns = (Column(name="part"), *(Column(name=name, align="right") for name in found.class_names))
    rows = [(part, *(f"{counts[name]}" for name in found.class_names)) for part, counts in found.images.items()]
    patients = ("patients in train and val", *(f"{found.patients[name]}" for name in found.class_names))
    return Table(columns=columns, rows=(*rows, patients))


if TYPE_CHECKING:
    from xraytune.data.phantom import PhantomSet


def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    patients: Annotated[int, typer.Option(help="How many to draw; each has one to four images.")] = 200,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    size: Annotated[int, typer.Option(metavar="PX", help="Side of the images.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Draw phantom chest X-rays, with masks of lungs and lesions."""
    from xraytune.data.phantom import draw_phantoms

    with console.progress() as on_progress:
        drawn = draw_phantoms(out, patients=patients, seed=seed, image_size_px=size, on_progress=on_progress)
    if as_json:
        console.show_json({**asdict(drawn), "path": str(drawn.path)})
    else:
        show(drawn)


def show(drawn: PhantomSet) -> None:
    """Say what was drawn."""
    console.say(
        f"{drawn.path}: {drawn.image_count} phantom X-rays of {drawn.patient_count} patients "
        f"({drawn.train_image_count} in train/, {drawn.test_image_count} in test/; "
        f"{drawn.normal_image_count} normal), masks beside them"
    )


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
    from xraytune.data.transform import Strengths, transform_folder

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
