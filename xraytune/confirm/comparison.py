"""The AUROC difference of two arms, with an interval over other patients and other seeds at once.

Takes the AUROCs of two arms' replicates (GAN seeds, classifier seeds nested in them) and the patients' influences on them,
gives the difference with its intervals and what its variance is made of. Five seeds are few and a thousand images are
few, and the two errors are of the same size here; an interval over one of them alone would be too narrow.

The GAN seeds are the readers of a multi-reader multi-case study: drawn at random, each scoring the same patients in both
arms. An arm without a GAN has replicates too; there the pair of seeds only names them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]  # Student's t: its cdf, and the inverse

from xraytune.errors import ConfigError, Problem
from xraytune.metrics.classification import Floats

MOST_DEGREES = 1e6
"""Where Student's t is the normal distribution to six digits. Infinity would be no JSON number."""


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
        aurocs: The means of the two arms.
        patients: Patients in the test folder.
        gan_seeds: GAN seeds.
        classifier_seeds: Classifier seeds of each.
        components: Where the uncertainty comes from.
        is_saturated: Whether both arms rank every image right (or every one wrong) with every seed. Then no influence
            differs from 0 and the interval is a point, which is no knowledge about other patients.
    """

    interval: HillisInterval
    aurocs: tuple[float, float]
    patients: int
    gan_seeds: int
    classifier_seeds: int
    components: VarianceComponents
    is_saturated: bool


def compare(aurocs: Floats, influences: Floats) -> Comparison:
    """Compare arm 0 with arm 1.

    Classifier seeds are averaged within their GAN seed. Swapping the arms changes the signs and nothing else; the same arm
    twice gives the difference 0 and the interval from 0 to 0.

    Args:
        aurocs: float64 [2, G, K]: arm, GAN seed, classifier seed; G >= 2.
        influences: float64 [2, G, K, P], as `patient_influences` has them, on the same P patients throughout.

    Raises:
        ConfigError: A single GAN seed.
    """
    _, gan_seeds, classifier_seeds, patients = influences.shape
    if gan_seeds < 2:
        what = "confirm.gan_seeds: with one seed, chance cannot be told from an effect"
        raise ConfigError(Problem(what, fix="take at least 2, better 5"))
    # Differences first: they are exactly 0 for equal arms, and exactly opposite for swapped ones.
    gaps, gap_influences = aurocs[0] - aurocs[1], influences[0] - influences[1]
    of_gan, influences_of_gan = gaps.mean(axis=1), gap_influences.mean(axis=1)
    means = aurocs.mean(axis=(1, 2))
    return Comparison(
        interval=hillis_interval(
            difference=float(of_gan.mean()),
            mean_square=float(of_gan.var(ddof=1)) / 2,
            excess_covariance=_mean_off_diagonal(influences_of_gan @ influences_of_gan.T) / 2,
            readers=gan_seeds,
        ),
        aurocs=(float(means[0]), float(means[1])),
        patients=patients,
        gan_seeds=gan_seeds,
        classifier_seeds=classifier_seeds,
        components=_variance_components(gaps, gap_influences),
        is_saturated=not influences.any(),
    )


def hillis_interval(*, difference: float, mean_square: float, excess_covariance: float, readers: int) -> HillisInterval:
    """The interval of Obuchowski & Rockette for two treatments, random readers and random cases.

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
    """Of differences [G, K] and their influences [G, K, P], by the method of moments.

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
