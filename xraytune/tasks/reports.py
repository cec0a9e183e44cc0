"""What is written about a network of a task: its card, its predictions and its evaluation.

The main metrics of an evaluation use the threshold from validation, because a threshold chosen on
the evaluated images is optimistically biased. Metrics at the threshold 0.5 are reported next to
them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xraytune.base.errors import join_names
from xraytune.base.files import write_text
from xraytune.base.records import frozen
from xraytune.base.tables import Row, counts_text
from xraytune.data.decoding import BrokenImage
from xraytune.data.images import ImageFile, ImageTable
from xraytune.data.prepare import SplitData
from xraytune.space.task_settings import CLASS_TASKS
from xraytune.stats.classification import (
    METRICS,
    Floats,
    ScoredImages,
    predicted_classes,
    reported_metrics,
    scored_findings,
)
from xraytune.stats.intervals import (
    Measured,
    class_breakdown,
    measure,
    patient_means,
    subgroup_metrics,
)
from xraytune.tasks.bundle_record import BundleRecord, CardMetric
from xraytune.tasks.evaluation import Sample, Validated
from xraytune.tasks.prediction import (
    Columns,
    ImageFiles,
    Predicted,
    Predictor,
    predict_images,
    predictions_csv,
)

CARD_RESAMPLES = 1000


@frozen
class Mistakes:
    """The images of val-B that a network gets most wrong, the worst first.

    `indices` are their positions on val-B, `rows` has the file and the facts of each image, and
    `note` also explains their pictures.
    """

    title: str
    note: str
    indices: Sequence[int]
    rows: Sequence[Row]


class ClassReports:
    """Reports on images in classes; the base class of the reports of all tasks."""

    def card_metrics(
        self, prepared: SplitData, threshold: float, validated: Validated
    ) -> tuple[CardMetric, ...]:
        """Return the main metrics at the threshold."""
        scored = ScoredImages(
            validated.labels, validated.results, positive=prepared.positive, threshold=threshold
        )
        measured = measure(scored, validated.patients, resample_count=CARD_RESAMPLES)
        names = () if prepared.findings else prepared.class_names
        positive = names[prepared.positive] if len(names) == 2 else None
        return tuple(
            CardMetric.of(measured, metric.name, metric.of(metric.label, positive))
            for metric in reported_metrics(len(names))
            if metric.on_card
        )

    def write_predictions(
        self, model: Predictor, images: ImageFiles, out: Path | None
    ) -> Predicted:
        """Predict images, and write a CSV file, if any, of their probabilities and predictions."""
        record = model.record
        files, probabilities, broken = predict_images(model, images)
        counts, predicted = self.decide(record, probabilities)
        if out:
            table = predictions_csv({"file": files}, record.class_names, probabilities, predicted)
            write_text(out, table)
        by_output = None
        summary = f"{len(files)} images, predicted {counts_text(counts)}"
        if len(files) == 1:
            by_output = dict(zip(record.class_names, probabilities[0].tolist(), strict=True))
            shown = ", ".join(f"{name} {value:.3f}" for name, value in by_output.items())
            names = [name for name, count in counts.items() if count]
            summary = (
                f"{files[0]}: predicted {', '.join(names) or 'no finding'}; probabilities {shown}"
            )
        is_binary = "threshold" in predicted
        if is_binary:
            summary += f" (threshold for {record.positive}: {record.threshold:.3f})"
        return Predicted(
            path=out,
            images=len(files),
            counts=counts,
            broken=broken,
            probabilities=by_output,
            positive=record.positive if is_binary else None,
            threshold=record.threshold if is_binary else None,
            summary=summary,
        )

    def decide(self, record: BundleRecord, probabilities: Floats) -> tuple[dict[str, int], Columns]:
        """Return the number of images predicted as each output, and the columns of predictions."""
        names = record.class_names
        predicted = predicted_classes(
            probabilities, positive=record.positive_number, threshold=record.threshold
        )
        columns: Columns = {}
        if len(names) == 2:
            columns["threshold"] = [record.threshold] * len(predicted)
        columns["predicted"] = [names[label] for label in predicted]
        counts = np.bincount(predicted, minlength=len(names)).tolist()
        return dict(zip(names, counts, strict=True)), columns

    def predict_labelled(
        self, model: Predictor, labelled: Sequence[ImageFile], image_files: ImageFiles
    ) -> tuple[Sequence[ImageFile], Any, tuple[BrokenImage, ...]]:
        """Return images, their labels with a model's probabilities, and the broken images."""
        record = model.record
        files, probabilities, broken = predict_images(model, image_files)
        by_file = {image.file: image for image in labelled}
        images = ImageTable(by_file[file] for file in files)
        thresholds = [record.thresholds[name] for name in record.class_names if record.thresholds]
        scored = ScoredImages(
            images.targets,
            probabilities,
            positive=record.positive_number,
            threshold=np.array(thresholds) if thresholds else record.threshold,
        )
        return images, scored, broken

    def describe(self, sample: Sample) -> dict[str, Any]:
        """Return the fields of `Evaluation` about classes.

        Raises DataError if a class has no images.
        """
        record = sample.model.record
        names = record.class_names
        positive = record.positive if len(names) == 2 else None
        with_names = partial(name_metrics, class_count=len(names), positive=positive)
        scored = sample.scored
        patients = sample.patients
        total = measure(scored, patients, resample_count=sample.resample_count)
        breakdown = class_breakdown(scored, patients, resample_count=sample.resample_count)
        confusion = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(confusion, (scored.labels, scored.predicted), 1)
        counts = confusion.sum(axis=1).tolist()
        facts: dict[str, Any] = {
            "class_counts": dict(zip(names, counts, strict=True)),
            "confusion": confusion.tolist(),
            "positive": positive,
            "threshold": record.threshold if positive else None,
        }
        notes = []
        if sample.resample_count and not total.intervals:
            notes.append("no intervals: a class has images of a single patient")
        further = {}
        means, owners, left_out = patient_means(scored, patients)
        if left_out:
            text = "by patient without those with images of several classes"
            notes.append(f"{text}: {join_names(left_out, 5)}")
        if positive:
            notes.append(f"threshold for {positive}: {record.threshold:.3f}")
            at_half = replace(scored, threshold=0.5)
            further["at_half"] = measure(at_half, patients, resample_count=0).metrics
            names_of = {metric.of(metric.label, positive): metric.name for metric in METRICS}
            further["in_validation"] = {
                names_of[metric.name]: metric.value for metric in record.metrics
            }
        if len({*means.labels.tolist()}) == len(names):
            by_patient = measure(means, owners, resample_count=sample.resample_count)
            further["by_patient"] = by_patient.metrics
            facts["by_patient_intervals"] = with_names(by_patient.intervals)
        subgroups = sample.empty_groups()
        for column, value, rows in sample.subgroups():
            subgroup = subgroup_metrics(
                scored, patients, value, rows, resample_count=sample.resample_count
            )
            subgroups[column][value] = subgroup
            if subgroup.compared_with is not None:
                other = names[subgroup.compared_with]
                notes.append(f"{value} is compared with all {other} images")
        return {
            "metrics": with_names(total.metrics),
            "intervals": with_names(total.intervals),
            "further": {name: with_names(values) for name, values in further.items()},
            "groups": {"classes": dict(zip(names, breakdown, strict=True))},
            "subgroups": subgroups,
            "facts": facts,
            "notes": notes,
        }

    def write_tables(self, sample: Sample, folder: Path) -> None:
        """Write tables and pictures of an evaluation."""
        record = sample.model.record
        names = record.class_names
        probabilities = sample.scored.probabilities
        columns: Columns = {"file": sample.files, "patient": sample.patients}
        columns |= self.name_targets(sample.images, names)
        _, predicted = self.decide(record, probabilities)
        table = predictions_csv(columns, names, probabilities, predicted)
        write_text(folder / "predictions.csv", table)
        if record.task in CLASS_TASKS:
            from xraytune.tasks.figure import plot_evaluation  # loads scikit-learn

            plot_evaluation(folder, sample)

    def name_targets(self, images: Iterable[ImageFile], outputs: Sequence[str]) -> Columns:
        """Return columns of a table with the true classes or findings of images."""
        return {"label": [outputs[image.label] for image in images]}

    def find_mistakes(self, results: Floats, prepared: SplitData, threshold: float) -> Mistakes:
        """Return the misclassified images, the highest predicted probability first."""
        names = prepared.class_names
        images = prepared.side("val_b")
        labels = images.labels
        predicted = predicted_classes(results, positive=prepared.positive, threshold=threshold)
        chances = results[np.arange(len(predicted)), predicted]
        wrong = np.flatnonzero(predicted != labels)
        indices = wrong[np.argsort(-chances[wrong], kind="stable")].tolist()
        return Mistakes(
            title="Misclassified images",
            note=f"{len(indices):,} of {len(labels):,} images are misclassified. Pictures: those "
            "with the highest predicted probability. Orange: image regions that support the "
            "predicted class (Grad-CAM). The maps are coarse, and show where the network looks, "
            "not why.",
            indices=indices,
            rows=[
                {
                    "file": images[index].file,
                    "true class": names[labels[index]],
                    "predicted class": names[predicted[index]],
                    "probability": round(float(chances[index]), 3),
                }
                for index in indices
            ],
        )


