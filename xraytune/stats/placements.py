"""Variances and covariances of scores over patients: of AUROCs, and of means such as mean Dice.

The structural components of a network are one number for each patient. Their sum of squares is the
variance of the network's score, and the dot product of two networks' components is the covariance
of their scores.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, owens_t  # type: ignore[import-untyped]

from xraytune.base.arrays import AnyArray
from xraytune.base.errors import DataError
from xraytune.base.records import frozen
from xraytune.stats.classification import (
    Flags,
    Floats,
    Labels,
    are_averaged,
    one_against_rest,
    require_scorable,
    scored_findings,
)

DifferenceVariance: TypeAlias = Callable[[ArrayLike, ArrayLike], Floats]
"""Assumed variance over patients of the difference of two scores in [0, 1], elementwise, times a
quarter of the number of effective patients. `confirm` cannot estimate it from data alone."""


@frozen
class StructuralComponents:
    """Scores of R networks on the same images, with each patient's contribution to their variance.

    Attributes:
        scores: Scores in [0, 1], float64 [R]; in `confirm`, [A, K] by arm and replicate.
        components: Structural components of the sorted patients, float64 [R, P];
            `components @ components.T` is the covariance of the scores.
        effective_patients: For a mean, P. For AUROCs, 4 / (1/n + 1/m) for n patients of a class and
            m of the others, averaged over the classes if there are more than two: this many
            patients, split evenly between the classes, are equally informative. The numbers for
            several findings are combined like degrees of freedom, by Satterthwaite's formula: rare
            findings have the most variance, which is known from few patients.
        variance: Assumed variance of the score: `placement_variance`, `error_variance`,
            `proportion_variance`, or `even_variance` for a sample of sites.
        overlap: The share of its training patients that a replicate has in common with another one,
            averaged over all pairs (`mean_overlap`).
    """

    scores: Floats
    components: Floats
    effective_patients: float
    variance: DifferenceVariance
    overlap: float = 0.0

    def by_arm(self, count: int) -> Self:
        """Return scores and components by arm and replicate, of the networks of `count` arms."""
        by_patient = self.components.reshape(count, -1, self.components.shape[-1])
        return replace(self, scores=self.scores.reshape(count, -1), components=by_patient)

    def pair(self, first: int, second: int) -> Self:
        """Return the components of two of the arms."""
        arms = [first, second]
        return replace(self, scores=self.scores[arms], components=self.components[arms])


def sample_of_sites(scores: Floats) -> StructuralComponents:
    """Return scores [A, K] of arms at K sites, each within its site, as a sample of sites.

    The variance of a difference over sites contains the variances over patients and trainings. So
    all components are 0, and the interval of a difference follows from Student's t with K - 1
    degrees of freedom.
    """
    return StructuralComponents(
        scores=scores,
        components=np.zeros((*scores.shape, 1)),
        effective_patients=np.inf,
        variance=even_variance,
    )


def even_variance(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return the same variance for all pairs of scores: nothing is assumed about patients."""
    return np.ones(np.broadcast(first, second).shape)


def mean_overlap(draws: Sequence[Collection[str]]) -> float:
    """Return `StructuralComponents.overlap` of draws of equally many patients, without repeats."""
    times_drawn = np.array([*Counter(chain(*draws)).values()])
    shared = float((times_drawn * (times_drawn - 1)).sum())
    return shared / (len(draws) - 1) / float(times_drawn.sum())


def outside_components(
    labels: Labels,
    results: Floats,
    patients: Sequence[str],
    positive: int,
    overlap: float = 0.0,
) -> StructuralComponents:
    """Return `structural_components` of networks that are not all scored on the same images.

    The results of a network on images that it is not scored on are NaN. Patients without another
    image have a component of 0 for this network. So the covariance of two networks is the sum over
    the patients whom both are scored on. `scorable_labels` must have been applied to findings.
    """
    is_scored = ~np.isnan(results).any(axis=2)
    parts, part_of_network = np.unique(is_scored, axis=0, return_inverse=True)
    names = np.unique(np.asarray(patients))
    scores = np.zeros(len(results))
    components = np.zeros((len(results), len(names)))
    for index, part in enumerate(parts):
        networks = np.flatnonzero(part_of_network == index)
        part_patients = np.asarray(patients)[part]
        part_components = structural_components(
            labels[part], results[networks][:, part], part_patients.tolist(), positive
        )
        scores[networks] = part_components.scores
        columns = np.searchsorted(names, np.unique(part_patients))
        components[np.ix_(networks, columns)] = part_components.components
    effective, variance = assumed_variance(labels, results, patients, positive)
    return StructuralComponents(
        scores=scores,
        components=components,
        effective_patients=effective,
        variance=variance,
        overlap=overlap,
    )


