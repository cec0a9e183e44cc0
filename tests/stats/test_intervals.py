"""Bootstrap intervals over patients."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from xraytune.base.errors import DataError
from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import ScoredImages, classification_metrics
from xraytune.stats.intervals import patient_bootstrap


def overlapping_classes(image_count: int = 80) -> tuple[NDArray[np.int64], NDArray[np.float64], list[str]]:
    """Two classes whose scores overlap, one image for each patient."""
    generator = numpy_generator(5, "scores")
    labels = np.arange(image_count) % 2
    scores = 1 / (1 + np.exp(-generator.normal(labels * 1.5 - 0.75, 1)))
    return labels, np.stack([1 - scores, scores], axis=1), [f"patient{number}" for number in range(image_count)]


def test_intervals_contain_the_estimate_and_repeat_with_the_seed() -> None:
    labels, probabilities, patients = overlapping_classes()
    figures = classification_metrics(ScoredImages(labels, probabilities, positive=1))

    def intervals(seed: int) -> dict[str, tuple[float, float]]:
        return patient_bootstrap(
            ScoredImages(labels, probabilities, positive=1, threshold=0.5), patients, replicates=300, seed=seed
        )

    first = intervals(1)

    assert set(first) == figures.keys() - {"ece"}
    for name, (low, high) in first.items():
        value = figures[name]
        assert value is not None
        assert low < value < high, name
    assert intervals(1) == first
    assert intervals(2) != first


@pytest.mark.parametrize(
    ("replicates", "brier"),
    [
        ({}, (0.06559782368476161, 0.16762570435523821)),
        ({"replicates": 250}, (0.06056031655429681, 0.15997915438278384)),
        ({"replicates": 50}, (0.07357726701103162, 0.18796485989893794)),
    ],
)
def test_intervals_do_not_change_between_versions(replicates: dict[str, int], brier: tuple[float, float]) -> None:
    labels, probabilities, patients = overlapping_classes(20)

    again = patient_bootstrap(
        ScoredImages(labels, probabilities, positive=1, threshold=0.5), patients, seed=1, **replicates
    )

    assert again["brier"] == pytest.approx(brier, rel=1e-9)


def test_copies_of_each_patients_image_do_not_shrink_the_interval() -> None:
    """Patients are resampled: ten copies of an image are no new evidence."""
    labels, probabilities, patients = overlapping_classes()

    once = patient_bootstrap(
        ScoredImages(labels, probabilities, positive=1, threshold=0.5), patients, replicates=300, seed=1
    )
    copies = ScoredImages(np.tile(labels, 10), np.tile(probabilities, (10, 1)), positive=1)
    copied = patient_bootstrap(copies, patients * 10, replicates=300, seed=1)
    as_if_independent = patient_bootstrap(copies, [str(number) for number in range(800)], replicates=300, seed=1)

    assert copied["auroc"] == pytest.approx(once["auroc"])
    width, width_of_independent = (high - low for low, high in (copied["auroc"], as_if_independent["auroc"]))
    assert width > 2 * width_of_independent


def test_auroc_interval_has_the_width_of_the_hanley_mcneil_standard_error() -> None:
    """Hanley & McNeil 1982, with q1 and q2 of the exponential model; both are approximations."""
    labels, probabilities, patients = overlapping_classes(400)
    area = classification_metrics(ScoredImages(labels, probabilities, positive=1))["auroc"]
    assert area is not None
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    standard_error = np.sqrt((area * (1 - area) + 199 * (q1 - area**2) + 199 * (q2 - area**2)) / 200**2)

    low, high = patient_bootstrap(
        ScoredImages(labels, probabilities, positive=1, threshold=0.5), patients, replicates=500, seed=1
    )["auroc"]

    assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.2)


def test_no_replicate_loses_a_class_even_with_one_patient_in_it_or_patients_in_both() -> None:
    labels = np.array([0, 0, 0, 1, 0, 1])
    probabilities = np.stack([np.linspace(0.9, 0.2, 6), np.linspace(0.1, 0.8, 6)], axis=1)
    patients = ["a", "b", "c", "d", "both", "both"]

    intervals = patient_bootstrap(
        ScoredImages(labels, probabilities, positive=1, threshold=0.5), patients, replicates=200, seed=1
    )

    assert all(np.isfinite(interval).all() for interval in intervals.values())


def test_one_class_only_is_refused() -> None:
    with pytest.raises(DataError, match="has no image"):
        patient_bootstrap(
            ScoredImages(np.zeros(3, dtype=np.int64), np.full((3, 2), 0.5), positive=1, threshold=0.5),
            ["a", "b", "c"],
            seed=1,
        )
