"""Test confirm's intervals and verdicts for Dice: simulated studies with known truth, 5 GAN seeds x 2 segmenter seeds.

The logarithm of an image's error, 1 - Dice, is normal: an image is hard for all arms (standard deviation .35; and 3 % of the
images four times as hard), and harder or easier for an arm (.1), a GAN seed (.1) and a replicate (.15), twice as much on
the hard images. Seeds shift all errors of a replicate. With `failures`, an arm misses some images altogether: their error is
multiplied by eight, half of them in all replicates, half in one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.special import stdtrit  # type: ignore[import-untyped]
from scipy.stats import norm  # type: ignore[import-untyped]

from benchmarks.figures import Figure, figure
from benchmarks.simulated_studies import Study, against_controls, pooled
from xraytune.confirm.forecast import Design, Spread, count_verdicts, measure_spread, verdict_chances
from xraytune.confirm.verdict import (
    LEVEL,
    PATIENTS_PER_DEGREE,
    ControlKind,
    Evidence,
    Overall,
    p_values,
    pair_tests,
    satterthwaite_degrees,
)
from xraytune.metrics.classification import Flags, Floats
from xraytune.metrics.placements import DICE, mean_components
from xraytune.seeding import numpy_generator

_STUDIES = 2000
_AT_ONCE = 50
ROPE = 0.01
PATIENTS = (20, 41, 100, 200)
"""41 is a fifth of the 203 patients of JSRT."""
_GAN_SEEDS, _SEEDS = 5, 2
CONTROLS: tuple[ControlKind, ...] = ("none", "duplicate", "tuned", "tuned", "tuned")
WORDS: tuple[Overall, ...] = ("helps", "hurts", "no_better", "undecided")
_HARD_SHARE, _HARDER, _ON_HARD, _COMMON = 0.03, np.log(4), 2, 0.35
_ARM, _GAN, _OWN = 0.1, 0.1, 0.15
_FAILURE = np.log(8)
_IMAGES_OF_PATIENTS = {1: 0.6, 2: 0.2, 3: 0.1, 6: 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is true of an arm.

    Attributes:
        dice: Mean over images and seeds.
        seeds_sd: Standard deviation of the mean Dice over replicates with infinitely many patients, approximately.
        gan_share: Share of the GAN seeds in that variance.
        failures: Share of images that a replicate misses.
        apart: Factor of the effects that an arm, a GAN seed and a replicate have on each image.
    """

    dice: float
    seeds_sd: float = 0.002
    gan_share: float = 0.0
    failures: float = 0.0
    apart: float = 1.0


def measure() -> Iterator[Figure]:
    """Yield the figures of all cases."""
    yield from _coverage()
    yield from _verdicts()
    yield from _forecasts()


def _coverage() -> Iterator[Figure]:
    """One control; arms of the same and of different Dice, of hardly varying and of varying seeds."""
    found: dict[str, list[float]] = {"coverage": [], "false equivalent": []}
    for dice, difference, seeds_sd, failures, clustered in (
        (0.95, 0.0, 0.0005, 0.0, False),
        (0.95, 0.0, 0.003, 0.0, False),
        (0.95, ROPE, 0.0005, 0.0, False),
        (0.95, 1.5 * ROPE, 0.0005, 0.0, False),
        (0.98, ROPE, 0.0005, 0.0, False),
        (0.85, ROPE, 0.003, 0.0, False),
        (0.95, 0.0, 0.002, 0.02, False),
        (0.95, 1.5 * ROPE, 0.002, 0.02, False),
        (0.95, 1.5 * ROPE, 0.002, 0.0, True),
    ):
        arms = [
            Arm(dice=dice, seeds_sd=seeds_sd, gan_share=0.3, failures=failures),
            Arm(dice=dice - difference, seeds_sd=seeds_sd, failures=failures),
        ]
        case = f"Dice {dice:g} and {dice - difference:g}, seeds +-{seeds_sd:g}"
        case += f", both miss {failures:.0%} of the images" * (failures > 0) + ", 1 to 6 images per patient" * clustered
        for row in _pair(arms, case, clustered=clustered):
            kind = row.name.removeprefix("dice: ").partition(",")[0]
            if kind in found and (kind == "coverage" or difference >= ROPE):
                found[kind].append(row.value)
            yield row
    apart = [Arm(dice=0.95, gan_share=0.3, apart=3), Arm(dice=0.935, apart=3)]
    for row in _pair(apart, "Dice 0.95 and 0.935, arms and seeds three times as different"):
        if row.name.startswith("dice: coverage"):
            found["coverage"].append(row.value)
        yield row
    yield figure("dice: coverage, worst cell", min(found["coverage"]), "share", ">= 0.93")
    yield figure("dice: false equivalent, worst cell", max(found["false equivalent"]), "share")
    arms = [Arm(dice=0.95, gan_share=0.3), Arm(dice=0.94, failures=0.03)]
    yield from _pair(arms, "Dice .95 and .94 because one arm misses 3 % of the images")


