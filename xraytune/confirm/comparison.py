"""The AUROC difference of two arms, with an interval over other patients and other seeds at once.

Takes the AUROCs of two arms' replicates (GAN seeds, classifier seeds nested in them) and the patients' components on them,
gives the difference with its intervals and what its variance is made of. Five seeds are few and a thousand images are
few, and the two errors are of the same size here; an interval over one of them alone would be too narrow.

The GAN seeds are the readers of a multi-reader multi-case study: drawn at random, each scoring the same patients in both
arms. An arm without a GAN has replicates too; there the pair of seeds only names them.

The interval is a score interval: it contains the differences that a test does not reject, and the test of a difference uses
the patient variance that this difference implies. docs/decisions/0010 gives the reasons and the simulations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]  # Student's t: its cdf, and the inverse

from xraytune.errors import ConfigError, Problem
from xraytune.metrics.classification import Floats
from xraytune.metrics.placements import around, placement_variance

MOST_DEGREES = 1e6
"""Where Student's t is the normal distribution to six digits. Infinity would be no JSON number."""
PRIOR_PATIENTS = 20
"""Weight, in patients, of the binormal variance against the one estimated from the patients of the test folder."""

PATIENTS_PER_DEGREE = 8
"""Effective patients per degree of freedom of their variance: only those that the arms rank differently contribute."""
_STEPS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The inputs of a test of a difference; each is a number or an array, and all broadcast.

    Attributes:
        difference: Estimated, the first arm's AUROC less the second's.
        mean_auroc: Mean of the two arms' AUROCs.
        seed_variance: Sample variance of the GAN seeds' differences.
        patient_variance: Variance of the difference over patients, with these seeds; a negative estimate counts as 0.
        gan_seeds: GAN seeds, at least 2.
        effective_patients: 4 / (1/n + 1/m) for n patients of one class and m of the other.
    """

    difference: ArrayLike
    mean_auroc: ArrayLike
    seed_variance: ArrayLike
    patient_variance: ArrayLike
    gan_seeds: int
    effective_patients: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HillisInterval:
    """An estimated difference and its uncertainty.

    Attributes:
        difference: The first arm's mean less the second's.
        standard_error: Over other patients and other readers.
        degrees_of_freedom: Of Student's t, at most `MOST_DEGREES`.
        low: Lower end of the 95 % interval.
        high: Upper end of it.
        low_90: Lower end of the 90 % interval.
        high_90: Upper end of it.
        p_value: Two-sided, of no difference.
    """

    difference: float
    standard_error: float
    degrees_of_freedom: float
    low: float
    high: float
    low_90: float
    high_90: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceComponents:
    """What the variance of a difference between two arms is made of, in squares of AUROC.

    The patients' terms are of one patient: a test folder of P patients has a P-th of them, if its classes are as mixed.
    All are unbiased estimates, so one that is truly small can be negative.

    Attributes:
        gan_seed: Of one GAN seed, with patients without number.
        classifier_seed: Of one classifier seed with the same GAN.
        patient: Common to all seeds: which patients are harder for one arm than for the other.
        patient_by_gan_seed: Which patients are harder with one GAN than with another.
        patient_by_classifier_seed: The same of classifier seeds.
    """

    gan_seed: float
    classifier_seed: float
    patient: float
    patient_by_gan_seed: float
    patient_by_classifier_seed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One arm against another.

    Attributes:
        interval: Of the difference of their AUROCs, first less second.
        evidence: What the interval and every other test of the difference are computed from.
        aurocs: The means of the two arms.
        patients: Patients in the test folder.
        classifier_seeds: Classifier seeds of each GAN seed.
        components: Where the uncertainty comes from.
    """

    interval: HillisInterval
    evidence: Evidence
    aurocs: tuple[float, float]
    patients: int
    classifier_seeds: int
    components: VarianceComponents


