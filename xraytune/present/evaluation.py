"""The evaluation of a model as lines and tables: of a classifier, or of a segmenter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from xraytune.base.errors import counted, join_names
from xraytune.model.class_evaluation import Evaluation
from xraytune.model.finding_evaluation import FindingEvaluation
from xraytune.present.tables import Cell, Entry, Frame, Row, Table, counts_text
from xraytune.stats.classification import CLASS_METRICS, Metric, reported_metrics
from xraytune.stats.segmentation import MASK_METRICS

if TYPE_CHECKING:
    from xraytune.model.mask_evaluation import MaskEvaluation
    from xraytune.model.overlap import Evaluated
    from xraytune.stats.intervals import Measured

_MOST_CONFUSED = 5
_Parts = Iterator[Cell | Table]


def evaluation_frame(evaluation: Evaluation | FindingEvaluation | MaskEvaluation) -> Frame:
    """Show the metrics, with warnings that matter for their interpretation."""
    classes = ""
    if isinstance(evaluation, FindingEvaluation):
        parts = _finding_parts(evaluation)
    elif isinstance(evaluation, Evaluation):
        classes = f" ({counts_text(evaluation.class_counts)})"
        parts = _classifier_parts(evaluation)
    else:
        parts = _segmenter_parts(evaluation)
    images = f"{evaluation.images} images{classes} of {evaluation.patients} patients"
    heading = Cell(f"{evaluation.model} on {evaluation.data}: {images}", "strong")
    return heading, *_warnings(evaluation), *parts


def _warnings(evaluation: Evaluated) -> Iterator[Cell]:
    for image in evaluation.broken:
        yield Cell(f"left out: {image.file}: {image.reason}", "bad")
    if evaluation.opened_test:
        access = f"access number {evaluation.test_access}"
        if evaluation.test_access == 1:
            access = "the first access by this model or its study"
        text = f"these are the test images of the model's own data: {access} was logged"
        yield Cell(text, "busy")
    if evaluation.known_patients:
        patients = counted(evaluation.known_patients, "patient")
        yield Cell(
            f"{evaluation.images_of_known_patients} of these images belong to {patients} in the "
            f"model's own training or validation set ({evaluation.known_images} are the same "
            "files): the metrics are optimistically biased",
            "bad",
        )


def _classifier_parts(evaluation: Evaluation) -> _Parts:
    names = [*evaluation.class_counts]
    positive = None if evaluation.threshold is None else evaluation.positive
    if calibration := evaluation.calibration:
        images = counted(calibration.images, "image")
        patients = counted(calibration.patients, "patient")
        text = (
            f"probabilities are calibrated on {images} of {patients}, who are not evaluated: "
            f"{evaluation.positive} from {calibration.threshold:.3f}"
        )
        yield Cell(text, "dim")
    yield _main_table(evaluation)

    if evaluation.threshold is None:
        title = "Each class against the others, with 95 % intervals"
        yield _wide_table(evaluation.classes, CLASS_METRICS, {"n": "images"}, title)
    if len(names) <= _MOST_CONFUSED:
        title = "Confusion matrix: true classes in rows, predicted classes in columns"
        yield Table([*_confusion(names, evaluation.confusion)], title)
    if evaluation.patients != evaluation.images:
        yield from _patient_level(evaluation, positive)
    metrics = reported_metrics(len(names), "subgroups")
    about = f", sensitivity and specificity of {positive}" if positive else ""
    for column, subgroups in evaluation.subgroups.items():
        counts = {"images": "images", "patients": "patients"}
        by_value = {subgroup.value: subgroup for subgroup in subgroups}
        yield _wide_table(by_value, metrics, counts, f"By {column}{about} (exploratory)")
        for subgroup in subgroups:
            if subgroup.compared_with is not None:
                other = names[subgroup.compared_with]
                yield Cell(f"{subgroup.value} is compared with all {other} images", "dim")


def _main_table(evaluation: Evaluation) -> Table:
    """Show all metrics; of two classes, also those in validation, and at 0.5 or not calibrated."""
    metrics = reported_metrics(len(evaluation.class_counts))
    if evaluation.threshold is None:
        return _tall_table(evaluation, metrics, value="most probable class")
    validation = {metric.name: metric.value for metric in evaluation.validation}
    value = f"threshold\n{evaluation.threshold:.3f}"
    rows = []
    for metric in metrics:
        name = metric.of(metric.label, evaluation.positive)
        row = _tall_row(evaluation, metric, name, value)
        row["in\nvalidation"] = _number(validation[name], metric) if name in validation else ""
        if evaluation.uncalibrated:
            row["not\ncalibrated"] = _number(evaluation.uncalibrated[metric.name], metric)
        elif evaluation.at_half:
            at_half = _number(evaluation.at_half[metric.name], metric)
            row["threshold\n0.5"] = at_half if metric.at_threshold else ""
        rows.append(row)
    return Table(rows)


def _tall_table(
    measured: Measured,
    metrics: Sequence[Metric],
    *,
    positive: str | None = None,
    average: str = "macro",
    title: str = "",
    value: str = "value",
) -> Table:
    """Show each metric in a row: of the positive class, or an average of all."""
    rows = []
    for metric in metrics:
        name = metric.of(metric.label, positive)
        if metric.of_class and positive is None:
            name += f" ({average})"
        rows.append(_tall_row(measured, metric, name, value))
    return Table(rows, title)


def _tall_row(measured: Measured, metric: Metric, name: str, value: str) -> dict[str, Entry]:
    ends = measured.intervals.get(metric.name, ())
    return {
        "": Cell(name, "strong" if metric.name == "auroc" else "plain"),
        value: _number(measured.metrics[metric.name], metric),
        "95 % interval": " to ".join(_number(end, metric) for end in ends),
    }


def _wide_table(
    by_name: Mapping[str, Measured],
    metrics: Sequence[Metric],
    attributes: Mapping[str, str],
    title: str = "",
) -> Table:
    """Show each class, finding or subgroup in a row, with each metric above its interval."""
    rows: list[Row] = []
    for name, measured in by_name.items():
        row: dict[str, Entry] = {"": Cell(name, "strong")}
        for column, attribute in attributes.items():
            row[column] = round(getattr(measured, attribute), 3)
        for metric in metrics:
            value = _number(measured.metrics[metric.name], metric)
            ends = [_number(end, metric) for end in measured.intervals.get(metric.name, ())]
            row[metric.label] = f"{value}\n{'-'.join(ends)}".rstrip()
        rows.append(row)
    return Table(rows, title)


def _number(value: float | None, metric: Metric) -> str:
    return "undefined" if value is None else f"{value:.{metric.decimals}f}"


def _confusion(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> Iterator[Row]:
    for name, counts in zip(names, confusion, strict=True):
        shares = (f"{count} ({count / sum(counts):.0%})" for count in counts)
        yield {"": Cell(name, "dim"), **dict(zip(names, shares, strict=True))}


def _patient_level(evaluation: Evaluation, positive: str | None) -> _Parts:
    by_patient = evaluation.patient_level
    if not by_patient.metrics:
        missing = join_names([name for name, count in by_patient.class_counts.items() if not count])
        yield Cell(f"no metrics by patient: no patient has only {missing} images", "busy")
        return
    metrics = reported_metrics(len(evaluation.class_counts), "patients")
    title = "By patient: the mean probability of each patient's images"
    yield _tall_table(by_patient, metrics, positive=positive, title=title)
    if by_patient.left_out:
        left_out = join_names(by_patient.left_out, 5)
        yield Cell(f"left out, with images of several classes: {left_out}", "busy")


def _finding_parts(evaluation: FindingEvaluation) -> _Parts:
    yield _tall_table(evaluation, reported_metrics(0), average="mean", value="mean")
    counts = {"present": "images", "absent": "absent", "threshold": "threshold"}
    yield _wide_table(evaluation.findings, CLASS_METRICS, counts)
    if evaluation.left_out:
        left_out = join_names(evaluation.left_out)
        yield Cell(f"too few of each kind for a score: {left_out}", "busy")
    for column, by_value in evaluation.subgroups.items():
        rows: list[Row] = []
        for finding in evaluation.findings:
            row: dict[str, Entry] = {"": finding}
            for value, aurocs in by_value.items():
                row[value] = f"{aurocs[finding]:.3f}" if finding in aurocs else ""
            rows.append(row)
        yield Table(rows, f"AUROC by {column} (exploratory)")


def _segmenter_parts(evaluation: MaskEvaluation) -> _Parts:
    yield _tall_table(evaluation, MASK_METRICS, value="mean")
    if evaluation.empty_predictions:
        text = f"empty predictions: {evaluation.empty_predictions} (Dice 0, HD95 undefined)"
        yield Cell(text, "busy")
    worst: list[Row] = []
    for mask in evaluation.worst:
        values = {
            metric.label: _number(mask.metrics[metric.name], metric) for metric in MASK_METRICS
        }
        worst.append({"": mask.file, **values})
    yield Table(worst, "The images with the lowest Dice")
    counts = {"images": "images", "patients": "patients", "empty": "empty_predictions"}
    for column, subgroups in evaluation.subgroups.items():
        yield _wide_table(subgroups, MASK_METRICS, counts, f"By {column} (exploratory)")