def _pair(arms: Sequence[Arm], case: str, *, clustered: bool = False) -> Iterator[Figure]:
    truth = arms[0].dice - arms[1].dice
    for patients in PATIENTS:
        evidence = against_controls(simulate(arms, patients, seed=1, clustered=clustered))
        covered = np.minimum(*p_values(evidence, truth)) >= LEVEL / 2
        tests = pair_tests(evidence, rope=ROPE)
        yield figure(f"dice: coverage, {case}, {patients} patients", float(covered.mean()), "share")
        by_t = float(_covered_by_t(evidence, truth, patients).mean())
        yield figure(f"dice: coverage by t with P - 1 degrees, {case}, {patients} patients", by_t, "share")
        name = "false equivalent" if truth >= ROPE else "equivalent"
        yield figure(f"dice: {name}, {case}, {patients} patients", float(tests.is_equivalent.mean()), "share")
        for word, holds in (("better", tests.is_better), ("worse", tests.is_worse)):
            yield figure(f"dice: {word}, {case}, {patients} patients", float(holds.mean()), "share")


def _covered_by_t(evidence: Evidence, truth: float, patients: int) -> Flags:
    """Return whether the interval of Student's t with the estimated variances covers the truth."""
    seeds = np.asarray(evidence.seed_variance) / evidence.gan_seeds
    of_patients = np.maximum(evidence.patient_variance, 0)
    degrees = satterthwaite_degrees(seeds, of_patients, evidence.gan_seeds, PATIENTS_PER_DEGREE * (patients - 1))
    half = stdtrit(degrees, 1 - LEVEL / 2) * np.sqrt(seeds + of_patients)
    return np.asarray(np.abs(np.asarray(evidence.difference) - truth) <= half)


def _verdicts() -> Iterator[Figure]:
    """Five controls. A verdict with a bar is false."""
    base = 0.945
    cases: dict[str, tuple[list[float], dict[Overall, str]]] = {
        "it equals all controls": ([0.0] * 6, {"helps": "<= 0.05", "hurts": "<= 0.05"}),
        "it equals one control, four are worse by .03": ([0.0, 0.0, *[-0.03] * 4], {"helps": "<= 0.05"}),
        "it equals duplicate, none is better by .01": ([0.0, 0.01, 0.0, 0.0, 0.0, 0.0], {"hurts": "<= 0.05"}),
        "it is better than all by one ROPE": ([ROPE, *[0.0] * 5], {"no_better": "", "hurts": "<= 0.05"}),
        "it is better than all by two ROPE": ([2 * ROPE, *[0.0] * 5], {"no_better": "<= 0.05", "hurts": "<= 0.05"}),
    }
    for case, (above, bars) in cases.items():
        for patients in PATIENTS:
            arms = [Arm(dice=base + more, gan_share=0.0 if place else 0.3) for place, more in enumerate(above)]
            shares = _words(simulate(arms, patients, seed=2))
            for word, share in shares.items():
                yield figure(f"dice: {word} when {case}, {patients} patients", share, "share", bars.get(word, ""))


def _forecasts() -> Iterator[Figure]:
    """Forecasts from 60 val-Bs against simulated test folders of the same and of more patients; five equal controls."""
    for val_b, patients, gan_seeds in ((41, 41, 5), (20, 41, 5), (41, 100, 5), (41, 41, 10)):
        pilots = [measure_spread(one) for one in simulate(_finalist(0.0), val_b, seed=3, studies=60)]
        errors, singles = [], []
        for difference in (0.0, ROPE, 2 * ROPE):
            studies = simulate(_finalist(difference), patients, seed=4, studies=1000, gan_seeds=gan_seeds)
            truth = np.array([*_words(studies).values()])
            mean = 0.945 + difference / 2
            design = Design(effective_patients=patients, gan_seeds=gan_seeds, score=mean)

            def chances(spread: Spread, design: Design = design, difference: float = difference) -> Floats:
                found = verdict_chances(spread, design, CONTROLS, rope=ROPE, true_difference=difference)
                return np.array([getattr(found, word) for word in WORDS])

            forecast = chances(pooled(pilots))
            errors.append(np.abs(forecast - truth).max())
            singles += [np.abs(chances(pilot) - truth).max() for pilot in pilots[:20]]
            case = (
                f"val-B {val_b}, test {patients} patients, {gan_seeds} GAN seeds, better by {difference / ROPE:g} ROPE"
            )
            for word, one, other in zip(WORDS, forecast, truth, strict=True):
                if word in ("helps", "no_better"):
                    yield figure(f"dice: forecast of {word}, {case}", float(one), "share")
                    yield figure(f"dice: simulated {word}, {case}", float(other), "share")
        case = f"val-B {val_b}, test {patients} patients, {gan_seeds} GAN seeds"
        yield figure(f"dice: forecast of the verdict less simulated, {case}", float(max(errors)), "share", "<= 0.1")
        yield figure(
            f"dice: median error of a forecast from a single val-B, {case}", float(np.median(singles)), "share"
        )


