"""From the scores of two arms to a verdict: the difference, its interval, the decision rules.

The difference in score (AUROC, Dice) has an interval over both patients and replicates. The
replicates are the readers of a multi-reader multi-case study: sampled at random, each scoring the
same patients in both arms. A replicate has its own seeds and, if the study has enough patients, its
own training patients. Both sources of variance are of similar size, so an interval over one of them
alone would be too narrow. The interval is a score interval: it contains the differences that a test
does not reject, and the test of a difference uses the patient variance that this difference
implies. docs/decisions/0010 gives the reasons and the simulations.

`judge_pair` judges a pair of arms, and `overall_verdict` judges a finalist by all of its controls.
Both follow the rules of docs/confirm.md, each of which controls its error rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

# Student's t: cdf, quantiles
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

from xraytune.base.errors import ConfigError
from xraytune.base.records import frozen
from xraytune.stats.classification import Floats
from xraytune.stats.placements import (
    DifferenceVariance,
    StructuralComponents,
    scores_from_difference,
)

Overall: TypeAlias = Literal["hurts", "helps", "no_better", "undecided", "invalid"]
"""The verdict on an arm; `invalid` if its synthetic images are copies of scored images."""
PairWord: TypeAlias = Literal["better", "worse", "equivalent", "undecided"]
MatchedKind: TypeAlias = Literal["none", "duplicate"]
ControlKind: TypeAlias = Literal[MatchedKind, "tuned", "donor", "donor_start", "synthetic_only"]
"""Kind of a control: matched without extra images (`none`) or with repeated real images
(`duplicate`), tuned, or one of the `DonorControl` kinds for extra images from elsewhere."""
MATCHED: tuple[MatchedKind, ...] = ("none", "duplicate")

LEVEL = 0.05
"""Significance level of each claim: of a two-sided test for `better`, `worse` and `no_better`, and
of each of two one-sided tests for `equivalent`."""
MOST_DEGREES = 1e6
"""Upper limit of degrees of freedom, since JSON has no infinity. At this limit, Student's t equals
the normal distribution to six digits."""
PRIOR_PATIENTS = 20
"""Weight, in patients, of the variance predicted by the score model, against the estimate."""
PATIENTS_PER_DEGREE = 8
"""Effective patients per degree of freedom of the patient variance. Only the patients that two arms
rank differently contribute to a difference in AUROC, and mostly a few difficult patients contribute
to a difference in mean Dice."""
_GRID = 400
_LEAST_VARIANCE = 1e-24
"""Lower limit of the variance of a difference. It keeps the test defined if the differences at all
sites are equal."""


@frozen
class Evidence:
    """The inputs of a test of a difference.

    Attributes:
        difference: Estimated score of the first arm minus the score of the second.
        mean_score: Mean of the two arms' scores.
        replicate_variance: Sample variance of the difference over replicates, increased if these
            share training patients.
        patient_variance: Variance of the difference over patients, given these replicates; a
            negative estimate counts as 0.
        replicates: Number of replicates, at least 2.
        effective_patients, variance: As in `StructuralComponents`.
    """

    difference: float
    mean_score: float
    replicate_variance: float
    patient_variance: float
    replicates: int
    effective_patients: float
    variance: DifferenceVariance


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference with its 95 % and 90 % intervals, and the two-sided p-value of no difference."""

    difference: float
    standard_error: float
    degrees_of_freedom: float
    low: float
    high: float
    low_90: float
    high_90: float
    p_value: float


def compare(pair: StructuralComponents) -> Interval:
    """Compare two arms: scores [2, K] by arm and replicate.

    Raises ConfigError with fewer than two replicates.
    """
    return score_interval(estimate_evidence(pair))


def patient_interval(pair: StructuralComponents) -> Interval:
    """Compare two networks, with scores [2], by an interval over patients alone."""
    by_patient = pair.components[0] - pair.components[1]
    evidence = Evidence(
        difference=float(pair.scores[0] - pair.scores[1]),
        mean_score=float(pair.scores.mean()),
        replicate_variance=0.0,
        patient_variance=float(by_patient @ by_patient),
        replicates=2,
        effective_patients=pair.effective_patients,
        variance=pair.variance,
    )
    return score_interval(evidence)


def variance_components(pair: StructuralComponents) -> dict[str, float]:
    """Return the variance components of the difference between two arms, in squared score.

    They are unbiased moment estimates, which may be negative. `replicate` is the variance per
    replicate with infinitely many patients, `patient` is the variance per patient that all
    replicates share, and `patient_by_replicate` is the interaction of both, per patient.
    """
    evidence = estimate_evidence(replace(pair, overlap=0.0))
    by_patient = pair.components[0] - pair.components[1]
    patients = by_patient.shape[1]
    interaction = float((by_patient**2).sum(axis=1).mean()) - evidence.patient_variance
    return {
        "replicate": (evidence.replicate_variance - interaction) / (1 - pair.overlap),
        "patient": evidence.patient_variance * patients,
        "patient_by_replicate": interaction * patients,
    }


