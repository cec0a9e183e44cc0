"""Bootstrap intervals for the metrics of one model, as `evaluate` shows them.

Patients are resampled instead of images, since images of one patient are similar. An interval
covers the same model on other patients, not another training of it; verdicts use
`stats/placements.py` instead. `scipy.stats.bootstrap` resamples neither clusters nor within strata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np

from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import (
    Floats,
    Labels,
    ScoredImages,
    none_if_nan,
    rarest_findings,
    require_scorable,
    weighted_metrics,
)

Bounds: TypeAlias = tuple[float, float]
"""Low and high end of a 95 % interval."""
Name = TypeVar("Name")

_REPLICATES_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Metrics by name, None if undefined, with the 95 % intervals over patients of the others."""

    metrics: dict[str, float | None]
    intervals: dict[str, Bounds]

    def value_of(self, name: str) -> float:
        """Return a metric that is defined."""
        value = self.metrics[name]
        assert value is not None, f"{name} is undefined"
        return value


def measure(
    images: ScoredImages, patients: Sequence[str], *, replicates: int = 2000, seed: int
) -> Measured:
    """Return the `METRICS` of images of these patients, [N]; errors are those of `auroc`."""
    require_scorable(images.labels, images.probabilities, images.class_count)
    statistics = partial(weighted_metrics, images)
    metrics, intervals = bootstrap(
        statistics, images.labels, patients, replicates=replicates, seed=seed
    )
    return Measured(metrics=metrics, intervals=intervals)


def bootstrap(
    statistics: Callable[[Floats], Mapping[Name, Floats]],
    labels: Labels,
    patients: Sequence[str],
    *,
    replicates: int,
    seed: int,
) -> tuple[dict[Name, float | None], dict[Name, Bounds]]:
    """Return statistics of all images, None for NaN, and 95 % percentile intervals over patients.

    `statistics` takes how often each image counts, float64 [R, N], and returns statistics by name,
    float64 [R]. What is NaN on any resample has no interval.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile
    interval); resampling clusters: Davison & Hinkley 1997, section 3.8.
    """
    values = statistics(np.ones((1, len(labels))))
    chunks = [
        statistics(weights) for weights in _resample_patients(labels, patients, replicates, seed)
    ]
    intervals = {}
    for name in values:
        resampled = np.concatenate([chunk[name] for chunk in chunks])
        low, high = np.quantile(resampled, (0.025, 0.975)).tolist()
        if np.isfinite(low + high):
            intervals[name] = (low, high)
    return {name: none_if_nan(value[0]) for name, value in values.items()}, intervals


def _resample_patients(
    labels: Labels, patients: Sequence[str], replicates: int, seed: int
) -> Iterator[Floats]:
    """Yield how often each image is drawn in the next replicates, [R, N].

    Patients are drawn among those with images of the same classes, so no class is ever empty; or
    with the same rarest finding of an image.
    """
    if labels.ndim == 2:
        labels = rarest_findings(labels == 1)
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
