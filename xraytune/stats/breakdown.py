"""One model's metrics broken down: by class (one-vs-rest), by patient, and by subgroup.

Intervals come from the resamples of `stats/intervals.py`, so those of equal metrics are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from xraytune.stats.classification import Floats, Labels, classification_metrics, known, weighted_class_metrics
from xraytune.stats.intervals import Interval, defined_intervals, patient_bootstrap, patient_intervals

_OF_SUBGROUP = ("auroc", "sensitivity", "specificity")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """The `ClassificationMetrics` of one class, of which there are `images`, against the others.

    `intervals` are 95 % intervals (low, high) by name, without those of metrics that are undefined on a resample.
    """

    images: int
    auroc: float
    auprc: float
    sensitivity: float
    specificity: float
    ppv: float | None
    npv: float | None
    intervals: dict[str, Interval]


def class_breakdown(
    labels: Labels,
    probabilities: Floats,
    predicted: Labels,
    patients: Sequence[str],
    *,
    replicates: int = 2000,
    seed: int,
) -> tuple[ClassMetrics, ...]:
    """Return the one-vs-rest metrics of every class, in the order of the labels.

    Labels and predicted classes are int64 [N]; every class has an image. Probabilities, [N, C], are finite. The intervals
    are from `replicates` resamples of the patients.
    """
    class_count = probabilities.shape[1]

    def of_weights(weights: Floats) -> dict[str, Floats]:
        columns = [
            weighted_class_metrics(labels == number, probabilities[:, number], predicted == number, weights)
            for number in range(class_count)
        ]
        return {name: np.stack([one[name] for one in columns], axis=1) for name in columns[0]}

    values = of_weights(np.ones((1, len(labels))))
    bounds = patient_intervals(of_weights, labels, patients, replicates=replicates, seed=seed)
    return tuple(
        ClassMetrics(
            images=count,
            **{name: float(values[name][0, label]) for name in ("auroc", "auprc", "sensitivity", "specificity")},
            ppv=known(values["ppv"][0, label]),
            npv=known(values["npv"][0, label]),
            intervals=defined_intervals({name: both[:, label] for name, both in bounds.items()}),
        )
        for label, count in enumerate(np.bincount(labels, minlength=class_count).tolist())
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientMeans:
    """Labels, int64 [P], and mean probabilities, float64 [P, C], of sorted patients; `left_out` have several classes."""

    patients: tuple[str, ...]
    labels: Labels
    probabilities: Floats
    left_out: tuple[str, ...]


def patient_means(labels: Labels, probabilities: Floats, patients: Sequence[str]) -> PatientMeans:
    """Average the probabilities [N, C] of each patient's images; patients without a single class are left out."""
    names, patient_of_image = np.unique(np.asarray(patients), return_inverse=True)
    images = np.bincount(patient_of_image)
    means = np.stack([np.bincount(patient_of_image, column) for column in probabilities.T], axis=1) / images[:, None]
    has_class = np.zeros((len(names), probabilities.shape[1]), dtype=np.bool_)
    has_class[patient_of_image, labels] = True
    has_one = has_class.sum(axis=1) == 1
    return PatientMeans(
        patients=tuple(names[has_one].tolist()),
        labels=has_class.argmax(axis=1)[has_one],
        probabilities=means[has_one],
        left_out=tuple(names[~has_one].tolist()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """The metrics of a subgroup: exploratory, since its size was not planned, and several subgroups are compared.

    Attributes:
        compared_with: Of two classes, the one of which the subgroup has no images, such as `bacterial`, which no normal
            image is. It is scored on all images of this class, which are not counted.
        auroc: None with three or more classes, if one of them has no images.
        sensitivity: Share of the subgroup's positive images that are predicted as positive; None if it has none, and with
            three or more classes.
        specificity: The same for negative images.
        intervals: 95 % intervals (low, high) of these by name; empty with fewer than two patients of a class.
    """

    value: str
    images: int
    patients: int
    compared_with: int | None
    auroc: float | None
    sensitivity: float | None
    specificity: float | None
    intervals: dict[str, Interval]


def subgroup_metrics(
    files: Sequence[str],
    labels: Labels,
    probabilities: Floats,
    patients: Sequence[str],
    values: Mapping[str, str],
    *,
    positive: int,
    threshold: float,
    replicates: int = 2000,
    seed: int,
) -> tuple[Subgroup, ...]:
    """Return the metrics of the images with each value of a column, sorted; files without a value are in no subgroup.

    `values` has the value of each file; other arguments are those of `patient_bootstrap`. Every class has an image.
    """
    class_count, names = probabilities.shape[1], np.asarray(patients)
    value_of_image = np.array([values.get(file, "") for file in files])
    subgroups = []
    for value in np.unique(value_of_image[value_of_image != ""]).tolist():
        own = value_of_image == value
        classes = np.unique(labels[own])
        other = 1 - int(classes[0]) if class_count == 2 and len(classes) == 1 else None
        rows = own if other is None else own | (labels == other)
        given = labels[rows], probabilities[rows]
        patient_counts = [len(np.unique(names[rows & (labels == number)])) for number in range(class_count)]
        found: dict[str, float | None] = {}
        intervals: dict[str, Interval] = {}
        if min(patient_counts) > 0:
            found = asdict(classification_metrics(*given, positive=positive, threshold=threshold))
        if min(patient_counts) > 1:
            intervals = patient_bootstrap(
                *given, names[rows].tolist(), positive=positive, threshold=threshold, replicates=replicates, seed=seed
            )
        # AUROC, and with two classes the recall of those that the subgroup has images of.
        recalls = {positive: "sensitivity", 1 - positive: "specificity"} if class_count == 2 else {}
        reported = ["auroc", *(name for label, name in recalls.items() if label != other)]
        subgroups.append(
            Subgroup(
                value=value,
                images=int(own.sum()),
                patients=len(np.unique(names[own])),
                compared_with=other,
                **{name: found.get(name) if name in reported else None for name in _OF_SUBGROUP},
                intervals={name: intervals[name] for name in reported if name in intervals},
            )
        )
    return tuple(subgroups)
