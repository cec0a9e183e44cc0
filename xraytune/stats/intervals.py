"""Bootstrap intervals for the metrics of one model, as `evaluate` shows them.

Patients are resampled instead of images, since images of one patient are similar. An interval covers the same model on
other patients, not another training of it; verdicts use `stats/placements.py` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import (
    Floats,
    Labels,
    ScoredImages,
    classification_metrics,
    require_scorable,
    weighted_metrics,
)

Bounds: TypeAlias = tuple[float, float]
"""Low and high end of a 95 % interval."""

_REPLICATES_AT_ONCE = 100
_PERCENTILES = (0.025, 0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Metrics by name, None if undefined, with 95 % intervals over patients, without those of undefined metrics."""

    metrics: dict[str, float | None]
    intervals: dict[str, Bounds]

    def value_of(self, name: str) -> float:
        """Return a metric that is defined."""
        value = self.metrics[name]
        assert value is not None, f"{name} is undefined"
        return value


def measure(images: ScoredImages, patients: Sequence[str], *, replicates: int, seed: int) -> Measured:
    """Return all metrics with the intervals of `patient_bootstrap`."""
    intervals = patient_bootstrap(images, patients, replicates=replicates, seed=seed)
    return Measured(metrics=classification_metrics(images), intervals=intervals)


def patient_bootstrap(
    images: ScoredImages, patients: Sequence[str], *, replicates: int = 2000, seed: int
) -> dict[str, Bounds]:
    """Return 95 % percentile intervals of the `METRICS`.

    Patients (the patient of each image, [N]) are drawn with replacement among those with images of the same classes, so no
    class is ever empty. Errors are those of `classification_metrics`.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile interval); resampling
    clusters: Davison & Hinkley 1997, section 3.8.
    """
    require_scorable(images.labels, images.probabilities, images.class_count)
    statistics = partial(weighted_metrics, images)
    return defined_intervals(patient_intervals(statistics, images.labels, patients, replicates=replicates, seed=seed))


def defined_intervals(bounds: Mapping[str, Floats]) -> dict[str, Bounds]:
    """Return intervals, float64 [2] by name, as pairs of numbers, without those of metrics that are undefined."""
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items() if np.isfinite(low + high)}


def patient_intervals(
    statistics: Callable[[Floats], Mapping[str, Floats]],
    labels: Labels,
    patients: Sequence[str],
    *,
    replicates: int,
    seed: int,
) -> dict[str, Floats]:
    """Return 95 % percentile intervals of any statistics, on the resamples of `patient_bootstrap`.

    `statistics` takes how often each image counts, float64 [R, N], and returns statistics by name, float64 [R, ...]; the
    result has their low and high ends, float64 [2, ...], NaN for what is NaN on any resample. Labels are class numbers,
    int64 [N]; patients are those of the images.
    """
    chunks = [statistics(weights) for weights in patient_resamples(labels, patients, replicates, seed)]
    return {
        name: np.quantile(np.concatenate([chunk[name] for chunk in chunks]), _PERCENTILES, axis=0) for name in chunks[0]
    }


def patient_resamples(labels: Labels, patients: Sequence[str], replicates: int, seed: int) -> Iterator[Floats]:
    """Yield how often each image is drawn in the next replicates, [R, N].

    Patients are drawn among those with images of the same classes, so no class is ever empty; or with the same rarest
    finding of an image.
    """
    if labels.ndim == 2:
        counts = np.where(labels == 1, (labels == 1).sum(axis=0), np.inf)
        labels = np.where((labels == 1).any(axis=1), counts.argmin(axis=1), labels.shape[1])
    generator = numpy_generator(seed, "patient-bootstrap")
    names, patient_of_image = np.unique(np.asarray(patients), return_inverse=True)
    has_class = np.zeros((len(names), int(labels.max()) + 1), dtype=np.bool_)
    has_class[patient_of_image, labels] = True
    _, stratum = np.unique(has_class, axis=0, return_inverse=True)
    strata = [np.flatnonzero(stratum == number) for number in range(int(stratum.max()) + 1)]
    for start in range(0, replicates, _REPLICATES_AT_ONCE):
        counts = np.zeros((min(_REPLICATES_AT_ONCE, replicates - start), len(names)))
        for members in strata:
            share = np.full(len(members), 1 / len(members))
            counts[:, members] = generator.multinomial(len(members), share, size=len(counts))
        yield counts[:, patient_of_image]