def compare(aurocs: Floats, components: Floats, *, effective_patients: float) -> Comparison:
    """Compare arm 0 with arm 1.

    Classifier seeds are averaged within their GAN seed. Swapping the arms only changes the signs, up to rounding.

    Args:
        aurocs: float64 [2, G, K]: arm, GAN seed, classifier seed; G >= 2.
        components: float64 [2, G, K, P], as `structural_components` has them, on the same P patients throughout.
        effective_patients: As `structural_components` has it.

    Raises:
        ConfigError: A single GAN seed.
    """
    evidence = gather(aurocs, components, effective_patients=effective_patients)
    means = aurocs.mean(axis=(1, 2))
    return Comparison(
        interval=score_interval(evidence),
        evidence=evidence,
        aurocs=(float(means[0]), float(means[1])),
        patients=components.shape[3],
        classifier_seeds=components.shape[2],
        components=_variance_components(aurocs[0] - aurocs[1], components[0] - components[1]),
    )


def gather(aurocs: Floats, components: Floats, *, effective_patients: float) -> Evidence:
    """Compute the evidence that `compare` tests; same arguments and exceptions."""
    gan_seeds = aurocs.shape[1]
    if gan_seeds < 2:
        what = "confirm.gan_seeds: one seed cannot separate chance from an effect"
        raise ConfigError(Problem(what, fix="use at least 4, better 5"))
    # Differences first: they are exactly opposite for swapped arms.
    of_gan, influences_of_gan = (aurocs[0] - aurocs[1]).mean(axis=1), (components[0] - components[1]).mean(axis=1)
    return Evidence(
        difference=float(of_gan.mean()),
        mean_auroc=float(aurocs.mean()),
        seed_variance=float(of_gan.var(ddof=1)),
        patient_variance=_mean_off_diagonal(influences_of_gan @ influences_of_gan.T),
        gan_seeds=gan_seeds,
        effective_patients=effective_patients,
    )


def p_value_above(evidence: Evidence, difference: ArrayLike) -> Floats:
    """One-sided p-value of "the true difference is at most this one": small where the estimate lies above it."""
    error, degrees = _error_at(evidence, difference)
    return np.asarray(stdtr(degrees, (np.asarray(difference) - evidence.difference) / error))


def p_value_below(evidence: Evidence, difference: ArrayLike) -> Floats:
    """One-sided p-value of "the true difference is at least this one": small where the estimate lies below it."""
    error, degrees = _error_at(evidence, difference)
    return np.asarray(stdtr(degrees, (np.asarray(evidence.difference) - difference) / error))


def score_interval(evidence: Evidence) -> HillisInterval:
    """Return the range of differences that neither one-sided test rejects; `evidence` holds scalars."""
    centre = float(np.asarray(evidence.difference))
    error, degrees = (float(figure) for figure in _error_at(evidence, centre))

    def end(quantile: float, sign: int) -> float:
        def excess(distance: float) -> float:
            error, degrees = _error_at(evidence, centre + sign * distance)
            return float(distance - stdtrit(degrees, quantile) * error)

        # With few patients near the ceiling, differences beyond a rejected one may be accepted again: take the last.
        distances = np.linspace(0.0, 1 - sign * centre, _STEPS)
        errors, degrees = _error_at(evidence, centre + sign * distances)
        last = int(np.flatnonzero(distances <= stdtrit(degrees, quantile) * errors)[-1])
        if last == len(distances) - 1:
            return centre + sign * float(distances[last])
        return centre + sign * float(brentq(excess, distances[last], distances[last + 1], xtol=1e-12))

    below, above = (float(test(evidence, 0.0)) for test in (p_value_below, p_value_above))
    return HillisInterval(
        difference=centre,
        standard_error=error,
        degrees_of_freedom=degrees,
        low=end(0.975, -1),
        high=end(0.975, 1),
        low_90=end(0.95, -1),
        high_90=end(0.95, 1),
        p_value=min(2 * min(below, above), 1.0),
    )


def _error_at(evidence: Evidence, difference: ArrayLike) -> tuple[Floats, Floats]:
    """Return the standard error and degrees of freedom of the estimate if this is the true difference.

    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components"; with infinitely many
    patients it is Hillis' formula.
    """
    patients = patient_variance_at(evidence, difference)
    seeds = np.asarray(evidence.seed_variance) / evidence.gan_seeds
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = seeds**2 / (evidence.gan_seeds - 1) + patients**2 / (evidence.effective_patients / PATIENTS_PER_DEGREE)
        degrees = (seeds + patients) ** 2 / parts
    return np.sqrt(seeds + patients), np.asarray(np.fmin(degrees, MOST_DEGREES))