def scorable_labels(labels: Labels, results: Floats, patients: Sequence[str]) -> Labels:
    """Return labels in which findings that some network cannot be scored on are unknown.

    `results` are as for `outside_components`. So all networks are scored on the same findings.
    """
    names = np.asarray(patients)
    if labels.ndim == 1:
        return labels
    scorable = {*range(labels.shape[1])}
    for part in np.unique(~np.isnan(results).any(axis=2), axis=0):
        if part.any():  # a network that left another site out is scored on none of these images
            scorable &= {*findings_with_intervals(labels[part], names[part])}
    is_scorable = np.isin(np.arange(labels.shape[1]), [*scorable])
    return np.where(is_scorable, labels, -1)


def findings_with_intervals(labels: Labels, patients: Sequence[str] | AnyArray) -> list[int]:
    """Return the `scored_findings`, [N, C], that several patients have and several lack."""
    names = np.asarray(patients)
    return [
        index
        for index in scored_findings(labels)
        if all(len(np.unique(names[labels[:, index] == state])) > 1 for state in (0, 1))
    ]


def assumed_variance(
    labels: Labels, results: Floats, patients: Sequence[str], positive: int
) -> tuple[float, DifferenceVariance]:
    """Return the effective patients and the assumed variance of `StructuralComponents`."""
    if are_averaged(labels, results):
        return float(len({*patients})), error_variance
    effective, share = effective_patients(labels, patients, positive)
    return effective, partial(placement_variance, share=share)


def structural_components(
    labels: Labels, probabilities: Floats, patients: Sequence[str], positive: int
) -> StructuralComponents:
    """Return AUROCs (`stats.classification.auroc`), and each patient's structural components.

    The components of a mean of AUROCs, over classes or findings, are the means of the components of
    these AUROCs. Results with a single column, such as Dice, are averaged (`mean_components`).

    The placement of a positive image is the share of negative images that score below it, and the
    placement of a negative image is the share of positive images that score above it; ties count
    one half. A patient's component is the sum over their images of (placement - AUROC) / images of
    that side, times sqrt(n / (n - 1)) for the n patients with images on that side.

    With one image per patient, `components @ components.T` is the covariance matrix of DeLong et
    al. 1988. With several, it is the covariance matrix of Obuchowski 1997, except for patients with
    images on both sides: she multiplies their term by n / (n - 1) of all patients, whereas here the
    factor is the geometric mean of the two sides' factors, so that no variance is negative.

    Args:
        labels: Class numbers, int64 [N], or findings, [N, C].
        probabilities: Results of R networks, float64 [R, N, C].
        patients: The patient of each image, [N].
        positive: The class whose probability is the score if there are two classes.

    Raises:
        DataError: A class has no image, no finding can be scored, or all images of a side belong to
            one patient.
        ValueError: A probability is not finite.

    From: DeLong, DeLong & Clarke-Pearson 1988, "Comparing the areas under two or more correlated
    ROC curves", equations 4 to 7; Obuchowski 1997, "Nonparametric analysis of clustered ROC curve
    data", section 2. Placements by ranks: Sun & Xu 2014, "Fast implementation of DeLong's
    algorithm".
    """
    if are_averaged(labels, probabilities):
        return mean_components(probabilities[..., 0], patients)
    require_scorable(labels, probabilities)
    _, patient_of_image = np.unique(np.asarray(patients), return_inverse=True)
    sides = one_against_rest(labels, probabilities.shape[2], positive)
    parts = [
        _components(is_class, is_other, probabilities[:, :, index], patient_of_image)
        for index, is_class, is_other in sides
    ]
    effective, variance = assumed_variance(labels, probabilities, patients, positive)
    return StructuralComponents(
        scores=np.mean([aurocs for aurocs, _ in parts], axis=0),
        components=np.mean([components for _, components in parts], axis=0),
        effective_patients=effective,
        variance=variance,
    )


def effective_patients(
    labels: Labels, patients: Sequence[str], positive: int
) -> tuple[float, float]:
    """Return `StructuralComponents.effective_patients`, and the share for `placement_variance`.

    Every class must have an image, or at least one finding must be scorable.
    """
    names = np.asarray(patients)
    sides = [sides for _, *sides in one_against_rest(labels, int(labels.max()) + 1, positive)]
    pair_patients = np.array(
        [4 / sum(1 / len(np.unique(names[side])) for side in pair) for pair in sides]
    )
    if labels.ndim == 1:
        return float(pair_patients.mean()), 1.0
    combined = float((1 / pair_patients).sum() ** 2 / (1 / pair_patients**3).sum())
    return combined, combined * float((1 / pair_patients).sum()) / len(pair_patients) ** 2