def estimate_evidence(pair: StructuralComponents) -> Evidence:
    """Return the evidence that `compare` tests; arguments and exceptions are the same.

    Training patients that replicates share vary their mean, but not the replicates around it. If
    they are a share of s (`overlap`), the variance of the mean is larger by s / (1 - s) times the
    part of the sample variance that the interaction with the scored patients does not explain.

    From: Nadeau & Bengio 2003, "Inference for the generalization error", section 3, for replicates
    that share test images; docs/decisions/0056 has the derivation.
    """
    replicates = pair.scores.shape[1]
    if replicates < 2:
        raise ConfigError(
            "confirm.replicates: a single one gives no estimate of the variance between them",
            fix="use at least 4, preferably 5",
        )
    # Differences first, so that swapping the arms exactly flips their signs.
    differences, by_patient = (arms[0] - arms[1] for arms in (pair.scores, pair.components))
    covariance = by_patient @ by_patient.T
    across_replicates = covariance.sum() - np.trace(covariance)
    patient_variance = float(across_replicates / (replicates * (replicates - 1)))
    sample_variance = float(differences.var(ddof=1))
    interaction = float(np.trace(covariance)) / replicates - patient_variance
    training_variance = max(sample_variance - interaction, 0) * pair.overlap / (1 - pair.overlap)
    return Evidence(
        difference=float(differences.mean()),
        mean_score=float(pair.scores.mean()),
        replicate_variance=sample_variance + replicates * training_variance,
        patient_variance=patient_variance,
        replicates=replicates,
        effective_patients=pair.effective_patients,
        variance=pair.variance,
    )


def p_values(evidence: Evidence, difference: ArrayLike) -> tuple[Floats, Floats]:
    """Return the one-sided p-values of two hypotheses on the true difference.

    The first hypothesis is that it is at most `difference`, the second that it is at least this.
    """
    error, degrees = _error_at(evidence, difference)
    distance = (np.asarray(difference) - evidence.difference) / error
    return np.asarray(stdtr(degrees, distance)), np.asarray(stdtr(degrees, -distance))


def score_interval(evidence: Evidence) -> Interval:
    """Return the 95 % and 90 % ranges of differences that neither one-sided test rejects."""
    from scipy.optimize import brentq  # type: ignore[import-untyped]

    centre = evidence.difference

    def end(quantile: float, sign: int) -> float:
        def excess(distance: float) -> float:
            error, degrees = _error_at(evidence, centre + sign * distance)
            return float(distance - stdtrit(degrees, quantile) * error)

        # With few patients near the ceiling, differences beyond a rejected one may be accepted
        # again, so the interval ends at the last accepted difference.
        distances = np.linspace(0.0, 1 - sign * centre, _GRID)
        errors, degrees = _error_at(evidence, centre + sign * distances)
        last = int(np.flatnonzero(distances <= stdtrit(degrees, quantile) * errors)[-1])
        if last == len(distances) - 1:
            return centre + sign * float(distances[last])
        return centre + sign * float(
            brentq(excess, distances[last], distances[last + 1], xtol=1e-12)
        )

    error, degrees = _error_at(evidence, centre)
    one_sided = min(map(float, p_values(evidence, 0.0)))
    return Interval(
        difference=centre,
        standard_error=float(error),
        degrees_of_freedom=float(degrees),
        low=end(0.975, -1),
        high=end(0.975, 1),
        low_90=end(0.95, -1),
        high_90=end(0.95, 1),
        p_value=min(2 * one_sided, 1.0),
    )


def _error_at(evidence: Evidence, difference: ArrayLike) -> tuple[Floats, Floats]:
    """Return the standard error and degrees of freedom of the estimate if `difference` is true.

    From: Satterthwaite 1946, "An approximate distribution of estimates of variance components";
    Hillis' formula in the limit of infinitely many patients.
    """
    patient_variance = patient_variance_at(evidence, difference)
    replicate_variance = evidence.replicate_variance / evidence.replicates
    total = np.maximum(replicate_variance + patient_variance, _LEAST_VARIANCE)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = (
            replicate_variance**2 / (evidence.replicates - 1)
            + patient_variance**2 / evidence.effective_patients * PATIENTS_PER_DEGREE
        )
        degrees = np.fmin(total**2 / parts, MOST_DEGREES)
    return np.sqrt(total), np.asarray(degrees)


def patient_variance_at(evidence: Evidence, difference: ArrayLike) -> Floats:
    """Return the patient variance of an estimated difference if `difference` is the true one.

    The variance is estimated at the estimated difference. For another difference, the estimate is
    increased by the factor that the score's model predicts, and never decreased. With few patients,
    the arms differ in hardly any of them, and the estimate is mostly noise. So it is averaged with
    the variance that the model predicts, which has a weight of `PRIOR_PATIENTS`.

    Source: after the score interval for paired proportions, Tango 1998, "Equivalence test and
    confidence interval for the difference in proportions for the paired-sample design".
    """
    variance_here = evidence.variance(
        *scores_from_difference(evidence.mean_score, evidence.difference)
    )
    variance_there = evidence.variance(*scores_from_difference(evidence.mean_score, difference))
    estimated = max(evidence.patient_variance, 0) * np.maximum(variance_there / variance_here, 1)
    prior = 4 / evidence.effective_patients * variance_there
    weight = PRIOR_PATIENTS / (evidence.effective_patients + PRIOR_PATIENTS)
    return np.asarray((1 - weight) * estimated + weight * prior)


