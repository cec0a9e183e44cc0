"""`xraytune data`: inspect a folder of X-rays, or draw phantom images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from xraytune.base.records import to_json
from xraytune.cli import console, options
from xraytune.present.tables import Cell, Table, facts, numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xraytune.data.inspect import Inspection, MaskSummary
    from xraytune.data.near_duplicates import NearDuplicates
    from xraytune.data.phantom import PhantomSet
    from xraytune.data.sides import SideSize
    from xraytune.space.settings import DataSettings

_EXAMPLES = 3


def inspect(
    source: options.DataSource,
    classes: options.Classes = "binary",
    positive: options.Positive = None,
    group_regex: options.GroupRegex = None,
    figures: Annotated[
        Path | None,
        Option(
            metavar="OUT",
            help="Folder for figures (PNG, SVG): sample images and class frequencies, or sample pairs with the outline of "
            "their mask. Images of test/ are only counted.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Summarise a folder of X-rays: classes, patients, duplicates, broken files, and shortcuts to the label.

    A folder with images/ and masks/ is summarised as pairs for segmentation.
    """
    from xraytune.data.figures import draw_data_figures, require_no_figures
    from xraytune.data.index import read_folder
    from xraytune.data.inspect import inspect_index
    from xraytune.data.sides import sizes_of_index
    from xraytune.data.split import part_notes

    settings = _settings(source, classes, positive, group_regex)
    if figures:
        require_no_figures(figures, settings.path)
    with options.errors_with_flags(), console.progress() as on_progress:
        index = read_folder(settings, on_progress=on_progress)
        sizes = sizes_of_index(index, settings)
        found = inspect_index(index, on_progress=on_progress)
    uses = part_notes(index, settings.split.val)
    drawn = [str(file) for file in draw_data_figures(index, figures)] if figures else []
    if as_json:
        sides = {size.name: to_json(size) for size in sizes}
        further = {"figures": drawn} if drawn else {}
        console.show_json(to_json(found) | {"parts": uses, "sides": sides} | further)
    else:
        _show_inspection(source, found, uses, sizes)
        for file in drawn:
            console.write(file)


def _settings(
    source: Path, classes: Literal["binary", "three", "auto"], positive: str | None, group_regex: str | None
) -> DataSettings:
    from xraytune.space.load import data_settings
    from xraytune.space.settings import DataSettings, SplitSettings

    split = SplitSettings(group_regex=group_regex)
    return data_settings(source, DataSettings(path=source, classes=classes, positive=positive, split=split))


def _show_inspection(source: Path, found: Inspection, uses: Sequence[str], sizes: Sequence[SideSize]) -> None:
    from xraytune.present.trials import sides_frame

    fewest, median, most = found.images_per_patient
    total = sum(sum(counts.values()) for counts in found.images.values())
    duplicates = sum(len(files) - 1 for files in found.duplicates)
    formats = ", ".join(f"{count} {kind}" for kind, count in found.formats.items())
    per_part = [(part, *(f"{counts[name]}" for name in found.class_names)) for part, counts in found.images.items()]
    patients = ("patients in train and val", *(f"{found.patients[name]}" for name in found.class_names))
    of_classes = Table(["part", *numbers(*found.class_names)], [*per_part, patients])
    has_classes = len(found.class_names) > 1
    sealed = "; test/ stays sealed" if "test" in found.images else ""
    copies = f"{duplicates} {'file is a copy of another' if duplicates == 1 else 'files are copies of others'}"
    console.show(
        Cell(f"{source}: {total} {'images' if has_classes else 'pairs of images and masks'}", "strong"),
        *uses,
        *(Cell(f"broken: {image.file}: {image.reason}", "bad") for image in found.broken),
        *(Cell(f"note: {options.with_flags(warning)}", "busy") for warning in found.warnings),
        *([Cell(f"note: {_examples(found.near_duplicates)}", "busy")] if found.near_duplicates.pairs else []),
        *([of_classes] if has_classes else []),
        *sides_frame(sizes),
        facts(
            ("classes", ", ".join(found.class_names) if has_classes else ""),
            ("positive class", f"{found.positive} ({found.positive_reason})" if found.positive else ""),
            ("images per patient", f"{fewest} to {most}, median {median:g}"),
            ("width", "{} to {} px".format(*found.width_px)),
            ("height", "{} to {} px".format(*found.height_px)),
            ("formats", f"{formats or 'none can be decoded'}{sealed}"),
            ("duplicates", copies if duplicates else "none"),
            ("near duplicates", _near_duplicates(found.near_duplicates)),
            *(_mask_facts(found.masks) if found.masks else []),
            ("shortcut", found.shortcut or ""),
        ),
    )


def _mask_facts(found: MaskSummary) -> list[tuple[str, str]]:
    fewest, most = found.files_per_image
    low, median, high = found.area_share
    parts = [f"{count} in {masks} mask{'s' * (masks > 1)}" for count, masks in found.connected_parts.items()]
    return [
        ("mask files", f"{fewest if fewest == most else f'{fewest} to {most}'} per image"),
        ("mask area", f"{low:.0%} to {high:.0%} of the image, median {median:.0%}"),
        ("smallest mask", found.smallest),
        ("largest mask", found.largest),
        ("connected components", ", ".join(parts)),
    ]


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
        f"images of different patients look like copies of each other: {'; '.join(shown)}{more}. A copy in validation or "
        "test inflates scores. Check them; then remove one image of each pair, or assign both to one patient in patients.csv"
    )


def phantom(
    out: options.NewFolder,
    patients: Annotated[int, Option(help="Number of patients, with one to four images each.")] = 200,
    seed: options.Seed = 0,
    size: Annotated[int, Option(metavar="PX", help="Side length of the images.")] = 256,
    masks: Annotated[
        bool, Option("--masks", help="Use the layout for segmentation: images/, and masks/ of the lungs; no classes.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Draw phantom chest X-rays, with masks of lungs and lesions."""
    from xraytune.data.phantom import draw_phantoms

    with console.progress() as on_progress:
        drawn = draw_phantoms(
            out, patients=patients, seed=seed, image_size_px=size, pairs=masks, on_progress=on_progress
        )
    console.show_result(drawn, show_phantoms, as_json=as_json)


def show_phantoms(drawn: PhantomSet) -> None:
    """Print what was drawn."""
    console.write(
        f"{drawn.path}: {drawn.image_count} phantom X-rays of {drawn.patient_count} patients "
        f"({drawn.train_image_count} in train/, {drawn.test_image_count} in test/; "
        f"{drawn.normal_image_count} normal), with masks"
    )
