"""From the scores of all runs to the answer: every comparison with its interval, the verdicts, the response to the ratio.

Pure arithmetic on AUROCs and patients' influences; what is asked of it here was decided in the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from xraytune.confirm.arms import Arm
from xraytune.confirm.comparison import Comparison, compare
from xraytune.confirm.plan import Plan
from xraytune.confirm.power import (
    Design,
    Needed,
    gan_seeds_to_decide,
    patients_to_decide,
    probability_equivalent,
    smallest_detectable_difference,
)
from xraytune.confirm.resampling import BootstrapInterval, bootstrap_interval
from xraytune.confirm.verdict import AgainstControl, OverallVerdict, PairVerdict, fixed_sequence, judge, overall
from xraytune.metrics.classification import Floats, Labels
from xraytune.metrics.placements import patient_influences

ArmScores = Callable[[str], Floats]
"""From an arm's name to its probabilities, float64 [G, K, N, C]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The images that arms are judged by: val-B, or the test folder."""

    labels: Labels
    patients: tuple[str, ...]
    positive: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResult:
    """A finalist against one control.

    Attributes:
        control: Its arm.
        comparison: Finalist less control, on the test images.
        verdict: In words.
        bootstrap: The percentile interval, as a check.
        detectable: The smallest difference that this design finds with a chance of .8.
        chance_of_equivalent: Of being told `equivalent` if there were no difference.
        more_patients: How many would decide, where it is undecided; None also where both arms rank every image right, for
            then nothing varies that would tell.
        more_gan_seeds: Likewise.
    """

    control: Arm
    comparison: Comparison
    verdict: PairVerdict
    bootstrap: BootstrapInterval
    detectable: float
    chance_of_equivalent: float
    more_patients: Needed | None
    more_gan_seeds: Needed | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalistResult:
    """A finalist and all that it was compared with; `verdict` is None where it was not tested."""

    arm: Arm
    auroc: float
    results: tuple[ControlResult, ...]
    verdict: OverallVerdict | None