class FindingReports(ClassReports):
    """Reports on images with findings."""

    def name_targets(self, images: Iterable[ImageFile], outputs: Sequence[str]) -> Columns:
        """Return a column for each finding, with the values 1, 0 or ?."""
        states = list(zip(*(image.findings for image in images), strict=True))
        return {f"label_{name}": column for name, column in zip(outputs, states, strict=True)}

    def card_metrics(
        self, prepared: SplitData, threshold: float, validated: Validated
    ) -> tuple[CardMetric, ...]:
        """Return the means over findings, and the AUROC of each."""
        means = super().card_metrics(prepared, threshold, validated)
        scored = ScoredImages(validated.labels, validated.results, positive=0)
        by_finding = _measure_each(
            scored, prepared.outputs, validated.patients, resample_count=CARD_RESAMPLES
        )
        aurocs = [
            CardMetric.of(measured, "auroc", f"AUROC ({name})")
            for name, measured in by_finding.items()
        ]
        return *means, *aurocs

    def decide(self, record: BundleRecord, probabilities: Floats) -> tuple[dict[str, int], Columns]:
        """Return the number of images with each finding, and columns of predictions, 1 or 0."""
        counts = {}
        columns: Columns = {}
        for name, column in zip(record.class_names, probabilities.T, strict=True):
            threshold = record.thresholds[name]
            predicted = column >= threshold
            columns[f"threshold_{name}"] = [threshold] * len(predicted)
            columns[f"predicted_{name}"] = predicted.astype(int).tolist()
            counts[name] = int(predicted.sum())
        return counts, columns

    def describe(self, sample: Sample) -> dict[str, Any]:
        """Return the fields of `Evaluation` about findings.

        Raises DataError if no finding has enough images.
        """
        record = sample.model.record
        names = record.class_names
        scored = sample.scored
        total = measure(scored, sample.patients, resample_count=sample.resample_count)
        by_finding = _measure_each(
            scored, names, sample.patients, resample_count=sample.resample_count
        )
        left_out = [name for name in names if name not in by_finding]
        notes = [f"too few of each kind for a score: {join_names(left_out)}"] if left_out else []
        subgroups = sample.empty_groups()
        patients = np.asarray(sample.patients)
        for column, value, rows in sample.subgroups():
            group = replace(
                scored, labels=scored.labels[rows], probabilities=scored.probabilities[rows]
            )
            measured = _measure_each(
                group, names, patients[rows].tolist(), resample_count=sample.resample_count
            )
            for name, measured_finding in measured.items():
                subgroups[column][f"{name}, {value}"] = measured_finding
        return {
            "metrics": name_metrics(total.metrics, 0, None),
            "intervals": name_metrics(total.intervals, 0, None),
            "groups": {"findings": by_finding},
            "subgroups": subgroups,
            "facts": {"left_out": left_out, "thresholds": record.thresholds},
            "notes": notes,
        }


def name_metrics(
    values: Mapping[str, Any], class_count: int, positive: str | None
) -> dict[str, Any]:
    """Return the metrics that are reported; metrics of a positive class are named after it."""
    return {
        metric.of(metric.name, positive): values[metric.name]
        for metric in reported_metrics(class_count)
        if metric.name in values
    }


def _measure_each(
    scored: ScoredImages, names: Sequence[str], patients: Sequence[str], resample_count: int
) -> dict[str, Measured]:
    """Return the metrics of each of the `scored_findings`, by name."""
    breakdowns = class_breakdown(scored, patients, resample_count=resample_count)
    indices = scored_findings(scored.labels)
    return {names[index]: measured for index, measured in zip(indices, breakdowns, strict=True)}
