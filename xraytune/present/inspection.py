"""The inspection of a folder of images as lines and tables."""

from pathlib import Path

from xraytune.base.errors import counted
from xraytune.base.tables import Cell, Frame, Row, Table, counts_text
from xraytune.data.inspect import Inspection
from xraytune.present.trials import sides_frame

_EXAMPLES = 3


def inspection_frame(data_path: Path, inspection: Inspection) -> Frame:
    """Show the images of each class, the sides of the split, and what may bias a study."""
    images = sum(sum(counts.values()) for counts in inspection.images.values())
    what = "pairs of images and masks" if inspection.mask_areas else "images"
    parts: list[Cell | str | Table] = [
        Cell(f"{data_path}: {images} {what}", "strong"),
        *inspection.parts,
    ]
    for image in inspection.broken:
        parts.append(Cell(f"broken: {image.file}: {image.reason}", "bad"))
    for warning in inspection.warnings:
        parts.append(Cell(f"note: {warning}", "busy"))
    near = inspection.near_duplicates
    if near.pairs:
        examples = "; ".join(" = ".join(files) for files in near.examples[:_EXAMPLES])
        text = (
            f"note: images of different patients look like copies of each other, such as "
            f"{examples}. A copy in validation or test inflates scores. Check them; then remove "
            "one image of each pair, or assign both to one patient in patients.csv"
        )
        parts.append(Cell(text, "busy"))

    if len(inspection.class_names) > 1:
        rows: list[Row] = [{"part": part, **counts} for part, counts in inspection.images.items()]
        rows.append({"part": "patients in train and val", **inspection.patients})
        parts.append(Table(rows))
    if inspection.findings:
        rows = [{"finding": name, **counts} for name, counts in inspection.findings.items()]
        parts.append(Table(rows, "Images in train and val by finding"))
    facts: list[Row] = [
        {"": Cell(name, "dim"), " ": value} for name, value in _facts(inspection).items() if value
    ]
    return [*parts, *sides_frame([*inspection.sides.values()]), Table(facts)]


def _facts(inspection: Inspection) -> dict[str, str]:
    fewest, median, most = inspection.images_per_patient
    copies = sum(len(files) - 1 for files in inspection.duplicates)
    near = inspection.near_duplicates
    sealed = "; test/ stays sealed" if "test" in inspection.images else ""
    classes = ", ".join(inspection.class_names) if len(inspection.class_names) > 1 else ""
    near_text = (
        f"pairs of images of different patients: {near.pairs}; across training and test: "
        f"{near.in_training_and_test}, across classes: {near.in_two_classes}"
    )
    facts = {
        "classes": classes,
        "positive class": inspection.positive or "",
        "images per patient": f"{fewest} to {most}, median {median:g}",
        "width": "{} to {} px".format(*inspection.width_px),
        "height": "{} to {} px".format(*inspection.height_px),
        "formats": f"{counts_text(inspection.formats) or 'none can be decoded'}{sealed}",
        "duplicates": f"copies of other files: {copies}" if copies else "none",
        "near duplicates": near_text if near.pairs else "none among images of different patients",
    }
    if areas := inspection.mask_areas:
        files = [*areas]
        shares = [*areas.values()]
        middle = shares[len(shares) // 2]
        parts = [f"{parts} in {counted(n, 'mask')}" for parts, n in inspection.mask_parts.items()]
        facts |= {
            "mask area": f"{shares[0]:.0%} to {shares[-1]:.0%} of the image, median {middle:.0%}",
            "smallest mask": files[0],
            "largest mask": files[-1],
            "connected components": ", ".join(parts),
        }
    auroc = inspection.shortcut_auroc
    if auroc is not None:
        meaning = "no relevant shortcut"
        if auroc >= 0.6:
            meaning = "a classifier can reach this without looking at a lung"
        facts["shortcut"] = (
            f"image size and mean grey alone reach an AUROC of {auroc:.2f}: {meaning}"
        )
    return facts