RATIO_CAVEAT = (
    "val-B selected this finalist, so its AUROC there is optimistic; "
    "read the ratio response as a description, not a test"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much higher one arm's AUROC is than another's on val-B, with a 95 % interval."""

    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatePoint:
    """The first finalist with `source: duplicate` at one ratio, on val-B; `gain` is over the ratio 0."""

    auroc: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioPoint:
    """The first finalist at one ratio, on val-B.

    Attributes:
        ratio: Extra images per real one.
        auroc: The finalist's.
        gain: Over the ratio 0.
        low: Lower end of the 95 % interval of the gain.
        high: Upper end of it.
        duplicate: The same with as many real images drawn again; None at 0 and with `matching: total`.
        over_duplicate: Gain of the finalist over these duplicates; None where there are none.
    """

    ratio: float
    auroc: float
    gain: float
    low: float
    high: float
    duplicate: DuplicatePoint | None = None
    over_duplicate: Gain | None = None


def judge_finalists(
    plan: Plan, judged: Judged, scores: ArmScores, *, rope: float, seed: int
) -> tuple[FinalistResult, ...]:
    """All finalists against all of their controls, in the order of val-B, as a fixed sequence."""
    measured = {arm.name: _measure(judged, scores(arm.name)) for arm in plan.arms if arm.role != "ratio"}
    found: list[tuple[Arm, tuple[ControlResult, ...]]] = []
    for finalist in (arm for arm in plan.arms if arm.role == "finalist"):
        results = tuple(
            _against(measured[finalist.name], measured[control.name], control, rope=rope, seed=seed)
            for control in _controls(plan, finalist)
        )
        found.append((finalist, results))
    verdicts = fixed_sequence([overall([_pair(result) for result in results]) for _, results in found])
    return tuple(
        FinalistResult(arm=arm, auroc=float(measured[arm.name][0].mean()), results=results, verdict=verdict)
        for (arm, results), verdict in zip(found, verdicts, strict=True)
    )


def ratio_response(plan: Plan, judged: Judged, scores: ArmScores) -> tuple[RatioPoint, ...]:
    """The first finalist at every ratio, in order, and duplicates beside it, against the control without extra images."""
    first = next(arm for arm in plan.arms if arm.role == "finalist")
    zero = next((arm for arm in plan.arms if _is_matched_none(arm) and arm.trial == first.trial), None)
    if zero is None:
        return ()
    base = _measure(judged, scores(zero.name))
    at_ratios = [arm for arm in plan.arms if arm.role in ("matched", "ratio") and arm.trial == first.trial]
    duplicates = {arm.parameters.synthetic_ratio: arm for arm in at_ratios if arm.parameters.source == "duplicate"}
    points = [RatioPoint(ratio=0.0, auroc=float(base[0].mean()), gain=0.0, low=0.0, high=0.0)]
    for arm in (first, *(arm for arm in at_ratios if arm.parameters.source == first.parameters.source)):
        ratio, finalist = arm.parameters.synthetic_ratio, _measure(judged, scores(arm.name))
        point = RatioPoint(ratio=ratio, auroc=float(finalist[0].mean()), **asdict(_gain(finalist, base)))
        if ratio in duplicates:
            again = _measure(judged, scores(duplicates[ratio].name))
            duplicate = DuplicatePoint(auroc=float(again[0].mean()), **asdict(_gain(again, base)))
            point = replace(point, duplicate=duplicate, over_duplicate=_gain(finalist, again))
        points.append(point)
    return tuple(sorted(points, key=lambda point: point.ratio))


def _gain(one: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> Gain:
    interval = compare(np.stack([one[0], other[0]]), np.stack([one[1], other[1]])).interval
    return Gain(gain=interval.difference, low=interval.low, high=interval.high)


def _controls(plan: Plan, finalist: Arm) -> Sequence[Arm]:
    return [arm for arm in plan.arms if arm.role == "tuned" or (arm.role == "matched" and arm.trial == finalist.trial)]


def _is_matched_none(arm: Arm) -> bool:
    return arm.role == "matched" and arm.parameters.source == "none"


def _pair(result: ControlResult) -> AgainstControl:
    return AgainstControl(
        control=result.control.name,
        is_matched_without_synthetic=_is_matched_none(result.control),
        verdict=result.verdict,
    )


def _measure(judged: Judged, probabilities: Floats) -> tuple[Floats, Floats]:
    """AUROCs [G, K] and influences [G, K, P] of an arm's probabilities [G, K, N, C]."""
    gan_seeds, classifier_seeds, images, classes = probabilities.shape
    flat = probabilities.reshape(gan_seeds * classifier_seeds, images, classes)
    found = patient_influences(judged.labels, flat, judged.patients, positive=judged.positive)
    shape = (gan_seeds, classifier_seeds)
    return found.aurocs.reshape(shape), found.influences.reshape(*shape, -1)


def _against(
    finalist: tuple[Floats, Floats], other: tuple[Floats, Floats], control: Arm, *, rope: float, seed: int
) -> ControlResult:
    aurocs, influences = np.stack([finalist[0], other[0]]), np.stack([finalist[1], other[1]])
    comparison = compare(aurocs, influences)
    verdict = judge(comparison, rope=rope)
    components = comparison.components
    design = Design(
        patients=comparison.patients,
        gan_seeds=comparison.gan_seeds,
        classifier_seeds=comparison.classifier_seeds,
    )
    is_open = verdict.words == ("undecided",) and not comparison.is_saturated
    return ControlResult(
        control=control,
        comparison=comparison,
        verdict=verdict,
        bootstrap=bootstrap_interval(aurocs, influences, seed=seed),
        detectable=smallest_detectable_difference(components, design),
        chance_of_equivalent=probability_equivalent(components, design, rope=rope),
        more_patients=patients_to_decide(components, design, rope=rope) if is_open else None,
        more_gan_seeds=gan_seeds_to_decide(components, design, rope=rope) if is_open else None,
    )


def finalist_json(finalist: FinalistResult) -> dict[str, Any]:
    """A finalist as `verdict.json` has it; docs/confirm.md says what each key means."""
    verdict = finalist.verdict
    return {
        "arm": finalist.arm.name,
        "trial": finalist.arm.trial,
        "auroc": finalist.auroc,
        "verdict": "not_tested" if verdict is None else verdict.word,
        "because_of": [] if verdict is None else list(verdict.controls),
        "comparisons": [_result_json(result) for result in finalist.results],
    }


def _result_json(result: ControlResult) -> dict[str, Any]:
    comparison = result.comparison
    return {
        "control": result.control.name,
        "role": result.control.role,
        "control_auroc": comparison.aurocs[1],
        **asdict(comparison.interval),
        "verdict": list(result.verdict.words),
        "bootstrap": {"low": result.bootstrap.low, "high": result.bootstrap.high},
        "variance_components": asdict(comparison.components),
        "is_saturated": comparison.is_saturated,
        "smallest_detectable_difference": result.detectable,
        "chance_of_equivalent": result.chance_of_equivalent,
        "patients_that_would_decide": _needed_json(result.more_patients),
        "gan_seeds_that_would_decide": _needed_json(result.more_gan_seeds),
    }


def _needed_json(needed: Needed | None) -> dict[str, Any] | None:
    return None if needed is None else asdict(needed)
