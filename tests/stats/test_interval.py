"""The interval: published digits, the formulas written out, and invariances."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.simulated_studies import Arm, simulate
from xraytune.base.errors import ConfigError
from xraytune.base.seeding import numpy_generator
from xraytune.stats.placements import (
    StructuralComponents,
    around,
    placement_variance,
    structural_components,
)
from xraytune.stats.verdict import (
    PRIOR_PATIENTS,
    Comparison,
    Evidence,
    Interval,
    compare,
    gather,
    judge_pair,
    p_values,
    patient_variance_at,
    score_interval,
)

Floats = NDArray[np.float64]
SHAPES = st.tuples(st.integers(2, 6), st.integers(4, 30), st.integers(0, 10_000))
"""Replicates, patients, and the seed of the numbers."""
MANY_PATIENTS = Evidence(
    difference=0.004,
    mean_score=0.9,
    replicate_variance=4e-6,
    patient_variance=3e-6,
    replicates=5,
    effective_patients=1e6,
    variance=placement_variance,
)


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    """Any possible evidence, with a patient variance between 0 and three times that of the binormal model."""
    mean, patients = draw(st.floats(0.55, 1)), draw(st.floats(8, 2000))
    difference = draw(st.floats(-1, 1)) * 2 * min(1 - mean, 0.1)
    usual = 4 / patients * float(placement_variance(*around(mean, difference)))
    return Evidence(
        difference=difference,
        mean_score=mean,
        replicate_variance=draw(st.floats(1e-8, 1e-3)),
        patient_variance=usual * draw(st.floats(-0.5, 3)),
        replicates=draw(st.integers(2, 20)),
        effective_patients=patients,
        variance=placement_variance,
    )


def replicates(shape: tuple[int, int, int]) -> tuple[Floats, Floats]:
    """AUROCs [2, K] and components [2, K, P] with similar variances of replicates and patients."""
    count, patients, seed = shape
    generator = numpy_generator(seed, "replicates")
    aurocs = 0.9 + generator.normal(0, 0.014, (2, count))
    common = generator.normal(0, 1, (2, 1, patients))
    own = generator.normal(0, 0.5, (2, count, patients))
    return aurocs, (common + own) * 0.02 / patients**0.5


def measured(scores: Floats, components: Floats, effective_patients: float) -> StructuralComponents:
    return StructuralComponents(
        scores=scores,
        components=components,
        effective_patients=effective_patients,
        variance=placement_variance,
    )


def of_scores(scores: Floats, labels: NDArray[np.int64], patients: list[str]) -> Comparison:
    """A comparison from scores [2, K, N]."""
    flat = scores.reshape(-1, scores.shape[-1])
    found = structural_components(labels, np.stack([-flat, flat], axis=2), patients, positive=1)
    shape = scores.shape[:2]
    return compare(
        replace(
            found,
            scores=found.scores.reshape(shape),
            components=found.components.reshape(*shape, -1),
        )
    )


def hillis_interval(
    *, difference: float, mean_square: float, excess_covariance: float, readers: int
) -> Interval:
    """The published interval of Obuchowski & Rockette for two treatments, random readers and random cases.

    It uses the variance at the estimate; `score_interval` gives the same interval if there are many
    patients.

    Args:
        difference: Mean over readers.
        mean_square: MS(treatment x reader): half the sample variance of the readers' differences.
        excess_covariance: Cov2 - Cov3: how much more two readers' figures covary, over other cases,
            within a treatment than across treatments. A negative one counts as 0.
        readers: At least 2.

    Source: Obuchowski & Rockette 1995, "Hypothesis testing of diagnostic accuracy for multiple
    readers and multiple tests"; degrees of freedom: Hillis 2007, "A comparison of denominator
    degrees of freedom methods for multiple observer ROC analysis", equation 9.
    """
    denominator = mean_square + max(readers * excess_covariance, 0.0)
    standard_error = np.sqrt(2 / readers * denominator)
    degrees = (denominator / mean_square) ** 2 * (readers - 1)
    width, width_90 = (
        stats.t.ppf(quantile, degrees) * standard_error for quantile in (0.975, 0.95)
    )
    return Interval(
        difference=difference,
        standard_error=standard_error,
        degrees_of_freedom=degrees,
        low=difference - width,
        high=difference + width,
        low_90=difference - width_90,
        high_90=difference + width_90,
        p_value=2 * float(stats.t.cdf(-abs(difference) / standard_error, degrees)),
    )


def at_the_estimate(found: Evidence) -> Interval:
    """The published interval, with the patient variance at the estimate."""
    return hillis_interval(
        difference=found.difference,
        mean_square=found.replicate_variance / 2,
        excess_covariance=found.patient_variance / 2,
        readers=found.replicates,
    )


def test_van_dykes_study_has_the_published_digits() -> None:
    """Two ways of MR imaging, 5 readers, 114 cases (Van Dyke et al.

    1993), as MRMCaov 0.3 and RJafroc 2.1 print it.
    """
    spin_echo = np.array([0.9196457, 0.8587762, 0.9038647, 0.9731079, 0.8297907])
    cine = np.array([0.9478261, 0.9053140, 0.9217391, 0.9993559, 0.9299517])
    gaps = spin_echo - cine

    found = hillis_interval(
        difference=float(gaps.mean()),
        mean_square=0.0005510306,
        excess_covariance=0.0003440748 - 0.0002390284,
        readers=5,
    )

    assert float(gaps.var(ddof=1)) / 2 == pytest.approx(
        0.0005510306, abs=1e-9
    )  # of AUROCs to seven digits
    assert found.difference == pytest.approx(-0.04380032, abs=2e-8)
    assert found.standard_error == pytest.approx(0.02074862, abs=5e-9)
    assert found.standard_error**2 * 5 / 2 == pytest.approx(0.001076263, abs=5e-10)
    assert (found.difference / found.standard_error) ** 2 == pytest.approx(4.456319, abs=5e-6)
    assert found.degrees_of_freedom == pytest.approx(15.25967, abs=5e-6)
    assert (found.low, found.high) == pytest.approx((-0.0879594986, 0.0003588544), abs=2e-8)
    assert found.p_value == pytest.approx(0.05166569, abs=5e-8)


@pytest.mark.slow
@settings(max_examples=60)
@given(SHAPES)
def test_the_evidence_is_obuchowski_rockettes_written_out(shape: tuple[int, int, int]) -> None:
    """Mean squares over the treatment x reader table, covariances over all pairs of readers one by one."""
    aurocs, components = replicates(shape)
    readers = shape[0]
    pairs = [(g, h) for g in range(readers) for h in range(readers) if g != h]

    def covariance(first: int, second: int) -> float:
        return float(np.mean([components[first, g] @ components[second, h] for g, h in pairs]))

    residual = aurocs - aurocs.mean(axis=0) - aurocs.mean(axis=1, keepdims=True) + aurocs.mean()
    excess_covariance = (covariance(0, 0) + covariance(1, 1)) / 2 - (
        covariance(0, 1) + covariance(1, 0)
    ) / 2

    found = compare(measured(aurocs, components, shape[1]))

    assert found.evidence.replicate_variance == pytest.approx(
        2 * (residual**2).sum() / (readers - 1)
    )
    assert found.evidence.patient_variance == pytest.approx(
        2 * excess_covariance, rel=1e-6, abs=1e-12
    )
    assert found.interval.difference == pytest.approx(aurocs[0].mean() - aurocs[1].mean())
    assert found.scores == pytest.approx(tuple(aurocs.mean(axis=1)))
    assert found.evidence.mean_score == pytest.approx(np.mean(found.scores))
    assert found.evidence.replicates == readers


@pytest.mark.slow
@settings(max_examples=60)
@given(SHAPES)
def test_swapped_arms_flip_the_sign_and_change_nothing_else(shape: tuple[int, int, int]) -> None:
    aurocs, components = replicates(shape)

    one = compare(measured(aurocs, components, shape[1])).interval
    other = compare(measured(aurocs[::-1], components[::-1], shape[1])).interval

    assert other.difference == -one.difference
    assert (other.low, other.high, other.low_90, other.high_90) == pytest.approx(
        (-one.high, -one.low, -one.high_90, -one.low_90), abs=1e-9
    )
    assert (other.standard_error, other.degrees_of_freedom, other.p_value) == pytest.approx(
        (one.standard_error, one.degrees_of_freedom, one.p_value), rel=1e-9
    )


@pytest.mark.slow
@settings(max_examples=200)
@given(evidence())
def test_the_interval_ends_at_the_differences_that_a_one_sided_test_just_rejects(
    found: Evidence,
) -> None:
    interval = score_interval(found)

    for side, end, level in (
        (0, interval.low, 0.025),
        (1, interval.high, 0.025),
        (0, interval.low_90, 0.05),
        (1, interval.high_90, 0.05),
    ):
        assert float(p_values(found, end)[side]) == pytest.approx(level, abs=1e-5) or abs(
            end
        ) == pytest.approx(1)
    assert (
        -1
        <= interval.low
        <= interval.low_90
        <= interval.difference
        <= interval.high_90
        <= interval.high
        <= 1
    )
    assert interval.p_value == pytest.approx(min(1, 2 * min(map(float, p_values(found, 0)))))


@pytest.mark.slow
@pytest.mark.parametrize("variance", [1e-7, 4e-6, 3e-5])
@pytest.mark.parametrize("count", [4, 5, 20])
def test_interval_equals_published_one_with_many_patients(variance: float, count: int) -> None:
    found = replace(MANY_PATIENTS, replicate_variance=variance, replicates=count)

    score, published = score_interval(found), at_the_estimate(found)

    assert score.standard_error == pytest.approx(published.standard_error, rel=0.01)
    assert (score.low, score.high) == pytest.approx(
        (published.low, published.high), abs=0.01 * (score.high - score.low)
    )
    assert score.high - score.low == pytest.approx(published.high - published.low, rel=0.02)


def test_degrees_of_freedom_are_satterthwaites_with_an_eighth_of_the_patients() -> None:
    found = replace(MANY_PATIENTS, effective_patients=800)
    patients, seeds = float(patient_variance_at(found, 0.004)), 4e-6 / 5

    interval = score_interval(found)

    assert interval.standard_error == pytest.approx(np.sqrt(patients + seeds))
    assert interval.degrees_of_freedom == pytest.approx(
        (patients + seeds) ** 2 / (seeds**2 / 4 + patients**2 / 100)
    )


def test_the_patients_variance_at_the_estimate_is_the_estimated_one_with_a_prior_worth_twenty_patients() -> (
    None
):
    found = replace(MANY_PATIENTS, patient_variance=1e-3, effective_patients=60)
    binormal = 4 / 60 * float(placement_variance(0.902, 0.898))

    variance = float(patient_variance_at(found, 0.004))

    assert PRIOR_PATIENTS == 20
    assert variance == pytest.approx(0.75 * 1e-3 + 0.25 * binormal)


@pytest.mark.slow
def test_near_the_ceiling_it_covers_the_truth_and_does_not_call_different_arms_equivalent() -> None:
    """Differing by 1.5 ROPE on sixty patients: with the variance at the estimate both claims would fail."""
    arms = [Arm(auroc=0.99, replicates_sd=0.005), Arm(auroc=0.975, replicates_sd=0.005)]
    studies = simulate(arms, patients=60, replicates=5, studies=300, seed=1)

    found = [compare(study.pair(0, 1)) for study in studies]

    published = [at_the_estimate(one.evidence) for one in found]
    verdicts = [judge_pair(one.evidence, rope=0.01) for one in found]
    assert np.mean([one.interval.low <= 0.015 <= one.interval.high for one in found]) >= 0.92
    assert np.mean([verdict.is_equivalent for verdict in verdicts]) <= 0.05
    assert np.mean([one.low <= 0.015 <= one.high for one in published]) < 0.9
    assert np.mean([-0.01 < one.low_90 and one.high_90 < 0.01 for one in published]) > 0.05
    for one, verdict in zip(found, verdicts, strict=True):  # the interval and the words agree
        interval = one.interval
        assert (verdict.is_better, verdict.is_worse) == (interval.low > 0, interval.high < 0)
        assert verdict.is_equivalent == (interval.low_90 > -0.01 and interval.high_90 < 0.01)


@pytest.mark.slow
def test_variance_components_are_recovered_from_simulated_studies() -> None:
    """A linear model with known components: replicates' and patients' effects on the difference, and their interaction."""
    generator = numpy_generator(1, "components")
    replicate, patient, interaction = 6.0, 90.0, 60.0
    studies, count, patients = 500, 5, 30

    def effect(variance: float, *shape: int) -> Floats:
        return generator.normal(0, np.sqrt(variance), (studies, *shape))

    of_patients = effect(patient, 1, patients) + effect(interaction, count, patients)
    gaps = effect(replicate, count) + of_patients.mean(axis=2)
    centred = of_patients - of_patients.mean(axis=2, keepdims=True)
    components = centred / np.sqrt(patients * (patients - 1))
    zero = np.zeros_like(gaps[0]), np.zeros_like(components[0])

    found = [
        astuple(
            compare(
                measured(np.stack([gaps[s], zero[0]]), np.stack([components[s], zero[1]]), patients)
            ).components
        )
        for s in range(studies)
    ]

    assert np.mean(found, axis=0) == pytest.approx([replicate, patient, interaction], rel=0.1)


@pytest.mark.slow
def test_perfect_arms_have_wider_intervals_with_fewer_patients() -> None:
    def interval(count: int) -> Interval:
        labels = np.arange(count) % 2
        scores = np.broadcast_to(labels * 1.0, (2, 4, count))
        found = of_scores(scores, labels, [f"p{number}" for number in range(count)])
        assert found.scores == (1, 1)
        return found.interval

    twenty, two_hundred, two_thousand = (interval(count) for count in (20, 200, 2000))

    assert twenty.low == pytest.approx(-twenty.high)
    assert twenty.high > 0.01, "twenty patients cannot rule out a difference of one ROPE"
    assert twenty.high > 2 * two_hundred.high > 4 * two_thousand.high > 0


def test_identical_rankings_of_few_patients_do_not_show_equivalence() -> None:
    generator = numpy_generator(1, "ranks")
    labels = np.arange(40) % 2
    scores = np.broadcast_to(labels + generator.normal(0, 0.7, 40), (2, 5, 40))

    found = of_scores(scores, labels, [f"p{number}" for number in range(40)])

    assert 0.5 < found.scores[0] < 1
    assert found.interval.low < -0.01 < 0 < 0.01 < found.interval.high
    assert judge_pair(found.evidence, rope=0.01).words == ("undecided",)


def test_a_single_replicate_is_refused() -> None:
    aurocs, components = replicates((2, 10, 1))

    with pytest.raises(
        ConfigError,
        match=r"confirm\.replicates: a single one(.|\n)*fix: use at least 4, preferably 5",
    ):
        gather(measured(aurocs[:, :1], components[:, :1], 10))


def test_an_interval_that_excludes_no_difference_ends_at_the_largest_ones() -> None:
    """Two replicates far apart: Student's t has one degree of freedom."""
    found = score_interval(
        replace(MANY_PATIENTS, difference=0.1, replicate_variance=4.0, replicates=2)
    )

    assert (found.low, found.high) == pytest.approx((-1.0, 1.0))