@dataclass(frozen=True, kw_only=True)
class PairVerdict:
    """The tests of a finalist against one of its controls.

    Attributes:
        control: The control's name.
        kind: The control's kind.
        verdict: All words that hold: `better` or `worse` if the 95 % interval is above or below 0,
            `equivalent` if the 90 % interval is inside the region of practical equivalence. Two
            words hold if a significant difference is too small to matter. If none holds, the word
            is `undecided`.
        p_better_by_rope: One-sided p-value of "the true difference is one ROPE or more".
    """

    control: str
    kind: ControlKind
    verdict: tuple[PairWord, ...]
    p_better_by_rope: float

    @property
    def is_better(self) -> bool:
        """Whether the finalist is better than this control."""
        return "better" in self.verdict

    @property
    def is_worse(self) -> bool:
        """Whether the finalist is worse than this control."""
        return "worse" in self.verdict


def judge_pair(
    evidence: Evidence, *, rope: float, control: str = "", kind: ControlKind = "tuned"
) -> PairVerdict:
    """Return the verdict on a difference, finalist minus control.

    `rope` is the equivalence margin, which must be positive.

    Origin of equivalence as two one-sided tests of 5 %: Schuirmann 1987, "A comparison of the two
    one-sided tests procedure and the power approach".
    """
    at_most, at_least = p_values(evidence, [0.0, rope, -rope])
    applies: dict[PairWord, np.bool_] = {
        "better": at_most[0] < LEVEL / 2,
        "worse": at_least[0] < LEVEL / 2,
        "equivalent": max(at_least[1], at_most[2]) < LEVEL,
    }
    return PairVerdict(
        control=control,
        kind=kind,
        verdict=tuple(word for word in applies if applies[word]) or ("undecided",),
        p_better_by_rope=float(at_least[1]),
    )


def overall_verdict(comparisons: Sequence[PairVerdict]) -> tuple[Overall, tuple[str, ...]]:
    """Judge a finalist by its comparisons with all controls.

    Returns:
        The first word that holds of `hurts`, `helps`, `no_better` and `undecided`, and the controls
        that it rests on. For `hurts`, these are the matched controls; for `helps`, all controls
        except `synthetic_only`; for `no_better`, the controls over which an improvement is ruled
        out; for `undecided`, the controls that the finalist is not better than.

    Origin of the intersection-union test: Berger 1982, "Multiparameter hypothesis testing and
    acceptance sampling". Origin of `no_better`: Holm 1979, "A simple sequentially rejective
    multiple test procedure".
    """
    matched = [pair for pair in comparisons if pair.kind in MATCHED]
    # Only both controls together tell the effect of synthetic images from that of more images.
    has_both = {pair.kind for pair in matched} == {*MATCHED}
    # Synthetic images help even if they do as well alone, so this control is only reported.
    comparisons = [pair for pair in comparisons if pair.kind != "synthetic_only"]
    unbeaten = [pair for pair in comparisons if not pair.is_better]
    no_better = _rule_out_improvement(comparisons)
    word: Overall = "undecided"
    pairs: Sequence[PairVerdict] = unbeaten
    if has_both and all(pair.is_worse for pair in matched):
        word = "hurts"
        pairs = matched
    elif comparisons and not unbeaten:
        word = "helps"
        pairs = comparisons
    elif no_better:
        word = "no_better"
        pairs = no_better
    return word, tuple(pair.control for pair in pairs)


def decisive_rope(comparisons: Sequence[Interval]) -> float:
    """Return the smallest ROPE that comparisons of these precisions decide, whatever they find.

    If the finalist is not better than a control, the estimated difference is no larger than half of
    its 95 % interval. So the ROPE must exceed this half and that of the interval at the level of
    Holm's first step, for an improvement over this control to be ruled out.
    """
    ropes = []
    for pair in comparisons:
        usual, first_step = stdtrit(
            pair.degrees_of_freedom, [1 - LEVEL / 2, 1 - LEVEL / 2 / len(comparisons)]
        )
        ropes.append((pair.high - pair.low) / 2 * (1 + first_step / usual))
    return float(max(ropes))


def _rule_out_improvement(comparisons: Sequence[PairVerdict]) -> list[PairVerdict]:
    """Return the controls over which an improvement of one ROPE is ruled out, in order."""
    ranked = sorted(comparisons, key=lambda pair: pair.p_better_by_rope)
    ruled_out = []
    for index, pair in enumerate(ranked):
        if pair.p_better_by_rope >= LEVEL / 2 / (len(ranked) - index):
            break
        ruled_out.append(pair)
    return [pair for pair in comparisons if pair in ruled_out]
