"""Bootstrap intervals for the metrics of one model: of all images, by class, and by subgroup.

Patients are resampled instead of images, since images of one patient are similar. An interval
covers the same model on other patients, but not a model that is trained again; verdicts use
`stats/placements.py` instead. `scipy.stats.bootstrap` resamples neither clusters nor within strata.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from xraytune.base.records import frozen
from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import (
    Flags,
    Floats,
    Labels,
    ScoredImages,
    rarest_findings,
    reported_metrics,
    require_scorable,
    weighted_class_metrics,
    weighted_metrics,
)

Bounds: TypeAlias = tuple[float, float]
"""Lower and upper end of a 95 % interval."""

_RESAMPLES_AT_ONCE = 100


@frozen
class Measured:
    """Metrics by name, None if undefined, and 95 % intervals over patients where there are any."""

    metrics: dict[str, float | None]
    intervals: dict[str, Bounds]


@frozen
class ClassMetrics(Measured):
    """The `CLASS_METRICS` of one class against the others; `images` is the number of its images."""

    images: int


@frozen
class Subgroup(Measured):
    """The metrics of a subgroup.

    They are exploratory, since several subgroups are compared, whose sizes were not planned. With
    three or more classes, AUROC is None if a class has no images in the subgroup. Sensitivity or
    specificity is None if the subgroup has no images of the class that it measures.

    Attributes:
        value: Value of the column that defines the subgroup.
        images, patients: Number of images and patients in the subgroup.
        compared_with: If there are two classes and all images of the subgroup are of one, as all
            images of a subgroup `bacterial` show pneumonia: the other class. The subgroup is scored
            together with all images of this class, which are not counted. Else None.
    """

    value: str
    images: int
    patients: int
    compared_with: int | None


def bootstrap(
    statistics: Callable[[Floats], Mapping[str, Floats]],
    labels: Labels,
    patients: Sequence[str],
    *,
    resample_count: int,
) -> Measured:
    """Return statistics of all images, None for NaN, and 95 % percentile intervals over patients.

    `statistics` takes how often each image counts, float64 [R, N], and returns statistics by name,
    float64 [R]. A statistic that is NaN on any resample has no interval. There are no intervals at
    all without resamples, or if a class has a single patient, who would be in each resample.

    From: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile
    interval); resampling clusters: Davison & Hinkley 1997, section 3.8.
    """
    if labels.ndim == 1:
        names = np.asarray(patients)
        if any(len({*names[labels == label]}) == 1 for label in np.unique(labels)):
            resample_count = 0
    resamples = resample_patients(labels, patients, resample_count=resample_count)
    chunks = [statistics(weights) for weights in resamples]

    metrics = {}
    intervals = {}
    for name, value in statistics(np.ones((1, len(labels)))).items():
        metrics[name] = None if np.isnan(value[0]) else value.item()
        if chunks:
            resampled = np.concatenate([chunk[name] for chunk in chunks])
            low, high = np.quantile(resampled, (0.025, 0.975)).tolist()
            if np.isfinite(low + high):
                intervals[name] = (low, high)
    return Measured(metrics=metrics, intervals=intervals)


def resample_patients(
    labels: Labels, patients: Sequence[str], *, resample_count: int, seed: int = 0
) -> Iterator[Floats]:
    """Yield how often each image counts in bootstrap samples of patients, [R, N] with R <= 100.

    Patients are resampled within strata, which have images of the same classes, so that no class is
    ever empty. With findings, the rarest finding of each image takes the place of its class.
    """
    if labels.ndim == 2:
        labels = rarest_findings(labels == 1)
    names, patient_of_image = np.unique(np.asarray(patients), return_inverse=True)
    has_class = np.zeros((len(names), int(labels.max()) + 1), dtype=np.bool_)
    has_class[patient_of_image, labels] = True
    _, stratum = np.unique(has_class, axis=0, return_inverse=True)
    strata = [np.flatnonzero(stratum == index) for index in range(int(stratum.max()) + 1)]

    generator = numpy_generator(seed, "patient-bootstrap")
    for start in range(0, resample_count, _RESAMPLES_AT_ONCE):
        counts = np.zeros((min(_RESAMPLES_AT_ONCE, resample_count - start), len(names)))
        for members in strata:
            share = np.full(len(members), 1 / len(members))
            counts[:, members] = generator.multinomial(len(members), share, size=len(counts))
        yield counts[:, patient_of_image]


def measure(
    images: ScoredImages, patients: Sequence[str], *, resample_count: int = 2000
) -> Measured:
    """Return the `METRICS` of images, with intervals over `patients`, [N].

    Without resamples, there are no intervals. Raises the errors of `auroc`.
    """
    require_scorable(images.labels, images.probabilities)
    statistics = partial(weighted_metrics, images)
    return bootstrap(statistics, images.labels, patients, resample_count=resample_count)


def class_breakdown(
    images: ScoredImages, patients: Sequence[str], *, resample_count: int
) -> tuple[ClassMetrics, ...]:
    """Return the one-vs-rest metrics of every class, or of the `scored_findings`, in order."""
    classes = []
    owners = np.asarray(patients)
    for scored in images.classes(both=True):
        statistics = partial(weighted_class_metrics, scored)
        fewest_owners = min(len({*owners[side]}) for side in (scored.is_class, scored.is_other))
        resamples = resample_count if fewest_owners > 1 else 0
        measured = bootstrap(statistics, images.labels, patients, resample_count=resamples)
        classes.append(ClassMetrics(images=int(scored.is_class.sum()), **asdict(measured)))
    return tuple(classes)


def patient_means(
    images: ScoredImages, patients: Sequence[str]
) -> tuple[ScoredImages, tuple[str, ...], tuple[str, ...]]:
    """Average the probabilities of each patient's images, as if they were one image.

    Patients whose images are of several classes are left out.

    Returns:
        The averaged images, their patients, sorted, and the patients who were left out.
    """
    import pandas as pd  # takes most of a second

    owners = np.asarray(patients)
    means = pd.DataFrame(images.probabilities).groupby(owners).mean()
    labels = pd.Series(images.labels).groupby(owners)
    has_one = labels.nunique() == 1
    scored = replace(
        images,
        labels=labels.first()[has_one].to_numpy(),
        probabilities=means[has_one].to_numpy(),
    )
    return scored, tuple(means.index[has_one]), tuple(means.index[~has_one])


def subgroups(
    columns: Mapping[str, Mapping[str, str]], files: Sequence[str]
) -> Iterator[tuple[str, str, Flags]]:
    """Yield each column and value that define a subgroup, and which of the files are in it, [N].

    `columns` has the value of each file, by column; files without a value are in no subgroup.
    """
    for column, values in columns.items():
        value_of_image = np.array([values.get(file, "") for file in files])
        for value in np.unique(value_of_image[value_of_image != ""]).tolist():
            yield column, value, value_of_image == value


def scored_rows(labels: Labels, has_value: Flags, class_count: int) -> tuple[Flags, int | None]:
    """Return the images that a subgroup is scored on, [N], and the class that it is compared with.

    If there are two classes and all images of the subgroup are of one, as types of pneumonia are,
    these are scored together with all images of the other class. Else, the class is None.
    """
    classes = np.unique(labels[has_value])
    if labels.ndim == 2 or class_count != 2 or len(classes) != 1:
        return has_value, None
    other = 1 - int(classes[0])
    return has_value | (labels == other), other


def subgroup_metrics(
    images: ScoredImages,
    patients: Sequence[str],
    value: str,
    has_value: Flags,
    *,
    resample_count: int,
) -> Subgroup:
    """Return the metrics of the images that have a value of a column.

    Other arguments are as for `measure`. Every class must have an image.
    """
    names = np.asarray(patients)
    rows, other = scored_rows(images.labels, has_value, images.class_count)
    outside = ""
    if other is not None:  # its recall is measured on images outside the subgroup only
        outside = "sensitivity" if other == images.positive else "specificity"
    labels = images.labels[rows]
    measured = Measured(metrics={}, intervals={})
    if len(np.unique(labels)) == images.class_count:
        scored = replace(images, labels=labels, probabilities=images.probabilities[rows])
        owners = names[rows].tolist()
        measured = measure(scored, owners, resample_count=resample_count)
    metrics = {
        metric.name: None if metric.name == outside else measured.metrics.get(metric.name)
        for metric in reported_metrics(images.class_count)
        if metric.of_subgroups
    }
    intervals = measured.intervals.items()
    return Subgroup(
        value=value,
        images=int(has_value.sum()),
        patients=len(np.unique(names[has_value])),
        compared_with=other,
        metrics=metrics,
        intervals={name: ends for name, ends in intervals if metrics.get(name) is not None},
    )