def _components(
    is_positive: Flags, is_negative: Flags, scores: Floats, patient_of_image: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Return AUROCs [R] and components [R, P] of scores [R, N].

    Images that are neither positive nor negative are ignored.
    """
    # Takes a third of a second, and trials need none.
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    is_known = is_positive | is_negative
    ranks = np.zeros_like(scores)
    ranks[:, is_known] = rankdata(scores[:, is_known], axis=1)
    deviations = np.zeros_like(scores)
    for side, is_other in ((is_positive, is_negative), (is_negative, is_positive)):
        below = ranks[:, side] - rankdata(scores[:, side], axis=1)
        share_below = below / np.count_nonzero(is_other)
        placements = share_below if side is is_positive else 1 - share_below
        aurocs = placements.mean(axis=1)
        weight = _weight(patient_of_image[side])
        deviations[:, side] = weight * (placements - aurocs[:, None])
    return aurocs, _sums(deviations, patient_of_image)


def mean_components(results: Floats, patients: Sequence[str]) -> StructuralComponents:
    """Return means over images, such as mean Dice, and each patient's structural components.

    A patient's component is the sum over their images of (result - mean) / N, times sqrt(P / (P -
    1)) for P patients. With one image per patient, `components @ components.T` is the usual
    covariance of means; with several, it is the cluster-robust covariance.

    Args:
        results: One result per network and image, float64 [R, N].
        patients: The patient of each image, [N].

    Raises:
        DataError: All images belong to one patient.
        ValueError: A result is not finite.

    Source: the mean is the ratio of the patients' sums to their numbers of images, whose variance
    is in Cochran 1977, "Sampling techniques", equation 6.13, for an infinite population.
    """
    if not np.isfinite(results).all():
        raise ValueError("results must be finite")
    names, patient_of_image = np.unique(np.asarray(patients), return_inverse=True)
    means = results.mean(axis=1)
    deviations = _weight(patient_of_image) * (results - means[:, None])
    return StructuralComponents(
        scores=means,
        components=_sums(deviations, patient_of_image),
        effective_patients=float(len(names)),
        variance=error_variance,
    )


def _weight(patient_of_image: NDArray[np.intp]) -> float:
    """Return sqrt(n / (n - 1)) / N for N images of n patients; raise DataError if n is 1."""
    count = len(np.unique(patient_of_image))
    if count < 2:
        raise DataError(
            "all images, or all of a class, belong to one patient, so a score has no interval",
            fix="evaluate on at least two patients of every class",
        )
    return float(np.sqrt(count / (count - 1))) / len(patient_of_image)


def _sums(values: Floats, patient_of_image: NDArray[np.intp]) -> Floats:
    """Sum values [R, N] over the images of each patient: [R, P]."""
    order = np.argsort(patient_of_image, kind="stable")
    starts = np.flatnonzero(np.diff(patient_of_image[order], prepend=-1))
    return np.asarray(np.add.reduceat(values[:, order], starts, axis=1))


WITHIN_ARM = 0.85
ACROSS_ARMS = 0.8
"""Assumed correlations of two replicates' errors on an image: within an arm, and between arms."""
SAME_HITS = 0.85
"""Assumed correlation of two arms' shares of replicates that classify an image correctly."""
_QUANTILE = float(ndtri(0.975))
_NEAREST = 1e-6
"""Smallest distance to an AUROC of 0 or 1."""
_ERROR_VARIATION = 0.5
"""Assumed standard deviation of 1 - Dice over patients, as a multiple of its mean
(docs/decisions/0010)."""


def placement_variance(
    first: ArrayLike, second: ArrayLike, share: float = 1.0, *, within: float = WITHIN_ARM
) -> Floats:
    """Return the variance of a patient's contribution to the difference of two AUROCs, elementwise.

    Scores are assumed to be normal with equal variances in both classes (binormal model). With n
    patients of one class and m of the other, the variance of the difference is the returned value
    times 1/n + 1/m. The difference is between the means of many replicates or, if `within` is 1,
    between single replicates of the arms. For means over findings, `share` multiplies the variance.
    """
    above, below = (ndtri(np.clip(auroc, _NEAREST, 1 - _NEAREST)) for auroc in (first, second))
    within_arm = _bivariate(above, above, within / 2) + _bivariate(below, below, within / 2)
    gap = ndtr(above) - ndtr(below)
    variance = within_arm - 2 * _bivariate(above, below, ACROSS_ARMS / 2) - gap**2
    return np.asarray(share * np.maximum(variance, _NEAREST**2))


