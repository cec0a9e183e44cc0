"""What a design could find out: the differences it detects, and how often it would call equal arms equivalent.

Takes variance components and a design, gives probabilities and numbers. The observed difference enters nowhere: "power at
what was seen" repeats the p-value (Hoenig & Heisey 2001, "The abuse of power").

The probabilities are of the very procedure of `comparison.py`. Given the mean square of the seeds, which is a scaled
chi-squared variable, its width and its degrees of freedom are fixed, and the difference is normal and independent of both;
what is left is one integral. Where the patients add nothing it is the noncentral t distribution with G - 1 degrees of
freedom, where the seeds add nothing the normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.stats import chi2, norm  # type: ignore[import-untyped]
from scipy.stats import t as student_t

from xraytune.confirm.comparison import VarianceComponents, degrees_of_freedom
from xraytune.metrics.classification import Floats

_NODES = 1000
_MOST_PATIENTS = 1_000_000
_MOST_GAN_SEEDS = 1000
_STEP = 1.05
"""Numbers are tried in steps of a twentieth, then the least one is searched between two steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How much is looked at.

    Attributes:
        patients: In the test folder.
        gan_seeds: At least 2.
        classifier_seeds: Of each GAN seed, at least 1.
    """

    patients: int
    gan_seeds: int
    classifier_seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How sure a design would be.

    Attributes:
        standard_error: Of the difference.
        degrees_of_freedom: Hillis', at the expected mean squares.
    """

    standard_error: float
    degrees_of_freedom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """How many it takes to decide.

    Attributes:
        count: Patients or GAN seeds in all; None where no number does.
        why: In a sentence.
    """

    count: int | None
    why: str


def expected_precision(components: VarianceComponents, design: Design) -> Precision:
    """The standard error and degrees of freedom that the design is expected to have."""
    seeds, patients = _variances(components, design)
    return Precision(
        standard_error=math.sqrt(seeds / design.gan_seeds + patients),
        degrees_of_freedom=float(degrees_of_freedom(seeds, seeds + design.gan_seeds * patients, design.gan_seeds)),
    )


def detection_probability(components: VarianceComponents, design: Design, *, true_difference: float) -> float:
    """Chance that the 95 % interval excludes 0, given the true difference of the AUROCs; .05 where there is none."""
    error = expected_precision(components, design).standard_error
    if error == 0:
        return float(true_difference != 0)
    widths = _widths(components, design, quantile=0.975)
    return float(np.mean(norm.cdf((true_difference - widths) / error) + norm.cdf((-true_difference - widths) / error)))


def smallest_detectable_difference(components: VarianceComponents, design: Design, *, power: float = 0.8) -> float:
    """The true AUROC difference that the 95 % interval tells from 0 with the probability `power`."""
    error = expected_precision(components, design).standard_error
    if error == 0:
        return 0.0

    def shortfall(difference: float) -> float:
        return detection_probability(components, design, true_difference=difference) - power

    enough = error
    while shortfall(enough) < 0:
        enough *= 2
    return float(brentq(shortfall, 0.0, enough, xtol=1e-9))


def probability_equivalent(
    components: VarianceComponents, design: Design, *, rope: float, true_difference: float = 0.0
) -> float:
    """Chance that the 90 % interval lies inside +-rope.

    Source: the power of two one-sided tests: Phillips 1990, "Power of the two one-sided tests procedure in bioequivalence".
    """
    error = expected_precision(components, design).standard_error
    if error == 0:
        return float(abs(true_difference) < rope)
    room = rope - _widths(components, design, quantile=0.95)
    chances = norm.cdf((room - true_difference) / error) - norm.cdf((-room - true_difference) / error)
    return float(np.mean(np.maximum(chances, 0)))


