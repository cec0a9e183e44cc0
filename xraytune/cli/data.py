"""`xraytune data`: inspect a folder of X-rays, or draw phantom images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from xraytune.base.records import to_json
from xraytune.cli import console, options
from xraytune.cli.command import calls
from xraytune.space.load import data_settings
from xraytune.space.settings import DataSettings, SplitSettings

if TYPE_CHECKING:
    from xraytune.data.phantom import PhantomSet


def inspect(
    source: options.DataSource,
    classes: Annotated[
        Literal["binary", "three", "auto"],
        Option(
            help="NORMAL and PNEUMONIA; normal, bacterial and viral; or one class per subfolder."
        ),
    ] = "binary",
    positive: Annotated[
        str | None,
        Option(
            metavar="CLASS",
            help="With two classes, the positive one, which sensitivity refers to; default: "
            "recognised by name.",
        ),
    ] = None,
    group_regex: Annotated[
        str | None,
        Option(
            metavar="REGEX",
            help="Regular expression for file paths; its first group is the patient.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Summarise a folder of X-rays.

    Its classes, patients, duplicates, broken files, and shortcuts to the label.

    A folder with images/ and masks/ is summarised as pairs for segmentation.
    """
    from xraytune.data.index import read_folder
    from xraytune.data.inspect import inspect_index
    from xraytune.data.sides import sizes_of_index
    from xraytune.data.split import part_notes
    from xraytune.present.inspection import inspection_frame

    split = SplitSettings(group_regex=group_regex)
    settings = data_settings(
        source, DataSettings(path=source, classes=classes, positive=positive, split=split)
    )
    with console.progress() as on_progress:
        index = read_folder(settings, on_progress=on_progress)
        sizes = sizes_of_index(index, settings)
        inspection = inspect_index(index, on_progress=on_progress)
    uses = part_notes(index)
    if as_json:
        sides = {size.name: to_json(size) for size in sizes}
        console.show_json(to_json(inspection) | {"parts": uses, "sides": sides})
    else:
        console.show(*inspection_frame(source, inspection, uses, sizes))
        overrides = [] if classes == "binary" else [f"data.classes={classes}"]
        overrides += [f"data.positive={positive}"] if positive else []
        overrides += [f"data.split.group_regex={group_regex}"] if group_regex else []
        has_masks, has_findings = bool(inspection.mask_areas), bool(inspection.findings)
        space = (
            "gan_segmentation_cpu"
            if has_masks
            else "findings_ratio_cpu"
            if has_findings
            else "gan_ratio_cpu"
        )
        console.propose(
            "headroom", "--space", space, given={"data": source, "overrides": overrides}
        )


def _show_phantoms(drawn: PhantomSet) -> None:
    what = ", with a table of findings, data.yaml" if (drawn.path / "data.yaml").exists() else ""
    console.write(
        f"{drawn.path}: {drawn.image_count} phantom X-rays of {drawn.patient_count} patients{what}"
    )


@calls("draw_phantoms", _show_phantoms)
def phantom(
    out: Annotated[Path, Argument(metavar="OUT", help="Folder to create.")],
    patients: Annotated[
        int, Option(min=10, help="Number of patients, with one to four images each.")
    ] = 200,
    seed: Annotated[int, Option(help="Random seed; the same seed writes the same bytes.")] = 0,
    image_size_px: Annotated[
        int, Option("--size", metavar="PX", min=32, max=1024, help="Side length of the images.")
    ] = 256,
    difficulty: Annotated[
        float, Option(min=0, max=1, help="From 0, obvious lesions, to 1, invisible ones.")
    ] = 0.3,
    pairs: Annotated[
        bool,
        Option(
            "--masks",
            metavar="",
            help="Use the layout for segmentation: images/, and masks/ of the lungs; no classes.",
        ),
    ] = False,
    findings: Annotated[
        bool,
        Option(
            "--findings",
            metavar="",
            help="Draw lobar and diffuse opacities and effusions, and a table of them; no classes.",
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Draw phantom chest X-rays."""
