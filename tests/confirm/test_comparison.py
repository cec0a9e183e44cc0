"""The interval: published digits, the formulas written out, and what may not change it."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from xraytune.confirm.comparison import MOST_DEGREES, Comparison, compare, degrees_of_freedom, hillis_interval
from xraytune.errors import ConfigError
from xraytune.metrics.placements import patient_influences
from xraytune.seeding import numpy_generator

Floats = NDArray[np.float64]
SHAPES = st.tuples(st.integers(2, 6), st.integers(1, 3), st.integers(4, 30), st.integers(0, 10_000))
"""GAN seeds, classifier seeds, patients, and the seed of the numbers."""


def replicates(shape: tuple[int, int, int, int]) -> tuple[Floats, Floats]:
    """AUROCs [2, G, K] and influences [2, G, K, P] of seeds and patients who matter about equally."""
    gan_seeds, classifier_seeds, patients, seed = shape
    generator = numpy_generator(seed, "replicates")
    aurocs = (
        0.9 + generator.normal(0, 0.01, (2, gan_seeds, 1)) + generator.normal(0, 0.01, (2, gan_seeds, classifier_seeds))
    )
    common = generator.normal(0, 1, (2, 1, 1, patients))
    own = generator.normal(0, 0.5, (2, gan_seeds, classifier_seeds, patients))
    return aurocs, (common + own) * 0.02 / patients**0.5


def of_scores(scores: Floats, labels: NDArray[np.int64], patients: list[str]) -> Comparison:
    """A comparison from scores [2, G, K, N]."""
    flat = scores.reshape(-1, scores.shape[-1])
    found = patient_influences(labels, np.stack([-flat, flat], axis=2), patients, positive=1)
    return compare(found.aurocs.reshape(scores.shape[:3]), found.influences.reshape(*scores.shape[:3], -1))


def numbers(comparison: Comparison) -> Floats:
    """All figures of a comparison but the counts and the flag."""
    return np.array([*astuple(comparison.interval), *comparison.aurocs, *astuple(comparison.components)])


def test_van_dykes_study_has_the_published_digits() -> None:
    """Two ways of MR imaging, 5 readers, 114 cases (Van Dyke et al. 1993), as MRMCaov 0.3 and RJafroc 2.1 print it."""
    spin_echo = np.array([0.9196457, 0.8587762, 0.9038647, 0.9731079, 0.8297907])
    cine = np.array([0.9478261, 0.9053140, 0.9217391, 0.9993559, 0.9299517])
    gaps = spin_echo - cine

    found = hillis_interval(
        difference=float(gaps.mean()),
        mean_square=0.0005510306,
        excess_covariance=0.0003440748 - 0.0002390284,
        readers=5,
    )

    assert float(gaps.var(ddof=1)) / 2 == pytest.approx(0.0005510306, abs=1e-9)  # of AUROCs to seven digits
    assert found.difference == pytest.approx(-0.04380032, abs=2e-8)
    assert found.standard_error == pytest.approx(0.02074862, abs=5e-9)
    assert found.standard_error**2 * 5 / 2 == pytest.approx(0.001076263, abs=5e-10)
    assert (found.difference / found.standard_error) ** 2 == pytest.approx(4.456319, abs=5e-6)
    assert found.degrees_of_freedom == pytest.approx(15.25967, abs=5e-6)
    assert (found.low, found.high) == pytest.approx((-0.0879594986, 0.0003588544), abs=2e-8)
    assert found.p_value == pytest.approx(0.05166569, abs=5e-8)


def test_the_90_percent_interval_is_students_too() -> None:
    found = hillis_interval(difference=0.02, mean_square=1e-4, excess_covariance=2e-5, readers=4)

    degrees = (1.8e-4 / 1e-4) ** 2 * 3
    low, high = stats.t.interval(0.9, degrees, loc=0.02, scale=np.sqrt(1.8e-4 / 2))
    assert (found.low_90, found.high_90) == pytest.approx((low, high))


def test_a_negative_excess_covariance_counts_as_none_and_leaves_the_seeds_degrees() -> None:
    found = hillis_interval(difference=0.02, mean_square=1e-4, excess_covariance=-1e-3, readers=4)

    assert found.degrees_of_freedom == 3
    assert found.standard_error == pytest.approx(np.sqrt(2 / 4 * 1e-4))


def test_without_differences_among_seeds_students_t_is_normal() -> None:
    found = hillis_interval(difference=0.02, mean_square=0.0, excess_covariance=1e-4, readers=4)

    assert found.degrees_of_freedom == MOST_DEGREES
    assert found.high == pytest.approx(0.02 + stats.norm.ppf(0.975) * np.sqrt(2e-4), rel=1e-5)


@pytest.mark.parametrize(("ratio", "degrees"), [(1, 4), (499, 4 * 499**2), (501, MOST_DEGREES), (3000, MOST_DEGREES)])
def test_degrees_of_freedom_grow_with_the_patients_share_up_to_their_most(ratio: float, degrees: float) -> None:
    assert degrees_of_freedom(1e-5, ratio * 1e-5, 5) == pytest.approx(degrees)


@pytest.mark.slow
@settings(max_examples=60)
@given(SHAPES)
def test_comparison_is_obuchowski_rockettes_written_out(shape: tuple[int, int, int, int]) -> None:
    """Mean squares over the treatment x reader table, covariances over all pairs of readers one by one."""
    aurocs, influences = replicates(shape)
    readers = shape[0]
    figures, by_reader = aurocs.mean(axis=2), influences.mean(axis=2)
    pairs = [(g, h) for g in range(readers) for h in range(readers) if g != h]

    def covariance(first: int, second: int) -> float:
        return float(np.mean([by_reader[first, g] @ by_reader[second, h] for g, h in pairs]))

    residual = figures - figures.mean(axis=0) - figures.mean(axis=1, keepdims=True) + figures.mean()
    expected = hillis_interval(
        difference=float(figures[0].mean() - figures[1].mean()),
        mean_square=float((residual**2).sum()) / (readers - 1),
        excess_covariance=(covariance(0, 0) + covariance(1, 1)) / 2 - (covariance(0, 1) + covariance(1, 0)) / 2,
        readers=readers,
    )

    found = compare(aurocs, influences)

    assert astuple(found.interval) == pytest.approx(astuple(expected), rel=1e-6, abs=1e-12)
    assert found.aurocs == pytest.approx(tuple(aurocs.mean(axis=(1, 2))))
    assert (found.gan_seeds, found.classifier_seeds, found.patients) == shape[:3]


@pytest.mark.slow
@settings(max_examples=60)
@given(SHAPES)
def test_swapped_arms_flip_the_sign_and_change_nothing_else(shape: tuple[int, int, int, int]) -> None:
    aurocs, influences = replicates(shape)

    one, other = compare(aurocs, influences).interval, compare(aurocs[::-1], influences[::-1]).interval

    assert other.difference == -one.difference
    assert (other.low, other.high, other.low_90, other.high_90) == (-one.high, -one.low, -one.high_90, -one.low_90)
    assert (other.standard_error, other.degrees_of_freedom, other.p_value) == (
        one.standard_error, one.degrees_of_freedom, one.p_value,
    )  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60)
@given(SHAPES)
def test_the_same_arm_twice_differs_by_exactly_zero(shape: tuple[int, int, int, int]) -> None:
    aurocs, influences = (values[[0, 0]] for values in replicates(shape))

    found = compare(aurocs, influences)

    interval = found.interval
    assert (interval.difference, interval.standard_error, interval.p_value) == (0, 0, 1)
    assert (interval.low, interval.high, interval.low_90, interval.high_90) == (0, 0, 0, 0)
    assert not found.is_saturated


@pytest.mark.slow
@settings(max_examples=60)
@given(SHAPES)
def test_the_order_of_patients_and_of_replicates_changes_only_rounding(shape: tuple[int, int, int, int]) -> None:
    aurocs, influences = replicates(shape)
    generator = numpy_generator(shape[3], "order")
    gans, classifiers, patients = (generator.permutation(count) for count in shape[:3])

    found = compare(aurocs, influences)
    shuffled = compare(aurocs[:, gans][:, :, classifiers], influences[:, gans][:, :, classifiers][..., patients])

    assert numbers(shuffled) == pytest.approx(numbers(found), rel=1e-6, abs=1e-13)


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_copies_of_the_images_do_not_narrow_the_interval_as_new_patients_do(seed: int) -> None:
    generator = numpy_generator(seed, "scores")
    labels = np.arange(60) % 2
    hard = generator.normal(0, 0.7, 60) + generator.normal(0, 0.5, (2, 1, 1, 60))
    scores = hard + generator.normal(0, 0.2, (2, 4, 2, 60)) + labels
    patients = [f"p{number}" for number in range(60)]
    doubled, twice = np.tile(scores, 2), np.tile(labels, 2)

    once = of_scores(scores, labels, patients)
    copies = of_scores(doubled, twice, patients * 2)
    strangers = of_scores(doubled, twice, [f"p{number}" for number in range(120)])

    assert numbers(copies) == pytest.approx(numbers(once), rel=1e-6, abs=1e-12)
    assert strangers.interval.standard_error < 0.9 * once.interval.standard_error


@pytest.mark.slow
def test_variance_components_are_found_again_in_many_simulated_studies() -> None:
    """A linear model with known components: seeds' and patients' effects on the difference, and their interactions."""
    generator = numpy_generator(1, "components")
    gan, classifier, patient, by_gan, by_classifier = 4.0, 2.0, 90.0, 60.0, 30.0
    studies, gans, classifiers, patients = 1500, 4, 3, 30

    def effect(variance: float, *shape: int) -> Floats:
        return generator.normal(0, np.sqrt(variance), (studies, *shape))

    seeds = effect(gan, gans, 1) + effect(classifier, gans, classifiers)
    of_patients = (
        effect(patient, 1, 1, patients) + effect(by_gan, gans, 1, patients)
        + effect(by_classifier, gans, classifiers, patients)
    )  # fmt: skip
    gaps = seeds + of_patients.mean(axis=3)
    centred = of_patients - of_patients.mean(axis=3, keepdims=True)
    influences = centred / np.sqrt(patients * (patients - 1))
    zero = np.zeros_like(gaps[0]), np.zeros_like(influences[0])

    found = [
        astuple(compare(np.stack([gaps[s], zero[0]]), np.stack([influences[s], zero[1]])).components)
        for s in range(studies)
    ]

    assert np.mean(found, axis=0) == pytest.approx([gan, classifier, patient, by_gan, by_classifier], rel=0.1)


def test_with_one_classifier_seed_its_variance_is_in_the_gan_seeds() -> None:
    found = compare(*replicates((5, 1, 20, 3))).components

    assert (found.classifier_seed, found.patient_by_classifier_seed) == (0, 0)


def test_two_classifier_seeds_are_enough_to_tell_them_from_gan_seeds() -> None:
    aurocs = np.array([[[0.90, 0.92], [0.80, 0.84]], [[0.5, 0.5], [0.5, 0.5]]])

    found = compare(aurocs, np.zeros((2, 2, 2, 3))).components

    assert found.classifier_seed == pytest.approx((0.02**2 / 2 + 0.04**2 / 2) / 2)
    assert found.gan_seed == pytest.approx(0.09**2 / 2 - found.classifier_seed / 2)


def test_two_arms_without_a_single_error_say_nothing_about_other_patients() -> None:
    labels = np.arange(20) % 2
    scores = np.broadcast_to(labels * 1.0, (2, 2, 2, 20))

    found = of_scores(scores, labels, [f"p{number}" for number in range(20)])

    assert found.aurocs == (1, 1)
    assert found.is_saturated


def test_a_single_gan_seed_is_refused() -> None:
    aurocs, influences = replicates((2, 2, 10, 1))

    with pytest.raises(ConfigError, match=r"confirm\.gan_seeds: with one seed(.|\n)*fix: take at least 2, better 5"):
        compare(aurocs[:, :1], influences[:, :1])
