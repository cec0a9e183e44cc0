"""`xraytune data inspect DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from xraytune.cli import console
from xraytune.cli.console import Cell, Column, Frame, Table
from xraytune.cli.options import AsJson

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
