"""What a design could find: against scipy's distributions, against draws, and in its limits."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from xraytune.confirm.comparison import MOST_DEGREES, VarianceComponents, compare, hillis_interval
from xraytune.confirm.power import (
    Design,
    detection_probability,
    expected_precision,
    gan_seeds_to_decide,
    patients_to_decide,
    probability_equivalent,
    smallest_detectable_difference,
    would_decide,
)
from xraytune.seeding import numpy_generator

DESIGN = Design(patients=428, gan_seeds=5, classifier_seeds=2)
USUAL = VarianceComponents(
    gan_seed=1e-5, classifier_seed=2e-5, patient=4e-3, patient_by_gan_seed=2e-3, patient_by_classifier_seed=4e-3
)
SEEDS_ALONE = replace(USUAL, patient=0, patient_by_gan_seed=0, patient_by_classifier_seed=0)
PATIENTS_ALONE = replace(USUAL, gan_seed=0, classifier_seed=0, patient_by_gan_seed=0, patient_by_classifier_seed=0)
STEADY = replace(USUAL, gan_seed=1e-6, classifier_seed=1e-6)


def test_the_expected_standard_error_is_the_observed_one_at_the_observed_design() -> None:
    generator = numpy_generator(4, "replicates")
    aurocs = 0.9 + generator.normal(0, 0.02, (2, 6, 1)) + generator.normal(0, 0.02, (2, 6, 3))
    influences = 1e-3 * (
        generator.normal(0, 1, (2, 1, 1, 50))
        + generator.normal(0, 1, (2, 6, 1, 50))
        + generator.normal(0, 1, (2, 6, 3, 50))
    )
    found = compare(aurocs, influences)
    assert min(astuple(found.components)) > 0

    expected = expected_precision(found.components, Design(patients=50, gan_seeds=6, classifier_seeds=3))

    assert expected.standard_error == pytest.approx(found.interval.standard_error)
    assert expected.degrees_of_freedom == pytest.approx(found.interval.degrees_of_freedom)


def test_the_standard_error_is_the_sum_of_its_components() -> None:
    expected = np.sqrt((1e-5 + 2e-3 / 428) / 5 + (2e-5 + 4e-3 / 428) / 10 + 4e-3 / 428)

    assert expected_precision(USUAL, DESIGN).standard_error == pytest.approx(expected)


def test_a_negative_component_counts_as_none() -> None:
    without, negative = (replace(USUAL, patient_by_gan_seed=value) for value in (0.0, -1e-3))

    assert expected_precision(negative, DESIGN) == expected_precision(without, DESIGN)


@pytest.mark.parametrize("gan_seeds", [2, 5, 12])
def test_where_seeds_are_all_power_is_the_noncentral_t_distributions(gan_seeds: int) -> None:
    design = replace(DESIGN, gan_seeds=gan_seeds)
    error = expected_precision(SEEDS_ALONE, design).standard_error
    critical, shift = stats.t.ppf(0.975, gan_seeds - 1), 3.0

    found = detection_probability(SEEDS_ALONE, design, true_difference=shift * error)

    expected = stats.nct.sf(critical, gan_seeds - 1, shift) + stats.nct.cdf(-critical, gan_seeds - 1, shift)
    assert found == pytest.approx(expected, abs=1e-4)


def test_where_patients_are_all_power_is_the_normal_distributions() -> None:
    precision = expected_precision(PATIENTS_ALONE, DESIGN)

    assert precision.degrees_of_freedom == MOST_DEGREES
    assert smallest_detectable_difference(PATIENTS_ALONE, DESIGN) == pytest.approx(
        (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * precision.standard_error, rel=1e-4
    )


@pytest.mark.slow
def test_both_chances_are_those_of_drawn_intervals() -> None:
    """Mean squares and differences drawn from their distributions, each put through `hillis_interval`."""
    generator = numpy_generator(1, "draws")
    draws, difference, rope = 20_000, 0.006, 0.012
    at_infinity = np.sqrt(4e-3 / 428)
    seeds = (1e-5 + 2e-3 / 428) + (2e-5 + 4e-3 / 428) / 2
    mean_squares = seeds / 2 * generator.chisquare(4, draws) / 4
    differences = generator.normal(difference, np.sqrt(seeds / 5 + at_infinity**2), draws)
    drawn = [
        hillis_interval(
            difference=float(one), mean_square=float(square), excess_covariance=at_infinity**2 / 2, readers=5
        )
        for one, square in zip(differences, mean_squares, strict=True)
    ]

    detected = np.mean([one.low > 0 or one.high < 0 for one in drawn])
    equivalent = np.mean([-rope < one.low_90 and one.high_90 < rope for one in drawn])

    assert detection_probability(USUAL, DESIGN, true_difference=difference) == pytest.approx(detected, abs=0.01)
    assert probability_equivalent(USUAL, DESIGN, rope=rope, true_difference=difference) == pytest.approx(
        equivalent, abs=0.01
    )


@settings(max_examples=30)
@given(st.floats(0.2, 0.95), st.integers(2, 10), st.integers(50, 2000))
@pytest.mark.slow
def test_the_smallest_detectable_difference_is_detected_as_often_as_asked(
    power: float, gan_seeds: int, patients: int
) -> None:
    design = Design(patients=patients, gan_seeds=gan_seeds, classifier_seeds=2)

    difference = smallest_detectable_difference(USUAL, design, power=power)

    assert detection_probability(USUAL, design, true_difference=difference) == pytest.approx(power, abs=1e-4)
    assert detection_probability(USUAL, design, true_difference=-difference) == pytest.approx(power, abs=1e-4)


def test_nothing_is_detected_in_a_twentieth_and_what_is_large_is_never_equivalent() -> None:
    assert detection_probability(USUAL, DESIGN, true_difference=0) == pytest.approx(0.05, abs=0.01)
    assert probability_equivalent(USUAL, DESIGN, rope=0.01, true_difference=0.05) < 1e-6
    assert probability_equivalent(USUAL, DESIGN, rope=0.01, true_difference=0.01) <= 0.05
    assert 0 <= probability_equivalent(USUAL, DESIGN, rope=1e-4) < 0.01
    assert probability_equivalent(USUAL, DESIGN, rope=0.5) == pytest.approx(1)


def test_a_design_without_any_variance_finds_everything() -> None:
    none = VarianceComponents(
        gan_seed=0, classifier_seed=0, patient=0, patient_by_gan_seed=0, patient_by_classifier_seed=0
    )

    assert smallest_detectable_difference(none, DESIGN) == 0
    assert detection_probability(none, DESIGN, true_difference=1e-9) == 1
    assert probability_equivalent(none, DESIGN, rope=0.01) == 1
    assert probability_equivalent(none, DESIGN, rope=0.01, true_difference=0.02) == 0
    assert detection_probability(none, DESIGN, true_difference=0) == 0, "it invents nothing"
    assert probability_equivalent(none, DESIGN, rope=0.01, true_difference=0.01) == 0, "one rope away is not inside"
    assert would_decide(none, DESIGN, rope=0.01, power=1)


def test_the_patients_needed_decide_and_one_fewer_does_not() -> None:
    needed = patients_to_decide(STEADY, DESIGN, rope=0.01)

    assert isinstance(needed.count, int)
    assert needed.count > DESIGN.patients
    assert f"{needed.count:,} patients instead of 428" in needed.why
    assert would_decide(STEADY, replace(DESIGN, patients=needed.count), rope=0.01)
    assert not would_decide(STEADY, replace(DESIGN, patients=needed.count - 1), rope=0.01)


@pytest.mark.slow
def test_where_more_patients_decide_less_often_the_few_that_decide_are_found() -> None:
    """With two GAN seeds the degrees of freedom fall as patients are added: 1,077 decide, 1,806 do not."""
    components = replace(USUAL, gan_seed=1.05e-5, classifier_seed=1.05e-5)
    design = Design(patients=430, gan_seeds=2, classifier_seeds=2)
    assert not would_decide(components, replace(design, patients=1806), rope=0.01, power=0.5)

    needed = patients_to_decide(components, design, rope=0.01, power=0.5)

    assert needed.count is not None
    assert needed.count < 1100
    assert would_decide(components, replace(design, patients=needed.count), rope=0.01, power=0.5)


def test_the_gan_seeds_needed_decide_and_one_fewer_does_not() -> None:
    uncertain, many_patients = replace(USUAL, gan_seed=1e-4), replace(DESIGN, patients=2000)

    needed = gan_seeds_to_decide(uncertain, many_patients, rope=0.01)

    assert needed.count is not None
    assert "GAN seeds instead of 5" in needed.why
    assert would_decide(uncertain, replace(many_patients, gan_seeds=needed.count), rope=0.01)
    assert not would_decide(uncertain, replace(many_patients, gan_seeds=needed.count - 1), rope=0.01)


def test_deciding_asks_for_both_answers() -> None:
    ten_seeds = replace(DESIGN, gan_seeds=10)
    assert probability_equivalent(USUAL, ten_seeds, rope=0.01) < 0.8
    assert detection_probability(USUAL, ten_seeds, true_difference=0.01) > 0.8
    assert probability_equivalent(SEEDS_ALONE, DESIGN, rope=0.01) > 0.97
    assert detection_probability(SEEDS_ALONE, DESIGN, true_difference=0.01) < 0.97

    assert not would_decide(USUAL, ten_seeds, rope=0.01)
    assert not would_decide(SEEDS_ALONE, DESIGN, rope=0.01, power=0.97)
    assert would_decide(SEEDS_ALONE, DESIGN, rope=0.01)


@pytest.mark.slow
def test_no_number_of_patients_shrinks_the_variance_of_the_seeds() -> None:
    needed = patients_to_decide(replace(USUAL, gan_seed=1e-3), DESIGN, rope=0.01)

    assert needed.count is None
    assert "not even 1,000,000 patients would decide" in needed.why
    assert "the seeds' standard error of 0.0142; it takes more GAN seeds" in needed.why


@pytest.mark.slow
def test_no_number_of_gan_seeds_shrinks_the_variance_of_the_patients() -> None:
    needed = gan_seeds_to_decide(replace(USUAL, patient=0.1), DESIGN, rope=0.01)

    assert needed.count is None
    assert "not even 1,000 GAN seeds would decide" in needed.why
    assert "the patients' standard error of 0.0153; it takes more patients" in needed.why


def test_a_design_that_mostly_decides_needs_no_more_than_it_has() -> None:
    enough = replace(DESIGN, patients=20_000)

    assert patients_to_decide(STEADY, enough, rope=0.01).count == 20_000
    assert "was among the others" in gan_seeds_to_decide(STEADY, enough, rope=0.01).why
