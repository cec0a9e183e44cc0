"""The interval: published digits, the formulas written out, and invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulated_studies import Arm, simulate
from xraytune.base.errors import ConfigError
from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import Floats
from xraytune.stats.placements import (
    StructuralComponents,
    placement_variance,
    scores_from_difference,
)
from xraytune.stats.verdict import (
    Evidence,
    compare,
    estimate_evidence,
    judge_pair,
    p_values,
    score_interval,
)

SHAPES = st.tuples(st.integers(2, 6), st.integers(4, 30), st.integers(0, 10_000))
"""Replicates, patients, and the seed of the numbers."""


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    """Any evidence, with a patient variance of 0 to 3 times that of the binormal model."""
    mean = draw(st.floats(0.55, 1))
    patients = draw(st.floats(8, 2000))
    difference = draw(st.floats(-1, 1)) * 2 * min(1 - mean, 0.1)
    usual = 4 / patients * float(placement_variance(*scores_from_difference(mean, difference)))
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


def test_van_dykes_study_has_the_published_digits() -> None:
    """Two ways of MR imaging, 5 readers, 114 cases (Van Dyke et al. 1993).

    As MRMCaov 0.3 and RJafroc 2.1 print it, by Obuchowski & Rockette 1995, "Hypothesis testing of
    diagnostic accuracy for multiple readers and multiple tests", with the degrees of freedom of
    Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer ROC
    analysis", equation 9: the limit of infinitely many cases.
    """
    spin_echo = np.array([0.9196457, 0.8587762, 0.9038647, 0.9731079, 0.8297907])
    cine = np.array([0.9478261, 0.9053140, 0.9217391, 0.9993559, 0.9299517])
    gaps = spin_echo - cine

    found = score_interval(
        Evidence(
            difference=float(gaps.mean()),
            mean_score=float((spin_echo + cine).mean() / 2),
            replicate_variance=float(gaps.var(ddof=1)),
            patient_variance=2 * (0.0003440748 - 0.0002390284),  # 2 (Cov2 - Cov3)
            replicates=5,
            effective_patients=1e12,
            variance=placement_variance,
        )
    )

    assert found.difference == pytest.approx(-0.04380032, abs=2e-8)
    assert found.standard_error == pytest.approx(0.02074862, abs=2e-8)
    assert found.degrees_of_freedom == pytest.approx(15.25967, abs=5e-5)


@pytest.mark.slow
@settings(max_examples=60)
@given(SHAPES)
def test_the_evidence_is_obuchowski_rockettes_written_out(shape: tuple[int, int, int]) -> None:
    """Mean squares over the treatment x reader table, covariances over all pairs of readers."""
    aurocs, components = replicates(shape)
    readers = shape[0]
    pairs = [(g, h) for g in range(readers) for h in range(readers) if g != h]

    def covariance(first: int, second: int) -> float:
        return float(np.mean([components[first, g] @ components[second, h] for g, h in pairs]))

    residual = aurocs - aurocs.mean(axis=0) - aurocs.mean(axis=1, keepdims=True) + aurocs.mean()
    excess_covariance = (covariance(0, 0) + covariance(1, 1)) / 2 - (
        covariance(0, 1) + covariance(1, 0)
    ) / 2

    found = estimate_evidence(measured(aurocs, components, shape[1]))

    assert found.replicate_variance == pytest.approx(2 * (residual**2).sum() / (readers - 1))
    assert found.patient_variance == pytest.approx(2 * excess_covariance, rel=1e-6, abs=1e-12)
    assert found.difference == pytest.approx(aurocs[0].mean() - aurocs[1].mean())
    assert found.mean_score == pytest.approx(aurocs.mean())
    assert found.replicates == readers


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
def test_near_the_ceiling_it_covers_the_truth_and_does_not_call_different_arms_equivalent() -> None:
    """A difference of 1.5 ROPE on sixty patients, where the estimated variance decides nothing."""
    arms = [Arm(auroc=0.99, replicates_sd=0.005), Arm(auroc=0.975, replicates_sd=0.005)]
    studies = simulate(arms, patients=60, replicates=5, studies=300, seed=1)

    pairs = [study.pair(0, 1) for study in studies]
    intervals = [compare(pair) for pair in pairs]
    verdicts = [judge_pair(estimate_evidence(pair), rope=0.01).verdict for pair in pairs]

    assert np.mean([interval.low <= 0.015 <= interval.high for interval in intervals]) >= 0.92
    assert np.mean(["equivalent" in words for words in verdicts]) <= 0.05


def test_a_single_replicate_is_refused() -> None:
    aurocs, components = replicates((2, 10, 1))

    with pytest.raises(ConfigError, match=r"confirm\.replicates: a single one"):
        estimate_evidence(measured(aurocs[:, :1], components[:, :1], 10))
