"""Check that `confirm` is right as often as it claims: simulated studies with a known truth.

Seeds are fixed; the standard error of a share of 2,000 studies is .005 at .95 and at .05.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.figures import Figure, figure
from benchmarks.simulated_studies import Arm, Study, against_controls, pooled, simulate
from xraytune.confirm.forecast import Design, count_verdicts, measure_spread, verdict_chances
from xraytune.stats.verdict import LEVEL, ControlKind, Evidence, Overall, PairTests, p_values, pair_tests

_STUDIES = 2000
_ROPE = 0.01
_AUROC = 0.955
_SEEDS_SD = 0.006
"""Of a replicate's AUROC: with 5 x 2 seeds and 624 patients, seeds cause about two fifths of the variance."""
_PATIENTS = 428
"""In the official test folder."""
_CONTROLS: tuple[ControlKind, ...] = ("none", "duplicate", "tuned", "tuned", "tuned")
_WORDS: tuple[Overall, ...] = ("helps", "hurts", "no_better", "undecided")


def measure() -> Iterator[Figure]:
    """Yield the figures of all cases."""
    yield from _coverage()
    yield from _near_the_ceiling()
    yield from _helps()
    yield from _no_better()
    yield from _hurts()
    yield from _equivalent()
    yield from _forecasts()


def _coverage() -> Iterator[Figure]:
    """Of a true difference of .01; also where the seeds cause almost none, or most, of the variance."""
    for gan_seeds, bar in ((5, "0.92 to 0.98"), (10, "0.935 to 0.965")):
        shares = []
        for seeds_sd in (0.002, _SEEDS_SD, 0.015):
            arms = [_finalist(_AUROC, seeds_sd), Arm(auroc=_AUROC - _ROPE, seeds_sd=seeds_sd)]
            for patients in (200, 624):
                studies = _studies(arms, patients, seed=2, gan_seeds=gan_seeds)
                shares.append(_covered(against_controls(studies), _ROPE))
        for what, share in (("lowest", min(shares)), ("highest", max(shares))):
            yield figure(f"statistics: {what} coverage of six cells, {gan_seeds} x 2 seeds", share, "share", bar)


def _near_the_ceiling() -> Iterator[Figure]:
    """Few patients, and arms that differ by 1.5 ROPE."""
    coverage, equivalent = [], []
    for better in (0.99, 0.995, _AUROC):
        worse = better - 1.5 * _ROPE
        for patients in (20, 40, 60, 144):
            arms = [_finalist(better), Arm(auroc=worse, seeds_sd=_SEEDS_SD)]
            evidence = against_controls(_studies(arms, patients, seed=11))
            coverage.append(_covered(evidence, better - worse))
            equivalent.append(float(pair_tests(evidence, rope=_ROPE).is_equivalent.mean()))
    yield figure("statistics: coverage near the ceiling, worst of twelve cells", min(coverage), "share", ">= 0.92")
    yield figure("statistics: false equivalent in these cells, worst", max(equivalent), "share", "<= 0.05")


def _helps() -> Iterator[Figure]:
    """One control equals the finalist, four are worse by .03."""
    for gan_share in (0.0, 0.3, 0.6):
        finalist = _finalist(_AUROC, gan_share=gan_share)
        equal, worse = (Arm(auroc=auroc, seeds_sd=_SEEDS_SD) for auroc in (_AUROC, _AUROC - 0.03))
        studies = _studies([finalist, equal, *[worse] * 4], _PATIENTS, seed=1)
        share = _verdicts(studies)["helps"]
        name = f"statistics: helps although a control is equal, GAN seeds {gan_share:.0%} of the seeds' variance"
        yield figure(name, share, "share", "0.015 to 0.05")


def _no_better() -> Iterator[Figure]:
    """Five equal controls, and a finalist that is better than all of them by one ROPE or not at all."""
    for difference, bar in ((_ROPE, "<= 0.06"), (0.0, "")):
        for patients in (144, _PATIENTS):
            share = _verdicts(_studies(_finalist_and_controls(_AUROC, difference), patients, seed=13))["no_better"]
            case = f"better than all five by {difference / _ROPE:g} ROPE, {patients} patients"
            yield figure(f"statistics: no_better when {case}", share, "share", bar)


