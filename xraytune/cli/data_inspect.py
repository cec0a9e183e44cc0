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
    """Say what is in a folder of X-rays: classes, patients, duplicates, broken files, shortcuts."""
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
        ("shortcut", found.shortcut),
    )
    remarks = [Cell(f"note: {warning}", "busy") for warning in found.warnings]
    broken = [Cell(f"broken: {image.file}: {image.reason}", "bad") for image in found.broken]
    heading = Cell(f"{folder}: {total} images", "strong")
    return Frame(lines=(heading, *broken, *remarks), tables=(_counts(found), about))


def _counts(found: Inspection) -> Table:
    columns = (Column(name="part"), *(Column(name=name, align="right") for name in found.class_names))
    rows = [(part, *(f"{counts[name]}" for name in found.class_names)) for part, counts in found.images.items()]
    patients = ("patients in train and val", *(f"{found.patients[name]}" for name in found.class_names))
    return Table(columns=columns, rows=(*rows, patients))