def would_decide(components: VarianceComponents, design: Design, *, rope: float, power: float = 0.8) -> bool:
    """Whether the answer comes with the probability `power`, whichever is true: no effect, or an effect of one rope.

    The first has to be called equivalent, the second better or worse. Between the two, no design decides always.
    """
    return (
        probability_equivalent(components, design, rope=rope) >= power
        and detection_probability(components, design, true_difference=rope) >= power
    )


def patients_to_decide(components: VarianceComponents, design: Design, *, rope: float, power: float = 0.8) -> Needed:
    """The patients in all with which these seeds `would_decide`."""

    def decides(patients: int) -> bool:
        return would_decide(components, replace(design, patients=patients), rope=rope, power=power)

    count = _least(design.patients, _MOST_PATIENTS, decides)
    left = expected_precision(components, replace(design, patients=_MOST_PATIENTS)).standard_error
    return Needed(
        count=count,
        why=_why(count, design.patients, "patients")
        or f"not even {_MOST_PATIENTS:,} patients would decide: they leave the seeds' standard error of {left:.4f}; it "
        "takes more GAN seeds",
    )


def gan_seeds_to_decide(components: VarianceComponents, design: Design, *, rope: float, power: float = 0.8) -> Needed:
    """The GAN seeds in all with which these patients `would_decide`."""

    def decides(gan_seeds: int) -> bool:
        return would_decide(components, replace(design, gan_seeds=gan_seeds), rope=rope, power=power)

    count = _least(design.gan_seeds, _MOST_GAN_SEEDS, decides)
    left = expected_precision(components, replace(design, gan_seeds=_MOST_GAN_SEEDS)).standard_error
    return Needed(
        count=count,
        why=_why(count, design.gan_seeds, "GAN seeds")
        or f"not even {_MOST_GAN_SEEDS:,} GAN seeds would decide: they leave the patients' standard error of {left:.4f}; it "
        "takes more patients",
    )


def _variances(components: VarianceComponents, design: Design) -> tuple[float, float]:
    """Of one GAN seed's difference given the patients, and of what the patients add to all of them; 0 where negative."""
    own, by_gan, by_classifier = (
        max(variance, 0.0) / design.patients
        for variance in (components.patient, components.patient_by_gan_seed, components.patient_by_classifier_seed)
    )
    of_gan = max(components.gan_seed, 0.0) + by_gan
    of_classifier = max(components.classifier_seed, 0.0) + by_classifier
    return of_gan + of_classifier / design.classifier_seeds, own


def _widths(components: VarianceComponents, design: Design, *, quantile: float) -> Floats:
    """Half the interval's width at equally likely mean squares of the seeds, [nodes]."""
    seeds, patients = _variances(components, design)
    drawn = seeds * _mean_squares(design.gan_seeds - 1)
    of_denominator = drawn + design.gan_seeds * patients
    freedom = degrees_of_freedom(drawn, of_denominator, design.gan_seeds)
    return np.asarray(student_t.ppf(quantile, freedom) * np.sqrt(of_denominator / design.gan_seeds))


@cache
def _mean_squares(degrees: int) -> Floats:
    """Equally likely ones of a variance of 1, [nodes]."""
    nodes = (np.arange(_NODES) + 0.5) / _NODES
    return np.asarray(chi2.ppf(nodes, degrees) / degrees)


def _least(start: int, most: int, decides: Callable[[int], bool]) -> int | None:
    """The least count from `start` on that decides; None where none up to `most` does.

    With few GAN seeds more patients can decide less often (Hillis' degrees of freedom fall to G - 1): all steps are tried.
    """
    failed = count = start
    while not decides(count):
        if count == most:
            return None
        failed, count = count, min(most, max(count + 1, int(count * _STEP)))
    while count - failed > 1:
        middle = (failed + count) // 2
        failed, count = (failed, middle) if decides(middle) else (middle, count)
    return count


def _why(count: int | None, present: int, what: str) -> str:
    if count is None:
        return ""
    if count == present:
        return f"as many {what} as there are decide in most studies; this one was among the others"
    return f"{count:,} {what} instead of {present:,} would decide in most studies"