def _hurts() -> Iterator[Figure]:
    """`none` beats the finalist; `duplicate` equals the finalist (more images per step hurt) or `none` (the images do)."""
    for none, duplicate, bar in ((0.01, 0.0, "<= 0.06"), (0.03, 0.03, "")):
        for patients in (144, _PATIENTS):
            controls = [Arm(auroc=_AUROC - 0.01 + more, seeds_sd=_SEEDS_SD) for more in (none, duplicate)]
            share = _verdicts(_studies([_finalist(_AUROC - 0.01), *controls], patients, seed=14))["hurts"]
            case = f"{none} below none and duplicate" if duplicate else f"{none} below none, equal to duplicate"
            yield figure(f"statistics: hurts when {case}, {patients} patients", share, "share", bar)


def _equivalent() -> Iterator[Figure]:
    """Many patients and similar seeds, so that equivalence can be shown."""
    for difference, bar in ((0.0, ""), (_ROPE, ""), (1.5 * _ROPE, "<= 0.05")):
        arms = [_finalist(_AUROC + difference / 2, 0.003), Arm(auroc=_AUROC - difference / 2, seeds_sd=0.003)]
        evidence = against_controls(_studies(arms, 1500, seed=5))
        share = float(pair_tests(evidence, rope=_ROPE).is_equivalent.mean())
        case = f"a true difference of {difference / _ROPE:g} ROPE, 1500 patients"
        yield figure(f"statistics: equivalent at {case}", share, "share", bar)


def _forecasts() -> Iterator[Figure]:
    """Forecasts from the variances of 100 studies on val-B against 1,000 simulated test studies, five equal controls."""
    for val_b, test, patients, gan_seeds, bar in (
        (_AUROC, _AUROC, 428, 5, "<= 0.05"),
        (0.985, _AUROC, 428, 5, "<= 0.05"),
        (0.985, _AUROC, 1000, 10, "<= 0.05"),
        (0.985, 0.985, 144, 5, ""),  # near the ceiling the forecast is rougher
    ):
        pilots = _studies(_finalist_and_controls(val_b, 0.0), 360, seed=15, gan_seeds=gan_seeds, studies=100)
        spread, errors = pooled([measure_spread(pilot) for pilot in pilots]), list[float]()
        for difference in (0.0, _ROPE, 2 * _ROPE):
            arms = _finalist_and_controls(test - difference / 2, difference)
            studies = _studies(arms, patients, seed=16, gan_seeds=gan_seeds, studies=1000)
            design = Design(effective_patients=studies[0].effective_patients, gan_seeds=gan_seeds, score=test)
            chances = verdict_chances(spread, design, _CONTROLS, rope=_ROPE, true_difference=difference)
            simulated = _verdicts(studies)
            errors += [abs(getattr(chances, word) - simulated[word]) for word in _WORDS]
        case = f"val-B {val_b}, test {test}, {patients} patients, {gan_seeds} GAN seeds"
        yield figure(f"statistics: largest error of a verdict's forecast, {case}", max(errors), "share", bar)


def _finalist(auroc: float, seeds_sd: float = _SEEDS_SD, gan_share: float = 0.3) -> Arm:
    return Arm(auroc=auroc, seeds_sd=seeds_sd, gan_share=gan_share)


def _finalist_and_controls(auroc: float, difference: float) -> list[Arm]:
    """Return a finalist that is better by `difference` than five equal controls of this AUROC."""
    return [_finalist(auroc + difference), *[Arm(auroc=auroc, seeds_sd=_SEEDS_SD)] * len(_CONTROLS)]


def _studies(
    arms: Sequence[Arm], patients: int, *, seed: int, gan_seeds: int = 5, studies: int = _STUDIES
) -> list[Study]:
    return list(simulate(arms, patients=patients, gan_seeds=gan_seeds, classifier_seeds=2, studies=studies, seed=seed))


def _verdicts(studies: Sequence[Study]) -> dict[Overall, float]:
    """Return the share of each verdict."""
    tests: PairTests = pair_tests(against_controls(studies), rope=_ROPE)
    counts = count_verdicts(tests, _CONTROLS[: tests.is_better.shape[1]])
    return {word: counts[word] / len(studies) for word in _WORDS}


def _covered(evidence: Evidence, truth: float) -> float:
    """Return the share of studies whose 95 % interval covers the truth."""
    return float((np.minimum(*p_values(evidence, truth)) >= LEVEL / 2).mean())
