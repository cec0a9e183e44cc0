"""Forecast the verdict of a design before the test folder is scored.

Estimates from images that are already scored (val-B) how much the differences between a finalist and its controls vary, and
gives the probability of each verdict on a test folder of another size, with more GAN seeds, at another score. The observed
differences are not used: observed power only restates the p-value (Hoenig & Heisey 2001, "The abuse of power"). Studies are
simulated, and each goes through the tests of `verdict.py`, against all controls together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq  # type: ignore[import-untyped]

from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import Floats
from xraytune.stats.placements import ScoreModel, StructuralComponents, around
from xraytune.stats.verdict import (
    LEVEL,
    PRIOR_PATIENTS,
    ControlKind,
    Evidence,
    Overall,
    PairTests,
    overall_verdict,
    pair_tests,
    verdicts_of,
)

_STUDIES = 2000
_WORDS: tuple[Overall, ...] = ("helps", "hurts", "no_better", "undecided")
_LEAST_VARIANCE = 1e-12
_LEAST_ROUGHNESS = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a finalist's differences from its M controls vary, in squared score.

    Seeds have two variances: the finalist's, common to all of its differences, and the controls', averaged over them; five
    seeds are too few to estimate more.

    Attributes:
        score: Mean of all arms on the images that the spread was estimated from.
        effective_patients: Effective patients of these images.
        patients: Covariances [M, M] over patients, common to all seeds, per effective patient.
        seeds: Variances per GAN seed (classifier seeds averaged) with infinitely many patients: finalist, controls.
        seeds_by_patients: Variances of the seed-by-patient interaction, per effective patient: finalist, controls.
        level: Variance of the mean score of all arms, per effective patient.
        roughness: Squared coefficient of variation of an estimated patient variance, per effective patient.
        model: The variance model of the score.
    """

    score: float
    effective_patients: float
    patients: Floats
    seeds: tuple[float, float]
    seeds_by_patients: tuple[float, float]
    level: float
    roughness: float
    model: ScoreModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A possible test: its size, and the mean score of all arms on its test folder."""

    effective_patients: float
    gan_seeds: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictChances(Design):
    """The probability of each verdict if the finalist differs from every control by `true_difference`."""

    true_difference: float
    helps: float
    hurts: float
    no_better: float
    undecided: float

    @property
    def likeliest(self) -> tuple[Overall, float]:
        """The most probable verdict and its probability."""
        word = max(_WORDS, key=lambda word: getattr(self, word))
        return word, getattr(self, word)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The verdicts to expect on the first finalist, before the test folder is scored.

    `val_b_score` is the mean of the finalist and its controls on val-B. `chances` are by score on the test folder (that of
    val-B first), GAN seeds (the plan's first), and true difference (0, one and two ROPE).
    """

    metric: str
    gan_seeds: int
    val_b_score: float
    rope: float
    chances: tuple[VerdictChances, ...]

    def of_design(self, *, score: float, gan_seeds: int) -> tuple[VerdictChances, ...]:
        """Return the chances of one design, by true difference."""
        return tuple(chance for chance in self.chances if (chance.score, chance.gan_seeds) == (score, gan_seeds))

    @property
    def summary(self) -> str:
        """The most probable verdict if there is no difference, and the effect of more GAN seeds on it."""
        planned, *more = (
            chances for chances in self.chances if chances.score == self.val_b_score and not chances.true_difference
        )
        word, chance = planned.likeliest
        text = (
            f"If synthetic images make no difference, the most likely verdict of this design is {word} ({chance:.0%})"
        )
        with_more = [f"no_better {chances.no_better:.0%} with {chances.gan_seeds} GAN seeds" for chances in more]
        return text + (f"; {', '.join(with_more)}" if word == "undecided" and with_more else "")


def measure_spread(arms: StructuralComponents) -> Spread:
    """Estimate the spread from one set of images: scores [1 + M, G, K], G >= 2, of the finalist and then its controls."""
    scores, components, effective_patients = arms.scores, arms.components, arms.effective_patients
    differences = (scores[:1] - scores[1:]).mean(axis=2)
    of_patients = (components[:1] - components[1:]).mean(axis=2)
    seeds = differences.shape[1]
    total = of_patients.sum(axis=1)
    within = np.einsum("agp,bgp->ab", of_patients, of_patients)
    across = (total @ total.T - within) / (seeds * (seeds - 1))
    by_patients = within / seeds - across
    of_each = (total**2 - (of_patients**2).sum(axis=1)) / (seeds * (seeds - 1))  # sums to the diagonal of `across`
    mean_variance = max(float(np.trace(across)) / len(across), _LEAST_VARIANCE)
    roughness = float((of_each**2).sum(axis=1).mean()) / mean_variance**2
    return Spread(
        score=float(scores.mean()),
        effective_patients=effective_patients,
        patients=across * effective_patients,
        seeds=_common_and_rest(np.atleast_2d(np.cov(differences)) - by_patients),
        seeds_by_patients=_common_and_rest(by_patients * effective_patients),
        level=float((components.mean(axis=(0, 1, 2)) ** 2).sum()) * effective_patients,
        roughness=roughness * effective_patients,
        model=arms.model,
    )


def verdict_chances(
    spread: Spread, design: Design, kinds: Sequence[ControlKind], *, rope: float, true_difference: float
) -> VerdictChances:
    """Estimate the probability of each verdict if the finalist differs from every control, of these kinds, equally."""
    counts = count_verdicts(_simulate(spread, design, rope=rope, true_difference=true_difference), kinds)
    chances: dict[str, Any] = {word: counts[word] / _STUDIES for word in _WORDS}
    return VerdictChances(**asdict(design), true_difference=true_difference, **chances)


