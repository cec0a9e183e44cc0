"""Check the intervals and verdicts on a mean of AUROCs over findings: simulated studies with a known truth.

As in `simulated_studies.py`, scores are binormal. Images have several findings, which occur
together and are of prevalence .02 to .4; some labels are unknown. The truth is the mean of the true
AUROCs of the findings that are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from scipy.stats import norm  # type: ignore[import-untyped]

from benchmarks.figures import Figure, figure
from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import Floats, Labels
from xraytune.stats.placements import StructuralComponents, structural_components
from xraytune.stats.verdict import (
    estimate_evidence,
    judge_pair,
    overall_verdict,
    score_interval,
)

_STUDIES = 600
_REPLICATES = 5
_ROPE = 0.01
_REPLICATES_SD = 0.09
"""Of a replicate's separations, the same deviation for all findings: .006 of AUROC at .955."""
_COMMON, _OF_ARM, _OWN = 0.8, 0.05, 0.15
"""Of a score's error variance 1, as in `simulated_studies.py`."""
_PATIENTS_SHARE = 0.6


def measure() -> Iterator[Figure]:
    """Yield coverage and error rates by number of findings, patients and share of unknown labels."""
    for findings, patients, unknown, auroc in product(
        (3, 14), (500, 2000), (0.05, 0.3), (0.8, 0.9)
    ):
        case = f"{findings} findings, {patients} patients, {unknown:.0%} unknown, AUROC {auroc:g}"
        gains = (
            _ROPE / 2,
            0.0,
            -2 * _ROPE,
        )  # of a finalist over: an arm, an equal one, and one that is better
        covered, helps, hurts = [], [], []
        for number in range(_STUDIES):
            study = simulated(findings, patients, unknown, auroc, gains, number)
            first = score_interval(estimate_evidence(study.pair(0, 1)))
            covered.append(first.low <= gains[0] <= first.high)
            equal = judge_pair(estimate_evidence(study.pair(0, 2)), rope=_ROPE, kind="duplicate")
            better = judge_pair(estimate_evidence(study.pair(0, 3)), rope=_ROPE, kind="none")
            helps.append(equal.is_better)
            word, _ = overall_verdict([better, equal])
            hurts.append(word == "hurts")
        yield figure(
            f"findings: coverage, {case}", float(np.mean(covered)), "share", "0.93 to 0.97"
        )
        yield figure(f"findings: false helps, {case}", float(np.mean(helps)), "share", "<= 0.05")
        yield figure(f"findings: false hurts, {case}", float(np.mean(hurts)), "share", "<= 0.05")


def simulated(
    findings: int, patients: int, unknown: float, auroc: float, gains: Sequence[float], number: int
) -> StructuralComponents:
    """Return scores [A, K] and components [A, K, P] of a finalist and of arms that it is better than by `gains`."""
    rng = numpy_generator(number, "findings", findings, patients, f"{unknown} {auroc}")
    images_of = rng.choice([1, 2, 3], patients, p=[0.6, 0.25, 0.15])
    owner = np.repeat(np.arange(patients), images_of)
    labels = _labels(rng, findings, owner)
    arms, count = 1 + len(gains), len(owner)

    def error(variance: float, *levels: int) -> Floats:
        of_patient = rng.standard_normal((*levels, findings, patients), dtype=np.float32)[
            ..., owner
        ]
        of_image = rng.standard_normal((*levels, findings, count), dtype=np.float32)
        mixed = of_patient * np.sqrt(_PATIENTS_SHARE) + of_image * np.sqrt(1 - _PATIENTS_SHARE)
        return np.asarray(mixed * np.sqrt(variance))

    aurocs = np.array([auroc, *(auroc - gain for gain in gains)])
    # The difference of two scores has the variance 2; that of replicates' separations adds to it.
    mean = norm.ppf(aurocs) * np.sqrt(2 + _REPLICATES_SD**2)
    separations = mean[:, None] + _REPLICATES_SD * rng.standard_normal((arms, _REPLICATES))
    scores = error(_OWN, arms, _REPLICATES) + error(_OF_ARM, arms, 1) + error(_COMMON, 1, 1)
    scores = scores + separations[..., None, None] * labels.T
    seen = np.where(rng.random(labels.shape) < unknown, -1, labels)
    results = (
        scores.reshape(arms * _REPLICATES, findings, count).transpose(0, 2, 1).astype(np.float64)
    )
    found = structural_components(seen, results, [f"{place:05d}" for place in owner], 0)
    return found.by_arm(arms)


def _labels(rng: np.random.Generator, findings: int, owner: Labels) -> Labels:
    """Findings of images, [N, C]: those of a patient, which a common severity makes occur together, in most images."""
    patients = int(owner[-1]) + 1
    severity = (
        rng.standard_normal((patients, 1)) + rng.standard_normal((patients, findings))
    ) / np.sqrt(2)
    has = severity > norm.ppf(1 - np.linspace(0.02, 0.4, findings))
    return np.asarray(has[owner] & (rng.random((len(owner), findings)) < 0.9), dtype=np.int64)
