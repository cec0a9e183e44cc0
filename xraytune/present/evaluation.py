"""The evaluation of a model as lines and tables: of a classifier, or of a segmenter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from xraytune.base.errors import counted, join_names
from xraytune.model.class_evaluation import Evaluation
from xraytune.model.finding_evaluation import FindingEvaluation
from xraytune.present.tables import Cell, Column, Frame, Row, Table, counts_text, numbers
from xraytune.stats.classification import CLASS_METRICS, Metric, reported_metrics
from xraytune.stats.segmentation import MASK_METRICS

if TYPE_CHECKING:
    from xraytune.model.mask_evaluation import MaskEvaluation
    from xraytune.model.overlap import Evaluated
    from xraytune.stats.intervals import Measured
    from xraytune.stats.segmentation import MaskMetrics

_MOST_CONFUSED = 5


def evaluation_frame(evaluation: Evaluation | FindingEvaluation | MaskEvaluation) -> Frame:
    """Show the metrics, with warnings that matter for their interpretation."""
    classes = ""
    if isinstance(evaluation, FindingEvaluation):
        parts: Iterator[Cell | str | Table] = _finding_parts(evaluation)
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
        first = "the first access by this model or its study"
        access = first if evaluation.test_access == 1 else f"access number {evaluation.test_access}"
        yield Cell(f"these are the test images of the model's own data: {access} was logged", "busy")
    if evaluation.known_patients:
        patients = counted(evaluation.known_patients, "patient")
        yield Cell(
            f"{evaluation.images_of_known_patients} of these images belong to {patients} in the model's own training or "
            f"validation set ({evaluation.known_images} are the same files): the metrics are optimistically biased",
            "bad",
        )


def _classifier_parts(evaluation: Evaluation) -> Iterator[Cell | str | Table]:
    if calibration := evaluation.calibration:
        fitted_to = f"{counted(calibration.images, 'image')} of {counted(calibration.patients, 'patient')}"
        threshold = f"{evaluation.positive} from {calibration.threshold:.3f}"
        yield Cell(f"probabilities are calibrated on {fitted_to}, who are not evaluated: {threshold}", "dim")
    yield _metrics(evaluation)
    if evaluation.threshold is None:
        yield _class_table(evaluation)
    if len(evaluation.class_counts) <= _MOST_CONFUSED:
        yield _confusion(evaluation)
    if evaluation.patients != evaluation.images:
        yield from _patient_level(evaluation)
    for column in evaluation.subgroups:
        yield from _subgroups(column, evaluation)


def _metrics(evaluation: Evaluation) -> Table:
    threshold, calibration = evaluation.threshold, evaluation.calibration
    other_title, others = "threshold\n0.5", evaluation.at_half
    if calibration:
        other_title, others = "not\ncalibrated", evaluation.uncalibrated
    validation = {metric.name: metric.value for metric in evaluation.validation}
    rows: list[Row] = []
    for metric in reported_metrics(len(evaluation.class_counts)):
        label = Cell(_label(metric, evaluation), "strong" if metric.name == "auroc" else "plain")
        name = metric.of(metric.label, None if threshold is None else evaluation.positive)
        before = _number(validation[name], metric) if name in validation else ""
        other = ""
        if others and (calibration or metric.at_threshold):
            other = _number(others[metric.name], metric)
        rows.append((label, *_with_interval(evaluation, metric), before, other))
    name = "most probable class" if threshold is None else f"threshold\n{threshold:.3f}"
    columns = ("", *numbers(name), "95 % interval", *numbers("in\nvalidation", other_title))
    shown = len(columns) if others else 4
    return Table(columns[:shown], [row[:shown] for row in rows])


def _label(metric: Metric, evaluation: Evaluation) -> str:
    """Name a metric, and the class that it is about or that it is an average."""
    if evaluation.threshold is None:
        return f"{metric.label} (macro)" if metric.of_class else metric.label
    return metric.of(metric.label, evaluation.positive)


def _number(value: float | None, metric: Metric) -> str:
    return "undefined" if value is None else f"{value:.{metric.decimals}f}"


def _with_interval(measured: Measured, metric: Metric) -> tuple[str, str]:
    ends = measured.intervals.get(metric.name, ())
    return _number(measured.metrics[metric.name], metric), " to ".join(_number(end, metric) for end in ends)


def _class_table(evaluation: Evaluation) -> Table:
    """Show each class, with the intervals in a second line."""
    rows: list[Row] = []
    for name, measured in evaluation.classes.items():
        rows.append((Cell(name, "strong"), *(_number(measured.metrics[m.name], m) for m in CLASS_METRICS)))
        ends = ([f"{end:.2f}".removeprefix("0") for end in measured.intervals.get(m.name, ())] for m in CLASS_METRICS)
        rows.append([Cell(text, "dim") for text in (f"n = {measured.images}", *map("-".join, ends))])
    columns = (Column("", flexible=True), *numbers(*(metric.label for metric in CLASS_METRICS)))
    return Table(columns, rows, "Each class against the others, with 95 % intervals")


def _confusion(evaluation: Evaluation) -> Table:
    names = [*evaluation.class_counts]
    rows: list[Row] = [
        (Cell(name, "dim"), *(f"{count} ({count / sum(counts):.0%})" for count in counts))
        for name, counts in zip(names, evaluation.confusion, strict=True)
    ]
    return Table(("", *numbers(*names)), rows, "Confusion matrix: true classes in rows, predicted classes in columns")


def _patient_level(evaluation: Evaluation) -> Frame:
    by_patient = evaluation.patient_level
    if not by_patient.metrics:
        missing = [name for name, count in by_patient.class_counts.items() if not count]
        return "", Cell(f"no metrics by patient: no patient has only {join_names(missing)} images", "busy")
    metrics = reported_metrics(len(evaluation.class_counts), "patients")
    rows = [(_label(metric, evaluation), *_with_interval(by_patient, metric)) for metric in metrics]
    table = Table(
        ("", *numbers("value"), "95 % interval"), rows, "By patient: the mean probability of each patient's images"
    )
    if not by_patient.left_out:
        return (table,)
    left_out = join_names(by_patient.left_out, 5)
    return table, Cell(f"left out, with images of several classes: {left_out}", "busy")


def _subgroups(column: str, evaluation: Evaluation) -> Iterator[Cell | Table]:
    names = [*evaluation.class_counts]
    auroc, *rates = reported_metrics(len(names), "subgroups")
    rows: list[Row] = []
    for subgroup in evaluation.subgroups[column]:
        values = (subgroup.metrics[rate.name] for rate in rates)
        shares = ["" if value is None else f"{value:.3f}" for value in values]
        rows.append((subgroup.value, subgroup.images, subgroup.patients, *_with_interval(subgroup, auroc), *shares))
    about = f", sensitivity and specificity of {evaluation.positive}" if rates else ""
    labels = numbers(*(rate.label for rate in rates))
    columns = ("", *numbers("images", "patients", auroc.label), "95 % interval", *labels)
    yield Table(columns, rows, f"By {column}{about} (exploratory)")
    for subgroup in evaluation.subgroups[column]:
        if subgroup.compared_with is not None:
            yield Cell(f"{subgroup.value} is compared with all {names[subgroup.compared_with]} images", "dim")


def _finding_parts(evaluation: FindingEvaluation) -> Iterator[Cell | str | Table]:
    rows: list[Row] = [
        (f"{metric.label} (mean)", *_with_interval(evaluation, metric)) for metric in reported_metrics(0)
    ]
    yield Table(("", *numbers("mean"), "95 % interval"), rows)
    rows = []
    auroc, *rates = CLASS_METRICS
    for name, measured in evaluation.findings.items():
        shares = (_number(measured.metrics[rate.name], rate) for rate in rates)
        counts = f"{measured.images}", f"{measured.absent}"
        rows.append(
            (Cell(name, "strong"), *counts, *_with_interval(measured, auroc), *shares, f"{measured.threshold:.3f}")
        )
    labels = numbers(*(rate.label for rate in rates), "threshold")
    yield Table((Column("", flexible=True), *numbers("present", "absent", auroc.label), "95 % interval", *labels), rows)
    if evaluation.left_out:
        yield Cell(f"too few of each kind for a score: {join_names(evaluation.left_out)}", "busy")
    for column, values in evaluation.subgroups.items():
        parts = [
            (name, *(f"{aurocs[name]:.3f}" if name in aurocs else "" for aurocs in values.values()))
            for name in evaluation.findings
        ]
        yield Table(("", *numbers(*values)), parts, f"AUROC by {column} (exploratory)")


def _segmenter_parts(evaluation: MaskEvaluation) -> Iterator[Cell | str | Table]:
    rows = [(metric.label, *_with_interval(evaluation, metric)) for metric in MASK_METRICS]
    yield Table(("", *numbers("mean"), "95 % interval"), rows)
    if evaluation.empty_predictions:
        yield Cell(f"empty predictions: {evaluation.empty_predictions} (Dice 0, HD95 undefined)", "busy")
    worst = [
        (mask.file, *(_number(mask.metrics[metric.name], metric) for metric in MASK_METRICS))
        for mask in evaluation.worst
    ]
    columns = (Column("", flexible=True), *numbers(*(metric.label for metric in MASK_METRICS)))
    yield Table(columns, worst, "The images with the lowest Dice")
    for column, subgroups in evaluation.subgroups.items():
        yield _mask_subgroups(column, subgroups)


def _mask_subgroups(column: str, subgroups: Mapping[str, MaskMetrics]) -> Table:
    dice, *_, hd95 = MASK_METRICS
    rows: list[Row] = []
    for value, subgroup in subgroups.items():
        counts = (subgroup.images, subgroup.patients, subgroup.empty_predictions)
        rows.append((value, *counts, *_with_interval(subgroup, dice), _number(subgroup.metrics[hd95.name], hd95)))
    columns = ("", *numbers("images", "patients", "empty", dice.label), "95 % interval", *numbers(hd95.label))
    return Table(columns, rows, f"By {column} (exploratory)")
