"""Check that `confirm` is right as often as it claims: simulated studies with a known truth.

Seeds are fixed; the standard error of a share of 2,000 studies is .005 at .95 and at .05.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.figures import Figure, figure
from benchmarks.simulated_studies import Arm, Study, against_controls, simulate
from xraytune.stats.verdict import (
    LEVEL,
    AgainstControl,
    ControlKind,
    Evidence,
    Overall,
    judge,
    overall_verdict,
    p_values,
)

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
            equivalent.append(_equivalents(evidence))
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
        case = f"a true difference of {difference / _ROPE:g} ROPE, 1500 patients"
        yield figure(f"statistics: equivalent at {case}", _equivalents(evidence), "share", bar)


def _finalist(auroc: float, seeds_sd: float = _SEEDS_SD, gan_share: float = 0.3) -> Arm:
    return Arm(auroc=auroc, seeds_sd=seeds_sd, gan_share=gan_share)


def _finalist_and_controls(auroc: float, difference: float) -> list[Arm]:
    """Return a finalist that is better by `difference` than five equal controls of this AUROC."""
    return [_finalist(auroc + difference), *[Arm(auroc=auroc, seeds_sd=_SEEDS_SD)] * len(_CONTROLS)]


def _studies(arms: Sequence[Arm], patients: int, *, seed: int, gan_seeds: int = 5) -> list[Study]:
    return list(simulate(arms, patients=patients, gan_seeds=gan_seeds, classifier_seeds=2, studies=_STUDIES, seed=seed))


def _verdicts(studies: Sequence[Study]) -> dict[Overall, float]:
    """Return the share of each verdict."""
    counts = Counter[Overall]()
    for row in against_controls(studies):
        controls = [
            AgainstControl(control=f"{place}", kind=_CONTROLS[place], verdict=judge(evidence, rope=_ROPE))
            for place, evidence in enumerate(row)
        ]
        counts[overall_verdict(controls).word] += 1
    return {word: counts[word] / len(studies) for word in _WORDS}


def _equivalents(evidence: Sequence[Sequence[Evidence]]) -> float:
    """Return the share of studies whose first pair is called equivalent."""
    return float(np.mean([judge(row[0], rope=_ROPE).is_equivalent for row in evidence]))


def _covered(evidence: Sequence[Sequence[Evidence]], truth: float) -> float:
    """Return the share of studies whose 95 % interval of the first pair covers the truth."""
    return float(np.mean([min(map(float, p_values(row[0], truth))) >= LEVEL / 2 for row in evidence]))
