"""The inspection of a folder of images as lines and tables."""

from collections import defaultdict
from pathlib import Path

from xraytune.base.errors import counted, join_names
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
    broken = defaultdict(list)
    for image in inspection.broken:
        broken[image.reason].append(image.file)
    for reason, files in broken.items():
        parts.append(Cell(f"broken: {join_names(files)}: {reason}", "bad"))
    for warning in inspection.warnings:
        parts.append(Cell(f"note: {warning}", "busy"))

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
    copies = [" = ".join(files) for files in inspection.duplicates]
    near = inspection.near_duplicates
    sealed = "; test/ stays sealed" if "test" in inspection.images else ""
    classes = ", ".join(inspection.class_names) if len(inspection.class_names) > 1 else ""
    near_text = (
        f"pairs of images of different patients: {near.pairs}; across training and test: "
        f"{near.in_training_and_test}, across classes: {near.in_two_classes}"
    )
    several = inspection.patients_of_several_classes
    facts = {
        "patients": f"{inspection.patient_count:,}"
        + (f", of whom {several:,} have images of several classes" if several else ""),
        "classes": classes,
        "positive class": inspection.positive or "",
        "images per patient": f"{fewest} to {most}, median {median:g}",
        "width": "{} to {} px".format(*inspection.width_px),
        "height": "{} to {} px".format(*inspection.height_px),
        "formats": f"{counts_text(inspection.formats) or 'none can be decoded'}{sealed}",
        "duplicates": join_names(copies, _EXAMPLES) or "none",
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
    if inspection.shortcuts:
        aurocs = [f"{name} {auroc:.2f}" for name, auroc in inspection.shortcuts.items()]
        facts["shortcuts"] = f"AUROC without a look at the lungs: {', '.join(aurocs)}"
    return facts