def error_variance(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return a quarter of the variance of a patient's difference in Dice, elementwise.

    An arm's error, 1 - Dice, is assumed to have a coefficient of variation of `_ERROR_VARIATION`
    over patients. Errors correlate by `WITHIN_ARM` and `ACROSS_ARMS`, as for AUROC.
    """
    error, other_error = (1 - np.asarray(dice) for dice in (first, second))
    variance = WITHIN_ARM * (error**2 + other_error**2) - 2 * ACROSS_ARMS * error * other_error
    return np.asarray(np.maximum(_ERROR_VARIATION**2 / 4 * variance, _NEAREST**2))


def proportion_variance(first: ArrayLike, second: ArrayLike, share: float = 1.0) -> Floats:
    """Return a quarter of the variance of a patient's difference in a proportion, elementwise.

    An image is classified correctly or not, as for balanced accuracy, and two arms correlate by
    `SAME_HITS`. For other outcomes, `share` multiplies the variance.
    """
    proportions = (np.asarray(first), np.asarray(second))
    variances = [np.clip(proportion * (1 - proportion), 0, 1) for proportion in proportions]
    covariance = SAME_HITS * np.sqrt(variances[0] * variances[1])
    variance = share / 4 * (variances[0] + variances[1] - 2 * covariance)
    return np.asarray(np.maximum(variance, _NEAREST**2))


def scores_from_difference(mean: ArrayLike, difference: ArrayLike) -> tuple[Floats, Floats]:
    """Return two AUROCs with a given mean and difference.

    The mean is shifted if needed to keep both within [0, 1].
    """
    offset = np.asarray(difference) / 2
    half = np.abs(offset)
    centre: Floats = np.clip(mean, half, np.maximum(1 - half, half))
    return centre + offset, centre - offset


def auroc_interval(auroc: float, effective_patients: float) -> tuple[float, float]:
    """Return the 95 % interval of an AUROC measured on this many effective patients (2 or more).

    The interval is a score interval: it contains the true AUROCs from which the measured AUROC is
    at most 1.96 standard errors away, with the standard error computed for the true AUROC. At an
    AUROC of 1, where estimated variances vanish, the interval still has a width. It covers the same
    model on other patients, but not the selection of a model: the AUROC of the best of many trials
    is optimistic.

    Source: variance by Hanley & McNeil 1982, "The meaning and use of the area under a receiver
    operating characteristic (ROC) curve"; solved for the true AUROC as in method 5 of Newcombe
    2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part
    2".
    """
    from scipy.optimize import brentq  # type: ignore[import-untyped]  # trials need none

    def lower_end(auroc: float) -> float:
        def excess(true: float) -> float:
            return auroc - true - _QUANTILE * _standard_error(true, effective_patients)

        return float(brentq(excess, 0.0, min(auroc, 1 - _NEAREST))) if auroc > 0 else 0.0

    return lower_end(auroc), 1 - lower_end(1 - auroc)


def chance_difference(auroc: float, effective_patients: float) -> float:
    """Return the difference in AUROC that two equally good trials exceed in only 5 % of cases.

    The trials' errors on an image are assumed to correlate by `ACROSS_ARMS`, as in `confirm`.
    """
    correlated = np.sqrt(2 * (1 - ACROSS_ARMS))
    return float(_QUANTILE * _standard_error(auroc, effective_patients) * correlated)


def _standard_error(auroc: float, effective_patients: float) -> float:
    """Return Hanley and McNeil's standard error with half of the patients in each class."""
    per_class = effective_patients / 2
    pairs = 1 + (per_class - 1) * ((1 - auroc) / (2 - auroc) + auroc / (1 + auroc))
    return float(np.sqrt(auroc * (1 - auroc) * pairs) / per_class)


def _bivariate(first: Floats, second: Floats, correlation: float) -> Floats:
    """Return P(X <= first and Y <= second) of standard normal X and Y.

    From: Owen 1956, "Tables for computing bivariate normal probabilities", equation 2.1.
    """
    first, second = (
        np.where(np.abs(value) < _NEAREST, _NEAREST, value) for value in (first, second)
    )
    root = np.sqrt(1 - correlation**2)
    one = owens_t(first, (second / first - correlation) / root)
    other = owens_t(second, (first / second - correlation) / root)
    return np.asarray((ndtr(first) + ndtr(second)) / 2 - (one + other) - (first * second < 0) / 2)
