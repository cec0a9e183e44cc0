"""How sure a model's figures are: intervals by resampling patients, within their classes.

Takes one model's probabilities and who is on each image. Images of one patient resemble each other, so patients are
drawn, not images; the interval is of this model on other patients, and says nothing about training it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from xraytune.errors import DataError, Problem
from xraytune.metrics.classification import Floats, Labels, Metric, require_scorable, weighted_metrics
from xraytune.seeding import numpy_generator

_REPLICATES_AT_ONCE = 100


def patient_bootstrap(
    labels: Labels,
    probabilities: Floats,
    patients: Sequence[str],
    *,
    positive: int,
    threshold: float,
    replicates: int = 2000,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of all figures of `ClassificationMetrics` but `images` and `ece`.

    The calibration error is biased upwards, and a resample has that bias twice: for a calibrated model of 624 images the
    interval would begin above 0 always. So it has none.

    Patients are drawn with replacement among those who have images of the same classes, so no class is ever empty.

    Args:
        labels: Class numbers, int64 [N].
        probabilities: float64 [N, C].
        patients: The patient of each image, [N].
        positive: The class that sensitivity is about.
        threshold: As in `classification_metrics`.
        replicates: Number of resamples.
        seed: Same seed, same intervals.

    Raises:
        DataError: A class has no image.
        ValueError: A probability is not finite.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile interval); clusters as
    the unit: Davison & Hinkley 1997, section 3.8.
    """
    require_scorable(labels, probabilities, probabilities.shape[1])
    chunks = [
        weighted_metrics(labels, probabilities, weights, positive=positive, threshold=threshold)
        for weights in _resamples(labels, patients, replicates, seed)
    ]
    names_of_figures = [name for name in chunks[0] if name != "ece"]
    return {name: _percentile_interval(np.concatenate([chunk[name] for chunk in chunks])) for name in names_of_figures}


def further_figures(
    metrics: Mapping[str, Metric],
    labels: Labels,
    probabilities: Floats,
    patients: Sequence[str],
    *,
    positive: int,
    replicates: int,
    seed: int,
) -> dict[str, tuple[float, float, float]]:
    """Each metric's value, and the ends of its interval on the resamples of `patient_bootstrap`.

    They know no weights, so images are repeated as often as they were drawn.

    Raises:
        DataError: One has no finite value.
    """
    figures = {}
    for name, metric in metrics.items():
        counts = (row for weights in _resamples(labels, patients, replicates, seed) for row in weights)
        drawn = (
            np.repeat(np.arange(len(labels)), row.astype(np.int64)) for row in chain([np.ones(len(labels))], counts)
        )
        values = np.array([metric(labels[rows], probabilities[rows], positive) for rows in drawn], dtype=np.float64)
        if not np.isfinite(values).all():
            what = f"metric {name} has no value on these {len(labels)} images, or on a resample of them"
            raise DataError(Problem(what, fix="evaluate on more images, or remove its package"))
        figures[name] = (float(values[0]), *_percentile_interval(values[1:]))
    return figures


def _resamples(labels: Labels, patients: Sequence[str], replicates: int, seed: int) -> Iterator[Floats]:
    """How often each image counts in some replicates, [R, N], until there were as many as asked for."""
    generator = numpy_generator(seed, "patient-bootstrap")
    names, patient_of_image = np.unique(np.asarray(patients), return_inverse=True)
    strata = _patients_by_classes(labels, patient_of_image, len(names))
    for start in range(0, replicates, _REPLICATES_AT_ONCE):
        draws = _draw_patients(generator, strata, len(names), min(_REPLICATES_AT_ONCE, replicates - start))
        yield draws[:, patient_of_image]


def _patients_by_classes(
    labels: Labels, patient_of_image: NDArray[np.intp], patient_count: int
) -> list[NDArray[np.intp]]:
    """Groups of patients who have images of exactly the same classes; usually one group for each class."""
    has_class = np.zeros((patient_count, int(labels.max()) + 1), dtype=np.bool_)
    has_class[patient_of_image, labels] = True
    _, stratum = np.unique(has_class, axis=0, return_inverse=True)
    return [np.flatnonzero(stratum == number) for number in range(int(stratum.max()) + 1)]


def _draw_patients(
    generator: np.random.Generator, strata: list[NDArray[np.intp]], patient_count: int, replicates: int
) -> Floats:
    """How often each patient is drawn, [replicates, patient_count]."""
    counts = np.zeros((replicates, patient_count))
    for members in strata:
        share = np.full(len(members), 1 / len(members))
        counts[:, members] = generator.multinomial(len(members), share, size=replicates)
    return counts


def _percentile_interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
