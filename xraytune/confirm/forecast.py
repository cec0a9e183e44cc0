"""Forecast the verdict of a design before the test folder is opened.

Takes how much the differences between a finalist and its controls vary on images that are already scored (val-B), gives
the probability of each verdict on a test folder of another size, with more GAN seeds, at another AUROC. The observed
differences are not used: observed power only restates the p-value (Hoenig & Heisey 2001, "The abuse of power"). Studies are
simulated, and each goes through the tests of `verdict.py`, against all controls at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.stats import norm  # type: ignore[import-untyped]

from xraytune.confirm.comparison import PRIOR_PATIENTS, Evidence
from xraytune.confirm.verdict import LEVEL, Likeness, Overall, PairTests, overall, pair_tests, verdicts_of
from xraytune.metrics.classification import Floats
from xraytune.metrics.placements import around, placement_variance
from xraytune.seeding import numpy_generator

_DRAWS = 2000
_NEAREST = 1e-4
_LEAST_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a finalist's differences from its M controls vary, in squares of AUROC.

    Seeds have two variances: the finalist's, common to all of its differences, and the controls' own, averaged over
    them; five seeds are too few to estimate more.

    Attributes:
        auroc: Mean of all arms, on the images that the spread was measured on.
        effective_patients: On these images.
        patients: Covariances [M, M] over patients, common to all seeds, per effective patient.
        seeds: Variances of one GAN seed (its classifier seeds averaged), with infinitely many patients: common, own.
        seeds_by_patients: Variances of the seed-by-patient interaction, per effective patient: common, own.
        level: Variance of the mean AUROC of all arms, per effective patient.
        roughness: Squared coefficient of variation of an estimated patient variance, per effective patient.
    """

    auroc: float
    effective_patients: float
    patients: Floats
    seeds: tuple[float, float]
    seeds_by_patients: tuple[float, float]
    level: float
    roughness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The size of a possible test.

    Attributes:
        effective_patients: In the test folder, as `structural_components` counts them.
        gan_seeds: At least 2.
        auroc: Of all arms, on the test folder.
    """

    effective_patients: float
    gan_seeds: int
    auroc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictChances:
    """The probability of each verdict.

    Attributes:
        design: The design.
        true_difference: Of the finalist from every control, in AUROC.
        helps: Share of studies.
        hurts: Share of studies.
        no_better: Share of studies.
        undecided: Share of studies.
    """

    design: Design
    true_difference: float
    helps: float
    hurts: float
    no_better: float
    undecided: float

    @property
    def likeliest(self) -> tuple[Overall, float]:
        """The most probable verdict and its probability."""
        chances: dict[Overall, float] = {
            "helps": self.helps,
            "hurts": self.hurts,
            "no_better": self.no_better,
            "undecided": self.undecided,
        }
        return max(chances.items(), key=lambda chance: chance[1])

    def to_json(self) -> dict[str, Any]:
        """One flat record."""
        record = asdict(self)
        return {**record.pop("design"), **record}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The verdicts to expect on the first finalist, before the test folder is opened.

    Attributes:
        gan_seeds: Number of GAN seeds of the plan.
        val_b_auroc: Mean of the finalist and its controls on val-B.
        rope: Half the width of the region of practical equivalence, in AUROC.
        chances: By AUROC on the test folder (that of val-B first), GAN seeds (the plan's first), and true difference (0, one
            and two ROPE).
    """

    gan_seeds: int
    val_b_auroc: float
    rope: float
    chances: tuple[VerdictChances, ...]

    def of_design(self, *, auroc: float, gan_seeds: int) -> tuple[VerdictChances, ...]:
        """The chances with one AUROC and one number of GAN seeds, by true difference."""
        return tuple(one for one in self.chances if one.design.auroc == auroc and one.design.gan_seeds == gan_seeds)

    @property
    def as_text(self) -> str:
        """The most probable verdict if the images make no difference, and the effect of more GAN seeds on it."""
        none, *more = (one for one in self.chances if one.design.auroc == self.val_b_auroc and not one.true_difference)
        word, chance = none.likeliest
        said = f"If the synthetic images make no difference, this design most likely ends {word} ({chance:.0%})"
        better = [f"no_better {one.no_better:.0%} with {one.design.gan_seeds} GAN seeds" for one in more]
        return said + (f"; {', '.join(better)}" if word == "undecided" and better else "")

    def to_json(self) -> dict[str, Any]:
        """The content of `forecast.json`."""
        return {
            "version": 1,
            "gan_seeds": self.gan_seeds,
            "val_b_auroc": self.val_b_auroc,
            "rope": self.rope,
            "chances": [one.to_json() for one in self.chances],
        }


