"""Bootstrap intervals over patients."""

from dataclasses import replace

import numpy as np
import pytest

from tests.stats.conftest import of_two_classes
from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import ScoredImages
from xraytune.stats.intervals import Bounds, class_breakdown, measure


def overlapping_classes(image_count: int = 80) -> tuple[ScoredImages, list[str]]:
    """Two classes whose scores overlap, one image for each patient."""
    generator = numpy_generator(5, "scores")
    labels = np.arange(image_count) % 2
    scores = 1 / (1 + np.exp(-generator.normal(labels * 1.5 - 0.75, 1)))
    return of_two_classes(labels, scores), [f"patient{number}" for number in range(image_count)]


def intervals_of(
    images: ScoredImages, patients: list[str], *, resample_count: int
) -> dict[str, Bounds]:
    return measure(images, patients, resample_count=resample_count).intervals


def test_intervals_do_not_change_between_versions() -> None:
    images, patients = overlapping_classes(20)

    brier = intervals_of(images, patients, resample_count=250)["brier"]

    assert brier == pytest.approx((0.06785749796708804, 0.17014393220806284), rel=1e-9)


def test_copies_of_each_patients_image_do_not_shrink_the_interval() -> None:
    """Patients are resampled: ten copies of an image are no new evidence."""
    images, patients = overlapping_classes()
    copies = replace(
        images,
        labels=np.tile(images.labels, 10),
        probabilities=np.tile(images.probabilities, (10, 1)),
    )

    once = intervals_of(images, patients, resample_count=300)
    copied = intervals_of(copies, patients * 10, resample_count=300)
    as_if_independent = intervals_of(
        copies, [str(number) for number in range(800)], resample_count=300
    )

    assert copied["auroc"] == pytest.approx(once["auroc"])
    width, width_of_independent = (
        high - low for low, high in (copied["auroc"], as_if_independent["auroc"])
    )
    assert width > 2 * width_of_independent


@pytest.mark.parametrize("positive_patients", [1, 2])
def test_a_single_patient_of_a_class_gives_no_interval(positive_patients: int) -> None:
    """This patient would be in each resample: a sensitivity of 1.000 (1.000 to 1.000)."""
    labels = np.arange(40) % 2
    patients = [f"{n % (2 * positive_patients) if n % 2 else n}-{n % 2}" for n in range(40)]
    images = of_two_classes(labels, labels.astype(np.float64))
    of_findings = replace(images, labels=np.stack([labels, 1 - labels], axis=1))

    measured = measure(images, patients, resample_count=100)
    findings = class_breakdown(of_findings, patients, resample_count=100)

    assert measured.metrics["sensitivity"] == 1
    for each in (measured, *findings):
        assert bool(each.intervals) == (positive_patients > 1)


def test_no_replicate_loses_a_class_even_with_one_patient_in_it_or_patients_in_both() -> None:
    images = of_two_classes(np.array([0, 0, 0, 1, 0, 1]), np.linspace(0.1, 0.8, 6))

    intervals = intervals_of(images, ["a", "b", "c", "d", "both", "both"], resample_count=200)

    assert all(np.isfinite(interval).all() for interval in intervals.values())