def patient_variance_at(evidence: Evidence, difference: ArrayLike) -> Floats:
    """Return the patient variance of an estimated difference, if `difference` is the true one.

    The estimated variance belongs to the estimated difference; it is increased as the binormal model predicts and never
    decreased. With few patients the two arms rank hardly any of them differently, and the estimate is mostly noise, so it is
    averaged with the binormal variance, which has the weight of `PRIOR_PATIENTS`.

    Source: after the score interval of paired proportions, Tango 1998, "Equivalence test and confidence interval for the
    difference in proportions for the paired-sample design".
    """
    here = placement_variance(*around(evidence.mean_auroc, evidence.difference))
    there = placement_variance(*around(evidence.mean_auroc, difference))
    estimated = np.maximum(evidence.patient_variance, 0) * np.maximum(there / here, 1)
    prior = 4 / evidence.effective_patients * there
    weight = PRIOR_PATIENTS / (evidence.effective_patients + PRIOR_PATIENTS)
    return np.asarray((1 - weight) * estimated + weight * prior)


def hillis_interval(*, difference: float, mean_square: float, excess_covariance: float, readers: int) -> HillisInterval:
    """The interval of Obuchowski & Rockette for two treatments, random readers and random cases.

    It uses the variance at the estimate; `score_interval` gives the same interval if there are many patients.

    Args:
        difference: Mean over readers.
        mean_square: MS(treatment x reader): half the sample variance of the readers' differences.
        excess_covariance: Cov2 - Cov3: how much more two readers' figures covary, over other cases, within a treatment than
            across treatments. A negative one counts as 0.
        readers: At least 2.

    Source: Obuchowski & Rockette 1995, "Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests";
    degrees of freedom: Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer ROC
    analysis", equation 9.
    """
    denominator = mean_square + max(readers * excess_covariance, 0.0)
    standard_error = math.sqrt(2 / readers * denominator)
    degrees = float(degrees_of_freedom(mean_square, denominator, readers))
    width, width_90 = (float(stdtrit(degrees, quantile)) * standard_error for quantile in (0.975, 0.95))
    if standard_error > 0:
        p_value = 2 * float(stdtr(degrees, -abs(difference) / standard_error))
    else:
        p_value = float(difference == 0)
    return HillisInterval(
        difference=difference,
        standard_error=standard_error,
        degrees_of_freedom=degrees,
        low=difference - width,
        high=difference + width,
        low_90=difference - width_90,
        high_90=difference + width_90,
        p_value=p_value,
    )


def degrees_of_freedom(mean_square: ArrayLike, denominator: ArrayLike, readers: int) -> Floats:
    """Hillis' degrees of freedom, elementwise: readers - 1 where patients add nothing, most where readers add nothing."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        degrees = np.divide(denominator, mean_square) ** 2 * (readers - 1)
    return np.asarray(np.fmin(degrees, MOST_DEGREES))  # of 0 / 0 the latter


def _variance_components(gaps: Floats, gap_influences: Floats) -> VarianceComponents:
    """Of differences [G, K] and their components [G, K, P], by the method of moments.

    With K = 1 classifier seeds cannot be told from GAN seeds; the GAN seeds' components hold both.
    """
    gan_seeds, classifier_seeds, patients = gap_influences.shape
    of_gan, influences_of_gan = gaps.mean(axis=1), gap_influences.mean(axis=1)
    across_gans = _mean_off_diagonal(influences_of_gan @ influences_of_gan.T)
    own = float((gap_influences**2).sum(axis=2).mean())
    within, within_gan = 0.0, own
    if classifier_seeds > 1:
        within = float(gaps.var(axis=1, ddof=1).mean())
        blocks = gap_influences @ gap_influences.transpose(0, 2, 1)
        within_gan = sum(_mean_off_diagonal(block) for block in blocks) / gan_seeds
    among = float(of_gan.var(ddof=1))
    return VarianceComponents(
        gan_seed=among - within / classifier_seeds - (within_gan - across_gans),
        classifier_seed=within - (own - within_gan),
        patient=across_gans * patients,
        patient_by_gan_seed=(within_gan - across_gans) * patients,
        patient_by_classifier_seed=(own - within_gan) * patients,
    )


def _mean_off_diagonal(matrix: Floats) -> float:
    count = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (count * (count - 1)))
