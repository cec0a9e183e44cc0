"""The evaluation of a model as lines and tables of metrics."""

from collections.abc import Mapping

from xraytune.base.errors import counted
from xraytune.base.tables import Cell, Entry, Frame, Row, Table, counts_text
from xraytune.data.patients import EQUAL_IDS
from xraytune.stats.intervals import Measured
from xraytune.tasks.evaluation import Evaluation, format_metric, metric_label


def evaluation_frame(evaluation: Evaluation) -> Frame:
    """Return the metrics as lines and tables, with warnings that matter for their meaning."""
    classes = counts_text(evaluation.facts.get("class_counts", {}))
    images = f"{evaluation.images} images{f' ({classes})' if classes else ''}"
    heading = f"{evaluation.model} on {evaluation.data}: {images} of {evaluation.patients} patients"
    parts: list[Cell | Table] = [Cell(heading, "strong")]
    for image in evaluation.broken:
        parts.append(Cell(f"left out: {image.file}: {image.reason}", "bad"))
    if evaluation.test_access:
        access = f"access number {evaluation.test_access}"
        if evaluation.test_access == 1:
            access = "the first access by this model or its study"
        text = f"`confirm` may score some of these images: {access} was logged"
        parts.append(Cell(text, "busy"))
    if evaluation.known_patients:
        patients = counted(evaluation.known_patients, "patient")
        text = (
            f"{evaluation.images_of_known_patients} of these images have the ID, name or content "
            f"of {patients} in the model's own training or validation set "
            f"({evaluation.known_images} are the same files). If these are the same people, the "
            f"metrics are optimistically biased; {EQUAL_IDS}"
        )
        parts.append(Cell(text, "bad"))
    parts += [Cell(note, "busy") for note in evaluation.notes]
    fit = evaluation.calibration
    if fit:
        images = f"{counted(fit.images, 'image')} of {counted(fit.patients, 'patient')}"
        parts.append(Cell(f"calibrated on {images}, who are not evaluated", "busy"))
    rows: list[Row] = []
    for name, value in evaluation.metrics.items():
        row: dict[str, Entry] = {
            "": Cell(metric_label(name), "strong" if name == "auroc" else "plain"),
            "value": format_metric(name, value),
            "95 % interval": " to ".join(_format_ends(name, evaluation)),
        }
        for column, values in evaluation.further.items():
            formatted = format_metric(name, values[name]) if name in values else ""
            row[column.replace("_", "\n")] = formatted
        rows.append(row)
    parts.append(Table(rows))
    if evaluation.facts.get("threshold") is None:  # the other of two classes has the same metrics
        parts += [
            _group_table(group, name.capitalize()) for name, group in evaluation.groups.items()
        ]
    if "confusion" in evaluation.facts:
        names = [*evaluation.facts["class_counts"]]
        rows = [
            {"": name, **dict(zip(names, counts, strict=True))}
            for name, counts in zip(names, evaluation.facts["confusion"], strict=True)
        ]
        parts.append(Table(rows, "True classes in rows, predicted classes in columns"))
    for column, group in evaluation.subgroups.items():
        parts.append(_group_table(group, f"By {column} (exploratory)"))
    return parts


def _group_table(group: Mapping[str, Measured], title: str) -> Table:
    """Return a table with a row for each class, finding, image or subgroup.

    Each cell has a metric above its interval.
    """
    rows: list[Row] = []
    for name, measured in group.items():
        row: dict[str, Entry] = {
            "": Cell(name, "strong"),
            "images": getattr(measured, "images", ""),
        }
        for metric, value in measured.metrics.items():
            ends = "-".join(_format_ends(metric, measured))
            row[metric_label(metric)] = f"{format_metric(metric, value)}\n{ends}".rstrip()
        rows.append(row)
    return Table(rows, title)


def _format_ends(name: str, measured: Measured) -> list[str]:
    return [format_metric(name, end) for end in measured.intervals.get(name, ())]