def _finalist(difference: float) -> list[Arm]:
    return [Arm(dice=0.945 + difference, gan_share=0.3), *[Arm(dice=0.945)] * len(CONTROLS)]


def _words(studies: Sequence[Study]) -> dict[Overall, float]:
    told = count_verdicts(pair_tests(against_controls(studies), rope=ROPE), CONTROLS)
    return {word: told[word] / len(studies) for word in WORDS}


def simulate(
    arms: Sequence[Arm],
    patients: int,
    *,
    seed: int,
    studies: int = _STUDIES,
    gan_seeds: int = _GAN_SEEDS,
    clustered: bool = False,
) -> list[Study]:
    """Draw studies, each with new seeds and new patients."""
    found = []
    for start in range(0, studies, _AT_ONCE):
        generator = numpy_generator(seed, "dice", start)
        sizes = np.ones(patients, dtype=np.int64)
        if clustered:
            sizes = generator.choice([*_IMAGES_OF_PATIENTS], patients, p=[*_IMAGES_OF_PATIENTS.values()])
        patient_of_image = np.repeat(np.arange(patients), sizes)
        names = [f"{number:04d}" for number in patient_of_image]
        for dice in _draw(
            generator, arms, (min(_AT_ONCE, studies - start), len(arms), gan_seeds, _SEEDS), patient_of_image
        ):
            one = mean_components(dice.reshape(-1, len(names)), names)
            found.append(
                Study(
                    scores=one.scores.reshape(dice.shape[:3]),
                    components=one.components.reshape(*dice.shape[:3], -1),
                    effective_patients=one.effective_patients,
                    model=DICE,
                )
            )
    return found


def _draw(
    generator: np.random.Generator,
    arms: Sequence[Arm],
    shape: tuple[int, int, int, int],
    patient_of_image: NDArray[np.int64],
) -> Floats:
    """Return Dice [studies, arms, G, K, N]."""
    studies, count, gan_seeds, _ = shape
    images, patients = len(patient_of_image), int(patient_of_image[-1]) + 1

    def effect(sd: float, *levels: int) -> Floats:
        """Return an effect that is to half the patient's and to half the image's."""
        of_patient = generator.standard_normal((*levels, patients))[..., patient_of_image]
        return np.asarray(sd * np.sqrt(0.5) * (of_patient + generator.standard_normal((*levels, images))))

    is_hard = generator.random((studies, 1, 1, 1, images)) < _HARD_SHARE
    own = effect(_ARM, studies, count, 1, 1) + effect(_GAN, studies, count, gan_seeds, 1) + effect(_OWN, *shape)
    errors = _HARDER * is_hard + effect(_COMMON, studies, 1, 1, 1) + np.where(is_hard, _ON_HARD, 1) * own
    for place, arm in enumerate(arms):
        errors[:, place] += (arm.apart - 1) * np.where(is_hard, _ON_HARD, 1)[:, 0] * own[:, place]
        seeds_sd, of_gan = arm.seeds_sd / (1 - arm.dice), np.sqrt(arm.gan_share)
        seeds = of_gan * generator.standard_normal((studies, gan_seeds, 1, 1))
        seeds = seeds + np.sqrt(1 - arm.gan_share) * generator.standard_normal((studies, *shape[2:], 1))
        of_arm = generator.random((studies, 1, 1, images)) < arm.failures / 2
        of_replicate = generator.random((studies, *shape[2:], images)) < arm.failures / (2 - arm.failures)
        errors[:, place] += _location(arm) + seeds_sd * seeds + _FAILURE * (of_arm | of_replicate)
    return np.asarray(1 - np.minimum(np.exp(errors), 1))


def _location(arm: Arm) -> float:
    """Return the mean log error that gives an arm its Dice."""

    def excess(location: float) -> float:
        total = 0.0
        for hard_share, harder, factor in ((1 - _HARD_SHARE, 0.0, 1), (_HARD_SHARE, _HARDER, _ON_HARD)):
            of_seeds = arm.seeds_sd / (1 - arm.dice)
            sd = np.sqrt(_COMMON**2 + (factor * arm.apart) ** 2 * (_ARM**2 + _GAN**2 + _OWN**2) + of_seeds**2)
            for share, failed in ((1 - arm.failures, 0.0), (arm.failures, _FAILURE)):
                mean = location + harder + failed
                below_one = np.exp(mean + sd**2 / 2) * norm.cdf((-mean - sd**2) / sd)
                total += hard_share * share * (below_one + norm.cdf(mean / sd))  # of the smaller of the error and 1
        return float(total - (1 - arm.dice))

    return float(brentq(excess, -12, 0))