def count_verdicts(tests: PairTests, kinds: Sequence[ControlKind]) -> Counter[Overall]:
    """Count the studies by verdict, from tests [studies, M] of controls of M kinds.

    Studies with the same test outcomes are judged once.
    """
    first_of_holm = tests.p_better_by_rope.min(axis=1, keepdims=True) < LEVEL / len(kinds)
    outcomes = np.concatenate([tests.is_better, tests.is_worse, first_of_holm], axis=1)
    _, first, counts = np.unique(outcomes, axis=0, return_index=True, return_counts=True)
    verdicts: Counter[Overall] = Counter()
    for study, count in zip(first.tolist(), counts.tolist(), strict=True):
        verdicts[overall_verdict(verdicts_of(tests, study, kinds)).word] += count
    return verdicts


def detection_probability(spread: Spread, design: Design, *, true_difference: float) -> float:
    """Return the power against the first control: the probability that the 95 % interval excludes 0."""
    tests = _simulate(spread, design, rope=1.0, true_difference=true_difference)
    return float((tests.is_better[:, 0] | tests.is_worse[:, 0]).mean())


def probability_equivalent(spread: Spread, design: Design, *, rope: float, true_difference: float = 0.0) -> float:
    """Return the probability that the first control is called `equivalent`."""
    return float(_simulate(spread, design, rope=rope, true_difference=true_difference).is_equivalent[:, 0].mean())


def smallest_detectable_difference(spread: Spread, design: Design, *, power: float = 0.8) -> float | None:
    """Return the true difference from the first control that is detected with this power.

    None if even the largest difference possible at this score is detected less often.
    """

    def shortfall(difference: float) -> float:
        return detection_probability(spread, design, true_difference=difference) - power

    most = 2 * (1 - design.score)
    return float(brentq(shortfall, 0.0, most, xtol=1e-5)) if shortfall(most) > 0 else None


def _with_prior(spread: Spread) -> Floats:
    """Return the patients' covariances, averaged with the score model's at the weight that the tests give it.

    With few patients and scores near 1, hardly any patient is misranked, and the estimates alone look certain. In the
    model, half of a difference's variance is the finalist's, common to all of its differences.
    """
    count = len(spread.patients)
    prior = 2 * float(spread.model.variance(spread.score, spread.score)) * (np.eye(count) + np.ones((count, count)))
    weight = PRIOR_PATIENTS / (spread.effective_patients + PRIOR_PATIENTS)
    return np.asarray((1 - weight) * spread.patients + weight * prior)


def _simulate(spread: Spread, design: Design, *, rope: float, true_difference: float) -> PairTests:
    """Simulate studies and test them, each attribute [studies, M]; every call draws the same random numbers."""
    generator = numpy_generator(0, "forecast")
    controls, patients, model = len(spread.patients), design.effective_patients, spread.model
    # Test folders vary in difficulty for all arms alike; on easy ones all differences are smaller.
    separation_sd = np.sqrt(spread.level / model.steepness(spread.score) / patients)
    level = model.moved(design.score, separation_sd * generator.standard_normal((_STUDIES, 1)))
    of_level = _mean_of(model.steepness(level), 1.0)
    finalist, control = around(design.score, true_difference)
    usual = model.variance(spread.score, spread.score)
    equal, truth = (model.variance(*around(design.score, difference)) / usual for difference in (0.0, true_difference))
    harder = _mean_of(model.variance(level, level), equal)
    common, separate = (
        np.sqrt(np.maximum(seed * of_level * steeper + by_patients * harder / patients, 0))
        for seed, by_patients, steeper in zip(
            spread.seeds,
            spread.seeds_by_patients,
            (model.steepness(arm) / model.steepness(spread.score) for arm in (finalist, control)),
            strict=True,
        )
    )
    by_seed = common[..., None] * generator.standard_normal((_STUDIES, 1, design.gan_seeds))
    by_seed = by_seed + separate[..., None] * generator.standard_normal((_STUDIES, controls, design.gan_seeds))
    values, vectors = np.linalg.eigh(_with_prior(spread) / patients)
    root = vectors * np.sqrt(np.maximum(values, 0))
    by_patients = np.sqrt(harder) * (generator.standard_normal((_STUDIES, controls)) @ root.T)
    differences = _mean_of(np.sqrt(of_level), true_difference) + by_patients + by_seed.mean(axis=2)
    # The estimated patient variance belongs to the observed difference; its error is partly common to all controls.
    observed = _mean_of(model.variance(*around(level, differences)), truth)
    roughness = np.maximum(spread.roughness / patients / truth, _LEAST_ROUGHNESS)
    common_part, separate_part = (
        generator.gamma(share / roughness, roughness, (_STUDIES, width))
        for share, width in ((0.25, 1), (0.75, controls))
    )
    errors = common_part + separate_part
    evidence = Evidence(
        difference=differences,
        mean_score=level,
        seed_variance=by_seed.var(axis=2, ddof=1),
        patient_variance=(root**2).sum(axis=1) * observed * errors,
        gan_seeds=design.gan_seeds,
        effective_patients=patients,
        model=model,
    )
    return pair_tests(evidence, rope=rope)


def _mean_of(values: Floats, mean: ArrayLike) -> Floats:
    """Rescale the values to this mean."""
    return np.asarray(values * (mean / values.mean()))


def _common_and_rest(covariance: Floats) -> tuple[float, float]:
    """Split a variance into the mean covariance of two differences and the rest; with one difference all is common."""
    count, diagonal = len(covariance), float(np.trace(covariance)) / len(covariance)
    common = (float(covariance.sum()) - count * diagonal) / (count * (count - 1)) if count > 1 else diagonal
    return common, diagonal - common
