"""The inspection of a folder of images as lines and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xraytune.base.errors import counted
from xraytune.base.tables import Cell, Frame, Row, Table, counts_text, facts
from xraytune.present.trials import sides_frame

if TYPE_CHECKING:
    from xraytune.data.inspect import Inspection
    from xraytune.data.near_duplicates import NearDuplicates
    from xraytune.data.sides import SideSize

_EXAMPLES = 3


def inspection_frame(
    source: Path, inspection: Inspection, uses: Sequence[str], sizes: Sequence[SideSize]
) -> Frame:
    """Show the images of each class, the sides of the split, and what may bias a study.

    `uses` says what parts are for.
    """
    images = sum(sum(counts.values()) for counts in inspection.images.values())
    has_classes = len(inspection.class_names) > 1
    what = "images" if has_classes or inspection.findings else "pairs of images and masks"
    return (
        Cell(f"{source}: {images} {what}", "strong"),
        *uses,
        *_warnings(inspection),
        *([_classes(inspection)] if has_classes else []),
        *([_findings(inspection)] if inspection.findings else []),
        *sides_frame(sizes),
        facts(*_facts(inspection)),
    )


def _warnings(inspection: Inspection) -> Iterator[Cell]:
    for image in inspection.broken:
        yield Cell(f"broken: {image.file}: {image.reason}", "bad")
    for warning in inspection.warnings:
        yield Cell(f"note: {warning}", "busy")
    if inspection.near_duplicates.pairs:
        yield Cell(f"note: {_examples(inspection.near_duplicates)}", "busy")


def _classes(inspection: Inspection) -> Table:
    rows: list[Row] = [{"part": part, **counts} for part, counts in inspection.images.items()]
    return Table([*rows, {"part": "patients in train and val", **inspection.patients}])


def _findings(inspection: Inspection) -> Table:
    rows: list[Row] = [{"finding": name, **counts} for name, counts in inspection.findings.items()]
    return Table(rows, "Images in train and val by finding")


def _facts(inspection: Inspection) -> Iterator[tuple[str, str]]:
    fewest, median, most = inspection.images_per_patient
    copies = sum(len(files) - 1 for files in inspection.duplicates)
    sealed = "; test/ stays sealed" if "test" in inspection.images else ""
    if len(inspection.class_names) > 1:
        yield "classes", ", ".join(inspection.class_names)
    if inspection.positive:
        yield "positive class", inspection.positive
    yield "images per patient", f"{fewest} to {most}, median {median:g}"
    yield "width", "{} to {} px".format(*inspection.width_px)
    yield "height", "{} to {} px".format(*inspection.height_px)
    yield "formats", f"{counts_text(inspection.formats) or 'none can be decoded'}{sealed}"
    yield "duplicates", f"copies of other files: {copies}" if copies else "none"
    yield "near duplicates", _near_duplicates(inspection.near_duplicates)
    if areas := inspection.mask_areas:
        files = [*areas]
        shares = [*areas.values()]
        middle = shares[len(shares) // 2]
        yield "mask area", f"{shares[0]:.0%} to {shares[-1]:.0%} of the image, median {middle:.0%}"
        yield "smallest mask", files[0]
        yield "largest mask", files[-1]
        parts = [
            f"{parts} in {counted(count, 'mask')}" for parts, count in inspection.mask_parts.items()
        ]
        yield "connected components", ", ".join(parts)
    auroc = inspection.shortcut_auroc
    if auroc is not None:
        meaning = "no relevant shortcut"
        if auroc >= 0.6:
            meaning = "a classifier can reach this without looking at a lung"
        yield "shortcut", f"image size and mean grey alone reach an AUROC of {auroc:.2f}: {meaning}"


def _near_duplicates(near: NearDuplicates) -> str:
    if not near.pairs:
        return "none among images of different patients"
    return (
        f"pairs of images of different patients: {near.pairs}; across training and test: "
        f"{near.in_training_and_test}, across classes: {near.in_two_classes}"
    )


def _examples(near: NearDuplicates) -> str:
    examples = [" = ".join(files) for files in near.examples[:_EXAMPLES]]
    more = f" and {near.pairs - len(examples)} more" if near.pairs > len(examples) else ""
    return (
        f"images of different patients look like copies of each other: {'; '.join(examples)}{more}. "
        "A copy in validation or test inflates scores. Check them; then remove one image of each "
        "pair, or assign both to one patient in patients.csv"
    )