def measure_spread(aurocs: Floats, components: Floats, *, effective_patients: float) -> Spread:
    """Estimate the spread from the scores of one set of images.

    Args:
        aurocs: float64 [1 + M, G, K]: the finalist first, then its controls; G >= 2.
        components: float64 [1 + M, G, K, P], as `structural_components` has them.
        effective_patients: As `structural_components` has it.
    """
    gaps = (aurocs[:1] - aurocs[1:]).mean(axis=2)
    of_patients = (components[:1] - components[1:]).mean(axis=2)
    seeds = gaps.shape[1]
    total = of_patients.sum(axis=1)
    within = np.einsum("agp,bgp->ab", of_patients, of_patients)
    across = (total @ total.T - within) / (seeds * (seeds - 1))
    by_patients = within / seeds - across
    of_each = (total**2 - (of_patients**2).sum(axis=1)) / (seeds * (seeds - 1))  # they sum to the diagonal of `across`
    roughness = (
        float((of_each**2).sum(axis=1).mean()) / max(float(np.trace(across)) / len(across), _LEAST_VARIANCE) ** 2
    )
    return Spread(
        auroc=float(aurocs.mean()),
        effective_patients=effective_patients,
        patients=across * effective_patients,
        seeds=_common_and_own(np.atleast_2d(np.cov(gaps)) - by_patients),
        seeds_by_patients=_common_and_own(by_patients * effective_patients),
        level=float((components.mean(axis=(0, 1, 2)) ** 2).sum()) * effective_patients,
        roughness=roughness * effective_patients,
    )


def verdict_chances(
    spread: Spread, design: Design, likenesses: Sequence[frozenset[Likeness]], *, rope: float, true_difference: float
) -> VerdictChances:
    """Estimate the probability of each verdict if the finalist differs from every control by `true_difference`.

    Args:
        spread: With M controls.
        design: What is tested.
        likenesses: Of each control, as `AgainstControl` has it, [M].
        rope: Half the width of the region of practical equivalence, in AUROC.
        true_difference: In AUROC.
    """
    tests = _drawn(spread, design, rope=rope, true_difference=true_difference)
    words = count_verdicts(tests, likenesses)
    return VerdictChances(
        design=design,
        true_difference=true_difference,
        helps=words["helps"] / _DRAWS,
        hurts=words["hurts"] / _DRAWS,
        no_better=words["no_better"] / _DRAWS,
        undecided=words["undecided"] / _DRAWS,
    )


def count_verdicts(tests: PairTests, likenesses: Sequence[frozenset[Likeness]]) -> Counter[Overall]:
    """Count the studies by verdict; those with the same test outcomes are judged once.

    Args:
        tests: Each attribute [studies, M].
        likenesses: Of each control, [M].
    """
    first_of_holm = tests.p_better_by_rope.min(axis=1, keepdims=True) < LEVEL / len(likenesses)
    outcomes = np.concatenate([tests.is_better, tests.is_worse, first_of_holm], axis=1)
    _, first, counts = np.unique(outcomes, axis=0, return_index=True, return_counts=True)
    words: Counter[Overall] = Counter()
    for study, count in zip(first.tolist(), counts.tolist(), strict=True):
        words[overall(verdicts_of(tests, study, likenesses)).word] += count
    return words


def detection_probability(spread: Spread, design: Design, *, true_difference: float) -> float:
    """Probability that the 95 % interval of the first comparison excludes 0, given the true difference."""
    tests = _drawn(spread, design, rope=1.0, true_difference=true_difference)
    return float((tests.is_better[:, 0] | tests.is_worse[:, 0]).mean())


def probability_equivalent(spread: Spread, design: Design, *, rope: float, true_difference: float = 0.0) -> float:
    """Probability that the 90 % interval of the first comparison lies inside +-rope, given the true difference."""
    return float(_drawn(spread, design, rope=rope, true_difference=true_difference).is_equivalent[:, 0].mean())


