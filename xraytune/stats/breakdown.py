"""One model's metrics broken down: by class (one-vs-rest), by patient, and by subgroup.

Intervals come from the resamples of `stats/intervals.py`, so those of equal metrics are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xraytune.stats.classification import (
    Floats,
    ScoredImages,
    reported_metrics,
    weighted_class_metrics,
)
from xraytune.stats.intervals import Measured, bootstrap, measure


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics(Measured):
    """The `CLASS_METRICS` of one class, of which there are `images`, against the others."""

    images: int


def class_breakdown(
    images: ScoredImages, patients: Sequence[str], *, replicates: int = 2000, seed: int
) -> tuple[ClassMetrics, ...]:
    """Return the one-vs-rest metrics of every class, or of the `scored_findings`, in order.

    The intervals are from `replicates` resamples of the patients.
    """
    classes = images.classes(None if images.labels.ndim == 2 else range(images.class_count))

    def statistics(weights: Floats) -> dict[tuple[int, str], Floats]:
        return {
            (place, name): values
            for place, scored in enumerate(classes)
            for name, values in weighted_class_metrics(scored, weights).items()
        }

    metrics, intervals = bootstrap(
        statistics, images.labels, patients, replicates=replicates, seed=seed
    )
    return tuple(
        ClassMetrics(
            images=int(scored.is_class.sum()),
            metrics={name: value for (of, name), value in metrics.items() if of == place},
            intervals={name: ends for (of, name), ends in intervals.items() if of == place},
        )
        for place, scored in enumerate(classes)
    )


def patient_means(
    images: ScoredImages, patients: Sequence[str]
) -> tuple[ScoredImages, tuple[str, ...], tuple[str, ...]]:
    """Average the probabilities of each patient's images, as if they were one.

    Also return the patients, sorted.

    Patients whose images are of several classes are left out, and returned last.
    """
    names, patient_of_image = np.unique(np.asarray(patients), return_inverse=True)
    sums = np.zeros((len(names), images.class_count))
    np.add.at(sums, patient_of_image, images.probabilities)
    means = sums / np.bincount(patient_of_image)[:, None]
    has_class = np.zeros(sums.shape, dtype=np.bool_)
    has_class[patient_of_image, images.labels] = True
    has_one = has_class.sum(axis=1) == 1
    scored = replace(images, labels=has_class.argmax(axis=1)[has_one], probabilities=means[has_one])
    return scored, tuple(names[has_one].tolist()), tuple(names[~has_one].tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup(Measured):
    """The metrics of a subgroup: exploratory, since several are compared, of unplanned sizes.

    With three or more classes, AUROC is None if one of them has no images. The recall of a class is
    None if the subgroup has no images of it. There are no intervals with fewer than two patients of
    a class.

    Attributes:
        compared_with: Of two classes, the one of which the subgroup has no images, such as
            `bacterial`, which no normal image is. It is scored on all images of this class, which
            are not counted.
    """

    value: str
    images: int
    patients: int
    compared_with: int | None


def subgroup_metrics(
    files: Sequence[str],
    images: ScoredImages,
    patients: Sequence[str],
    values: Mapping[str, str],
    *,
    replicates: int = 2000,
    seed: int,
) -> tuple[Subgroup, ...]:
    """Return the metrics of the images with each value of a column, sorted.

    Files without a value are in no subgroup.

    `values` has the value of each file; other arguments are those of `measure`. Every class has an
    image.
    """
    value_of_image = np.array([values.get(file, "") for file in files])
    names = np.asarray(patients)
    reported = [metric.name for metric in reported_metrics(images.class_count, "subgroups")]
    subgroups = []
    for value in np.unique(value_of_image[value_of_image != ""]).tolist():
        has_value = value_of_image == value
        rows = has_value
        other = None
        shown = reported
        classes = np.unique(images.labels[has_value])
        if images.class_count == 2 and len(classes) == 1:
            other = 1 - int(classes[0])
            rows = has_value | (images.labels == other)
            # The recall of the other class is that of images outside the subgroup.
            outside = "sensitivity" if other == images.positive else "specificity"
            shown = [name for name in reported if name != outside]
        scored = images.select(rows)
        owners = names[rows]
        patient_counts = [
            len(np.unique(owners[scored.labels == number])) for number in range(images.class_count)
        ]
        measured = Measured(metrics={}, intervals={})
        if min(patient_counts) > 0:
            measured = measure(scored, owners.tolist(), replicates=replicates, seed=seed)
        intervals = measured.intervals if min(patient_counts) > 1 else {}
        metrics = dict.fromkeys(reported) | {name: measured.metrics.get(name) for name in shown}
        subgroups.append(
            Subgroup(
                value=value,
                images=int(has_value.sum()),
                patients=len(np.unique(names[has_value])),
                compared_with=other,
                metrics=metrics,
                intervals={name: intervals[name] for name in shown if name in intervals},
            )
        )
    return tuple(subgroups)
