"""Test confirm's verdict in the hardest cases: near the ceiling, at the edge of the ROPE, after selection by ASHA.

Simulated studies with known truth, fixed seeds; the standard error of a share of 2,000 studies is .005 at .95 and at .05.
"Before" marks the rules that the current ones replaced: the interval with the variance at the estimate, `no_better` if
any control is equivalent or better, `hurts` based only on the matched control without images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

from benchmarks.figures import Figure, figure
from benchmarks.hillis import degrees_of_freedom
from benchmarks.simulated_studies import Arm, Study, against_controls, pooled, simulate
from xraytune.confirm.forecast import Design, Spread, count_verdicts, measure_spread, verdict_chances
from xraytune.confirm.verdict import (
    LEVEL,
    ControlKind,
    Evidence,
    Overall,
    PairTests,
    p_values,
    pair_tests,
)
from xraytune.metrics.classification import Floats
from xraytune.seeding import numpy_generator

_STUDIES = 2000
ROPE = 0.01
_SEEDS_SD = 0.006
_AUROC = 0.955
_PATIENTS = 428
"""In the official test folder."""
CONTROLS: tuple[ControlKind, ...] = ("none", "duplicate", "tuned", "tuned", "tuned")
"""Matched `none`, matched `duplicate`, and three tuned controls."""
WORDS: tuple[Overall, ...] = ("helps", "hurts", "no_better", "undecided")


def measure() -> Iterator[Figure]:
    """Yield the figures of all cases."""
    yield from _near_the_ceiling()
    yield from _other_errors()
    yield from _few_seeds()
    yield from _power_of_equivalence()
    yield from _no_better()
    yield from _hurts()
    yield from _helps_after_asha()
    yield from _forecasts()


def _near_the_ceiling() -> Iterator[Figure]:
    """Arms that differ by 1.5 ROPE."""
    coverage, equivalent = {}, {}
    for better in (0.99, 0.995, _AUROC):
        worse = better - 1.5 * ROPE
        for patients in (20, 40, 60, 144):
            arms = [Arm(auroc=better, seeds_sd=_SEEDS_SD, gan_share=0.3), Arm(auroc=worse, seeds_sd=_SEEDS_SD)]
            found = against_controls(_studies(arms, patients, seed=11))
            truth = better - worse
            case = f"AUROC {better:g} and {worse:g}, {patients} patients"
            coverage[case] = float(_covers(found, truth).mean())
            equivalent[case] = float(pair_tests(found, rope=ROPE).is_equivalent.mean())
            yield figure(f"edges: coverage, {case}", coverage[case], "share")
            yield figure(f"edges: false equivalent, {case}", equivalent[case], "share")
            yield figure(f"edges: coverage before, {case}", float(_before(found, truth).mean()), "share")
            before = _equivalent_before(found)
            yield figure(f"edges: false equivalent before, {case}", float(before.mean()), "share")
    yield figure("edges: coverage, worst cell", min(coverage.values()), "share", ">= 0.92")
    yield figure("edges: false equivalent, worst cell", max(equivalent.values()), "share", "<= 0.05")


def _other_errors() -> Iterator[Figure]:
    """Arms whose errors are much more, or less, correlated than the interval assumes."""
    for common, errors in ((0.93, (0.93, 0.02, 0.02, 0.03)), (0.4, (0.4, 0.15, 0.15, 0.3))):
        for better in (0.99, _AUROC):
            for patients in (20, 40, 60, 144):
                truth = 1.5 * ROPE
                arms = [
                    Arm(auroc=better, seeds_sd=_SEEDS_SD, gan_share=0.3),
                    Arm(auroc=better - truth, seeds_sd=_SEEDS_SD),
                ]
                drawn = simulate(
                    arms, patients=patients, gan_seeds=5, classifier_seeds=2, studies=_STUDIES, seed=18, errors=errors
                )
                found = against_controls(list(drawn))
                case = f"{common} of the error in common, AUROC {better:g} and {better - truth:g}, {patients} patients"
                yield figure(f"edges: coverage, {case}", float(_covers(found, truth).mean()), "share")


def _few_seeds() -> Iterator[Figure]:
    for gan_seeds in (2, 3, 4, 5):
        for patients in (200, 624):
            arms = [Arm(auroc=_AUROC, seeds_sd=_SEEDS_SD, gan_share=0.3), Arm(auroc=_AUROC - ROPE, seeds_sd=_SEEDS_SD)]
            found = against_controls(_studies(arms, patients, seed=19, gan_seeds=gan_seeds))
            case = f"{gan_seeds} GAN seeds, {patients} patients"
            yield figure(f"edges: coverage, {case}", float(_covers(found, ROPE).mean()), "share")


def _power_of_equivalence() -> Iterator[Figure]:
    arms = [Arm(auroc=0.99, seeds_sd=_SEEDS_SD, gan_share=0.3), Arm(auroc=0.99, seeds_sd=_SEEDS_SD)]
    found = against_controls(_studies(arms, 144, seed=12))
    before = float(_equivalent_before(found).mean())
    yield figure("edges: equivalent of equal arms at .99, 144 patients, before", before, "share")
    now = float(pair_tests(found, rope=ROPE).is_equivalent.mean())
    yield figure("edges: equivalent of equal arms at .99, 144 patients", now, "share")
    arms = [Arm(auroc=_AUROC, seeds_sd=0.003, gan_share=0.3), Arm(auroc=_AUROC, seeds_sd=0.003)]
    found = against_controls(_studies(arms, 1500, seed=12))
    before = float(_equivalent_before(found).mean())
    yield figure("edges: equivalent of equal arms, 1500 patients, before", before, "share")
    now = float(pair_tests(found, rope=ROPE).is_equivalent.mean())
    yield figure("edges: equivalent of equal arms, 1500 patients", now, "share", f">= {before - 0.05:.3f}")


def _no_better() -> Iterator[Figure]:
    """Five equal controls, and a finalist that is better than all of them by one ROPE or not at all."""
    for difference, bar in ((ROPE, "<= 0.06"), (0.0, "")):
        for patients in (144, _PATIENTS):
            found = against_controls(_studies(finalist_and_controls(_AUROC, difference), patients, seed=13))
            case = f"better than all five by {difference / ROPE:g} ROPE, {patients} patients"
            told = _words(pair_tests(found, rope=ROPE))["no_better"]
            yield figure(f"edges: no_better when {case}", told, "share", bar)
            before = float((_equivalent_before(found) | _worse_before(found)).any(axis=1).mean())
            yield figure(f"edges: no_better before when {case}", before, "share")


def _hurts() -> Iterator[Figure]:
    """`none` beats the finalist; `duplicate` equals the finalist (more images per step hurt) or `none` (the images do)."""
    for none, duplicate, bar in ((0.01, 0.0, "<= 0.06"), (0.03, 0.03, "")):
        for patients in (144, _PATIENTS):
            above = [0.0, none, duplicate]
            arms = [
                Arm(auroc=_AUROC - 0.01 + more, seeds_sd=_SEEDS_SD, gan_share=0.0 if number else 0.3)
                for number, more in enumerate(above)
            ]
            found = against_controls(_studies(arms, patients, seed=14))
            case = "it equals duplicate" if not duplicate else f"{none} under none and duplicate"
            told = _words(pair_tests(found, rope=ROPE))["hurts"]
            yield figure(f"edges: hurts when {case}, {patients} patients", told, "share", bar)
            before = float(_worse_before(found)[:, 0].mean())
            yield figure(f"edges: hurts before when {case}, {patients} patients", before, "share")


def _helps_after_asha() -> Iterator[Figure]:
    """A search over GAN trials and three arms without GAN images, all equally good; then confirm with the winners.

    Every arm has 15 sampled trials; the top ones at a noisy rung finish, and the best of these by a noisy val-B is
    selected. The matched controls lose .03, because the settings were chosen for the GAN. Only studies in which a tuned
    control is truly as good as the finalist are counted. With unmatched tuning each control has as many *complete* trials as
    the GAN arm, unpruned.
    """
    for quality_sd in (0.015, 0.005):
        for name, trials in (("", 15), (" with unmatched tuning", 4)):
            generator = numpy_generator(5, "asha", trials)
            told, of_all, studies = [], 0.0, 1000
            for number in range(studies):
                finalist = _winner(generator, quality_sd, 15)
                tuned = [_winner(generator, quality_sd, trials) for _ in range(3)]
                aurocs = np.clip([finalist, finalist - 0.03, finalist - 0.03, *tuned], 0.5, 0.999)
                arms = [Arm(auroc=float(one), seeds_sd=_SEEDS_SD) for one in aurocs]
                arms[0] = replace(arms[0], gan_share=0.3)
                (study,) = simulate(arms, patients=200, gan_seeds=5, classifier_seeds=2, studies=1, seed=1000 + number)
                helps = _words(pair_tests(against_controls([study]), rope=ROPE))["helps"]
                of_all += helps / studies
                if max(tuned) >= finalist:
                    told.append(helps)
            case = f"quality sd {quality_sd}"
            bar = "" if name else "<= 0.06"
            yield figure(f"edges: helps under the null after ASHA{name}, {case}", float(np.mean(told)), "share", bar)
            share = 1 - len(told) / studies
            yield figure(f"edges: finalist truly best after ASHA{name}, {case}", share, "share")
            yield figure(f"edges: helps, truly best or not, after ASHA{name}, {case}", of_all, "share")


def _winner(generator: np.random.Generator, quality_sd: float, trials: int) -> float:
    """Return the true AUROC of the trial that a search of one arm selects: 15 are pruned to 4, 4 are not pruned."""
    quality = _AUROC - 0.015 + generator.normal(0, quality_sd, trials)
    at_rung, at_end = (quality + generator.normal(0, 0.009, trials) for _ in range(2))
    finishing = np.argsort(-at_rung)[:4]
    return float(quality[finishing[np.argmax(at_end[finishing])]])


def _forecasts() -> Iterator[Figure]:
    """Forecasts from the variances of 100 studies on val-B against 1,000 simulated test studies, five equal controls."""
    bar = "<= 0.05"
    for val_b, test, patients, gan_seeds, asked in (
        (_AUROC, _AUROC, 428, 5, bar),
        (0.97, 0.97, 200, 10, bar),
        (0.985, _AUROC, 428, 5, bar),
        (0.985, _AUROC, 1000, 10, bar),
        (0.985, 0.985, 144, 5, ""),  # near the ceiling the forecast is rougher
    ):
        pilots = [
            measure_spread(one)
            for one in simulate(
                finalist_and_controls(val_b, 0.0), patients=360, gan_seeds=gan_seeds, classifier_seeds=2,
                studies=100, seed=15,
            )
        ]  # fmt: skip
        errors, singles = [], []
        for difference in (0.0, ROPE, 2 * ROPE):
            studies = _studies(
                finalist_and_controls(test - difference / 2, difference), patients, seed=16,
                gan_seeds=gan_seeds, studies=1000,
            )  # fmt: skip
            design = Design(effective_patients=studies[0].effective_patients, gan_seeds=gan_seeds, score=test)

            def chances(spread: Spread, design: Design = design, difference: float = difference) -> Floats:
                found = verdict_chances(spread, design, CONTROLS, rope=ROPE, true_difference=difference)
                return np.array([getattr(found, word) for word in WORDS])

            found = _words(pair_tests(against_controls(studies), rope=ROPE))
            truth = np.array([found[word] for word in WORDS])
            forecast = chances(pooled(pilots))
            errors.append(np.abs(forecast - truth).max())
            singles += [np.abs(chances(pilot) - truth).max() for pilot in pilots[:20]]
            case = f"val-B {val_b}, test {test}, {patients} patients, {gan_seeds} GAN seeds, {difference / ROPE:g} ROPE"
            for word, one, other in zip(WORDS, forecast, truth, strict=True):
                if word in ("helps", "no_better"):
                    yield figure(f"edges: forecast of {word}, {case}", float(one), "share")
                    yield figure(f"edges: simulated {word}, {case}", float(other), "share")
        case = f"val-B {val_b}, test {test}, {patients} patients, {gan_seeds} GAN seeds"
        yield figure(f"edges: forecast of the verdict less simulated, {case}", float(max(errors)), "share", asked)
        name = f"edges: median error of a forecast from a single val-B, {case}"
        yield figure(name, float(np.median(singles)), "share")


def finalist_and_controls(auroc: float, difference: float) -> list[Arm]:
    """Return a finalist that is better by `difference` than five equal controls of this AUROC."""
    finalist = Arm(auroc=auroc + difference, seeds_sd=_SEEDS_SD, gan_share=0.3)
    return [finalist, *[Arm(auroc=auroc, seeds_sd=_SEEDS_SD)] * len(CONTROLS)]


def _studies(
    arms: Sequence[Arm], patients: int, *, seed: int, gan_seeds: int = 5, studies: int = _STUDIES
) -> list[Study]:
    return list(simulate(arms, patients=patients, gan_seeds=gan_seeds, classifier_seeds=2, studies=studies, seed=seed))


def _words(tests: PairTests) -> dict[Overall, float]:
    """Return the share of each verdict over studies whose tests are [studies, controls]."""
    studies, controls = tests.is_better.shape
    told = count_verdicts(tests, CONTROLS[:controls])
    return {word: told[word] / studies for word in WORDS}


def _wald(found: Evidence) -> tuple[Floats, Floats]:
    """Standard error and degrees of freedom with the variance at the estimate."""
    seeds, patients = np.asarray(found.seed_variance), np.maximum(found.patient_variance, 0)
    degrees = degrees_of_freedom(seeds, seeds + found.gan_seeds * patients, found.gan_seeds)
    return np.sqrt(seeds / found.gan_seeds + patients), degrees


def _covers(found: Evidence, truth: float) -> NDArray[np.bool_]:
    """Whether the 95 % interval covers the truth."""
    return np.asarray(np.minimum(*p_values(found, truth)) >= LEVEL / 2)


def _before(found: Evidence, truth: float) -> NDArray[np.bool_]:
    """Whether the earlier 95 % interval covers the truth."""
    error, degrees = _wald(found)
    return np.asarray(np.abs(np.asarray(found.difference) - truth) <= stdtrit(degrees, 1 - LEVEL / 2) * error)


def _equivalent_before(found: Evidence) -> NDArray[np.bool_]:
    error, degrees = _wald(found)
    return np.asarray(np.abs(found.difference) + stdtrit(degrees, 1 - LEVEL) * error < ROPE)


def _worse_before(found: Evidence) -> NDArray[np.bool_]:
    error, degrees = _wald(found)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(stdtr(degrees, np.asarray(found.difference) / error) < LEVEL / 2)