def smallest_detectable_difference(spread: Spread, design: Design, *, power: float = 0.8) -> float | None:
    """The true difference that the first comparison's 95 % interval separates from 0 with the probability `power`.

    None if not even the largest difference possible at this AUROC is detected so often.
    """

    def shortfall(difference: float) -> float:
        return detection_probability(spread, design, true_difference=difference) - power

    most = 2 * (1 - design.auroc)
    return float(brentq(shortfall, 0.0, most, xtol=1e-5)) if shortfall(most) > 0 else None


def _with_prior(spread: Spread) -> Floats:
    """Covariances over one effective patient, with the binormal model's weight as the tests have it.

    With few patients near the ceiling hardly any is misranked, and estimates alone would promise certainty. In the model,
    half of a difference's variance is the finalist's, common to all of its differences.
    """
    count = len(spread.patients)
    prior = 2 * float(placement_variance(spread.auroc, spread.auroc)) * (np.eye(count) + np.ones((count, count)))
    weight = PRIOR_PATIENTS / (spread.effective_patients + PRIOR_PATIENTS)
    return np.asarray((1 - weight) * spread.patients + weight * prior)


def _drawn(spread: Spread, design: Design, *, rope: float, true_difference: float) -> PairTests:
    """Test simulated studies, each attribute [draws, M]; every call draws the same random numbers."""
    generator = numpy_generator(0, "forecast")
    controls, patients = len(spread.patients), design.effective_patients
    # Test folders vary in difficulty, for all arms alike; on easy ones all differences are smaller.
    of_separation = np.sqrt(spread.level / _steepness(spread.auroc) / patients)
    level = norm.cdf(norm.ppf(design.auroc) + of_separation * generator.standard_normal((_DRAWS, 1)))
    of_level = _mean_of(_steepness(level), 1.0)
    finalist, control = around(design.auroc, true_difference)
    usual = placement_variance(spread.auroc, spread.auroc)
    equal, truth = (placement_variance(*around(design.auroc, one)) / usual for one in (0.0, true_difference))
    harder = _mean_of(placement_variance(level, level), equal)
    common, own = (
        np.sqrt(np.maximum(seed * of_level * steeper + by_patients * harder / patients, 0))
        for seed, by_patients, steeper in zip(
            spread.seeds,
            spread.seeds_by_patients,
            (_steepness(arm) / _steepness(spread.auroc) for arm in (finalist, control)),
            strict=True,
        )
    )
    by_seed = common[..., None] * generator.standard_normal((_DRAWS, 1, design.gan_seeds))
    by_seed = by_seed + own[..., None] * generator.standard_normal((_DRAWS, controls, design.gan_seeds))
    values, vectors = np.linalg.eigh(_with_prior(spread) / patients)
    root = vectors * np.sqrt(np.maximum(values, 0))
    by_patients = np.sqrt(harder) * (generator.standard_normal((_DRAWS, controls)) @ root.T)
    differences = _mean_of(np.sqrt(of_level), true_difference) + by_patients + by_seed.mean(axis=2)
    # The estimated patient variance belongs to the observed difference; its error is partly common to all controls.
    seen = _mean_of(placement_variance(*around(level, differences)), truth)
    roughness = np.maximum(spread.roughness / patients / truth, _NEAREST)
    common_part, own_part = (
        generator.gamma(share / roughness, roughness, (_DRAWS, width)) for share, width in ((0.25, 1), (0.75, controls))
    )
    shown = common_part + own_part
    evidence = Evidence(
        difference=differences,
        mean_auroc=level,
        seed_variance=by_seed.var(axis=2, ddof=1),
        patient_variance=(root**2).sum(axis=1) * seen * shown,
        gan_seeds=design.gan_seeds,
        effective_patients=patients,
    )
    return pair_tests(evidence, rope=rope)


def _steepness(auroc: ArrayLike) -> Floats:
    """Squared slope of the AUROC in the separation of the two classes, up to a factor; binormal model."""
    return np.asarray(norm.pdf(norm.ppf(np.clip(auroc, _NEAREST, 1 - _NEAREST))) ** 2)


def _mean_of(values: Floats, mean: ArrayLike) -> Floats:
    """Rescale the values to this mean."""
    return np.asarray(values * (mean / values.mean()))


def _common_and_own(covariance: Floats) -> tuple[float, float]:
    """Return the mean covariance of two differences, and the rest of the mean variance; a single one is all common."""
    count, diagonal = len(covariance), float(np.trace(covariance)) / len(covariance)
    common = (float(covariance.sum()) - count * diagonal) / (count * (count - 1)) if count > 1 else diagonal
    return common, diagonal - common
