"""`xraytune evaluate MODEL --data DIR`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.console import Cell, Column, Frame, Table
from xraytune.cli.options import AsJson, AtSensitivity, ModelArgument, Reason, SkipBroken

if TYPE_CHECKING:
    from xraytune.export.evaluate import Evaluation

_FIGURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "calibration error",
}


def evaluate(
    model: ModelArgument,
    data: Annotated[Path, typer.Option(metavar="DIR", help="A folder whose subfolders are the classes.")],
    reason: Reason = "",
    skip_broken: SkipBroken = False,
    at_sensitivity: AtSensitivity = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on a folder of class folders, with 95 % intervals over patients."""
    from xraytune.export.evaluate import evaluate

    with console.progress() as on_progress:
        found = evaluate(
            model,
            data=data,
            skip_broken=skip_broken,
            reason=reason,
            sensitivity=at_sensitivity,
            on_progress=on_progress,
        )
    if as_json:
        console.show_json(found.to_json())
    else:
        show(found)


def show(found: Evaluation) -> None:
    """The figures, and what should be known about them."""
    counts = ", ".join(f"{count} {name}" for name, count in found.class_counts.items())
    images = sum(found.class_counts.values())
    heading = Cell(
        f"{found.model} on {found.data}: {images} images ({counts}) of {found.patient_count} patients", "strong"
    )
    console.show(Frame(lines=(heading, *_remarks(found)), tables=(_figures(found),)))


def _remarks(found: Evaluation) -> list[Cell]:
    remarks = [Cell(f"left out: {image.file}: {image.reason}", "bad") for image in found.broken]
    if found.opened_test:
        times = "the first time" if found.test_access == 1 else f"{found.test_access} times by now"
        remarks.append(Cell(f"the study's sealed test folder was opened, {times}; this is written down", "busy"))
    if found.known_patient_count:
        images, patients = found.known_patient_image_count, found.known_patient_count
        of_patients = f"{images} of these images are of {patients} patient{'s' * (patients > 1)}"
        known = f"{of_patients} in the model's own training or validation"
        remarks.append(Cell(f"{known} ({found.known_image_count} are the same files): the figures flatter it", "bad"))
    remarks += [Cell(warning, "busy") for warning in (found.shift.warnings if found.shift else ())]
    return remarks


def _figures(found: Evaluation) -> Table:
    headline, at_half = found.further | asdict(found.metrics), found.at_half and found.further | asdict(found.at_half)
    name = "most probable class" if found.threshold is None else f"threshold {found.threshold:.3f}"
    columns = [Column(name=""), Column(name=name, align="right"), Column(name="95 % interval")]
    columns += [Column(name="threshold 0.5", align="right")] if at_half else []
    rows: list[tuple[Cell | str, ...]] = []
    for key, label in ({name: name.replace("_", " ") for name in found.further} | _FIGURES).items():
        low, high = found.intervals.get(key, (None, None))
        interval = "" if low is None else f"{low:.3f} to {high:.3f}"
        beside = (f"{at_half[key]:.3f}",) if at_half else ()
        rows.append((Cell(label, "strong" if key == "auroc" else "plain"), f"{headline[key]:.3f}", interval, *beside))
    return Table(columns=tuple(columns), rows=tuple(rows))
