"""From the scores of all runs to the answer: every comparison with its interval, the verdicts, the response to the ratio.

Pure arithmetic on AUROCs and patients' components; what is asked of it here was decided in the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import shapiro  # type: ignore[import-untyped]

from xraytune.confirm.comparison import Comparison, compare
from xraytune.confirm.forecast import (
    Design,
    Forecast,
    Spread,
    VerdictChances,
    measure_spread,
    probability_equivalent,
    smallest_detectable_difference,
    verdict_chances,
)
from xraytune.confirm.plan import Arm, Plan
from xraytune.confirm.resampling import BootstrapInterval, bootstrap_interval
from xraytune.confirm.verdict import (
    AgainstControl,
    Likeness,
    OverallVerdict,
    PairVerdict,
    fixed_sequence,
    judge,
    overall,
)
from xraytune.metrics.classification import Floats, Labels
from xraytune.metrics.placements import StructuralComponents, effective_patients, structural_components

ArmScores = Callable[[str], Floats]
"""From an arm's name to its probabilities, float64 [G, K, N, C]."""


MORE_GAN_SEEDS = (10, 20)
"""Numbers of GAN seeds that a forecast covers besides the design's own."""
_LOWER_ON_TEST = 0.03


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
        detectable: The smallest difference that this design detects with a power of .8; None if it detects none.
        chance_of_equivalent: Probability of `equivalent` if there is no difference.
    """

    control: Arm
    comparison: Comparison
    verdict: PairVerdict
    bootstrap: BootstrapInterval
    detectable: float | None
    chance_of_equivalent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalistResult:
    """A finalist and all of its comparisons.

    Attributes:
        arm: The finalist.
        auroc: Mean over its replicates, on the test images.
        gan_aurocs: The AUROC of each GAN seed, mean over its classifier seeds, [G].
        results: Against each control.
        verdict: None if it was not tested.
        larger_designs: If it is undecided: the probable verdicts of studies with more patients or GAN seeds, if the finalist
            equals all controls, and if it is better by two ROPE.
    """

    arm: Arm
    auroc: float
    gan_aurocs: tuple[float, ...]
    results: tuple[ControlResult, ...]
    verdict: OverallVerdict | None
    larger_designs: tuple[VerdictChances, ...] = ()

    @property
    def has_outlying_gan(self) -> bool:
        """Whether the GAN seeds' AUROCs are clearly not normal, as when a GAN collapses occasionally.

        Source: Shapiro & Wilk 1965, "An analysis of variance test for normality", at 1 %.
        """
        few_or_equal = len(self.gan_aurocs) < 3 or len(set(self.gan_aurocs)) < 2
        return not few_or_equal and float(shapiro(self.gan_aurocs).pvalue) < 0.01


RATIO_CAVEAT = (
    "val-B selected this finalist, so its AUROC there is optimistic; "
    "read the ratio response as a description, not a test"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The gain in AUROC of one arm over another on val-B, with a 95 % interval."""

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
        duplicate: The same with as many repeated real images; None at 0 and with `mixing: replace`.
        over_duplicate: Gain of the finalist over these duplicates; None if there are none.
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
            for control in controls_of(plan, finalist)
        )
        found.append((finalist, results))
    verdicts = fixed_sequence([overall(as_verdicts(arm, results)) for arm, results in found])
    return tuple(
        FinalistResult(
            arm=arm,
            auroc=float(measured[arm.name].aurocs.mean()),
            gan_aurocs=tuple(float(auroc) for auroc in measured[arm.name].aurocs.mean(axis=1)),
            results=results,
            verdict=verdict,
            larger_designs=_larger_designs(arm, results, measured, rope)
            if verdict is not None and verdict.word == "undecided"
            else (),
        )
        for (arm, results), verdict in zip(found, verdicts, strict=True)
    )


def forecast_verdict(plan: Plan, val_b: Judged, test: Judged, scores: ArmScores, *, rope: float) -> Forecast:
    """Forecast the verdict on the first finalist, from all replicates' scores on val-B and the size of the test folder.

    It covers true differences of 0, one and two ROPE; the plan's number of GAN seeds, 10 and 20; and two AUROCs on the test
    folder: the mean on val-B, and .03 lower, because the arms were selected on val-B, whose AUROC is often closer to the
    ceiling.

    Args:
        plan: All of its runs must be scored on val-B.
        val_b: The images of val-B.
        test: The images of the test folder, not scored yet.
        scores: Scores on val-B.
        rope: Half the width of the region of practical equivalence, in AUROC.
    """
    first = next(arm for arm in plan.arms if arm.role == "finalist")
    controls = controls_of(plan, first)
    spread = _spread([_measure(val_b, scores(arm.name)) for arm in (first, *controls)])
    patients = effective_patients(test.labels, test.patients, positive=test.positive)
    chances = tuple(
        verdict_chances(
            spread,
            Design(effective_patients=patients, gan_seeds=gan_seeds, auroc=spread.auroc - lower),
            [likeness(control, first) for control in controls],
            rope=rope,
            true_difference=ropes * rope,
        )
        for lower in (0.0, _LOWER_ON_TEST)
        for gan_seeds in (plan.gan_seeds, *(more for more in MORE_GAN_SEEDS if more > plan.gan_seeds))
        for ropes in (0, 1, 2)
        if ropes * rope <= 2 * (1 - spread.auroc)  # a larger one would put the finalist above 1
    )
    return Forecast(gan_seeds=plan.gan_seeds, val_b_auroc=spread.auroc, rope=rope, chances=chances)


def ratio_response(plan: Plan, judged: Judged, scores: ArmScores) -> tuple[RatioPoint, ...]:
    """Compare the first finalist and its duplicates with the control without extra images, at every ratio, in order."""
    first = next(arm for arm in plan.arms if arm.role == "finalist")
    zero = next((arm for arm in plan.arms if _is_matched_none(arm) and arm.trial == first.trial), None)
    if zero is None:
        return ()
    base = _measure(judged, scores(zero.name))
    at_ratios = [arm for arm in plan.arms if arm.role in ("matched", "ratio") and arm.trial == first.trial]
    duplicates = {arm.parameters.synthetic_ratio: arm for arm in at_ratios if arm.parameters.source == "duplicate"}
    points = [RatioPoint(ratio=0.0, auroc=float(base.aurocs.mean()), gain=0.0, low=0.0, high=0.0)]
    for arm in (first, *(arm for arm in at_ratios if arm.parameters.source == first.parameters.source)):
        ratio, finalist = arm.parameters.synthetic_ratio, _measure(judged, scores(arm.name))
        point = RatioPoint(ratio=ratio, auroc=float(finalist.aurocs.mean()), **asdict(_gain(finalist, base)))
        if ratio in duplicates:
            again = _measure(judged, scores(duplicates[ratio].name))
            duplicate = DuplicatePoint(auroc=float(again.aurocs.mean()), **asdict(_gain(again, base)))
            point = replace(point, duplicate=duplicate, over_duplicate=_gain(finalist, again))
        points.append(point)
    return tuple(sorted(points, key=lambda point: point.ratio))


def _gain(one: StructuralComponents, other: StructuralComponents) -> Gain:
    interval = _compared(one, other).interval
    return Gain(gain=interval.difference, low=interval.low, high=interval.high)


def controls_of(plan: Plan, finalist: Arm) -> Sequence[Arm]:
    """Return the controls that a finalist is compared with."""
    return [arm for arm in plan.arms if arm.role == "tuned" or (arm.role == "matched" and arm.trial == finalist.trial)]


def likeness(control: Arm, finalist: Arm) -> frozenset[Likeness]:
    """Return how a control compares with a finalist; with `mixing: replace`, `none` also has as many images per step."""
    if control.role != "matched":
        return frozenset()
    if control.parameters.source == "duplicate":
        return frozenset({"as many images a step"})
    if finalist.parameters.mixing == "replace":
        return frozenset({"no synthetic images", "as many images a step"})
    return frozenset({"no synthetic images"})


def as_verdicts(finalist: Arm, results: Sequence[ControlResult]) -> list[AgainstControl]:
    """Return the input of `overall`."""
    return [
        AgainstControl(control=one.control.name, likeness=likeness(one.control, finalist), verdict=one.verdict)
        for one in results
    ]


def _is_matched_none(arm: Arm) -> bool:
    return arm.role == "matched" and arm.parameters.source == "none"


def _measure(judged: Judged, probabilities: Floats) -> StructuralComponents:
    """AUROCs [G, K] and components [G, K, P] of an arm's probabilities [G, K, N, C]."""
    gan_seeds, classifier_seeds, images, classes = probabilities.shape
    flat = probabilities.reshape(gan_seeds * classifier_seeds, images, classes)
    found = structural_components(judged.labels, flat, judged.patients, positive=judged.positive)
    shape = (gan_seeds, classifier_seeds)
    return replace(found, aurocs=found.aurocs.reshape(shape), components=found.components.reshape(*shape, -1))


def _stacked(arms: Sequence[StructuralComponents]) -> tuple[Floats, Floats]:
    return np.stack([arm.aurocs for arm in arms]), np.stack([arm.components for arm in arms])


def _compared(one: StructuralComponents, other: StructuralComponents) -> Comparison:
    return compare(*_stacked([one, other]), effective_patients=one.effective_patients)


def _spread(arms: Sequence[StructuralComponents]) -> Spread:
    return measure_spread(*_stacked(arms), effective_patients=arms[0].effective_patients)


def _against(
    finalist: StructuralComponents, other: StructuralComponents, control: Arm, *, rope: float, seed: int
) -> ControlResult:
    comparison, spread = _compared(finalist, other), _spread([finalist, other])
    design = Design(effective_patients=finalist.effective_patients, gan_seeds=len(finalist.aurocs), auroc=spread.auroc)
    return ControlResult(
        control=control,
        comparison=comparison,
        verdict=judge(comparison.evidence, rope=rope),
        bootstrap=bootstrap_interval(*_stacked([finalist, other]), seed=seed),
        detectable=smallest_detectable_difference(spread, design),
        chance_of_equivalent=probability_equivalent(spread, design, rope=rope),
    )


def _larger_designs(
    finalist: Arm, results: Sequence[ControlResult], measured: Mapping[str, StructuralComponents], rope: float
) -> tuple[VerdictChances, ...]:
    own = measured[finalist.name]
    spread = _spread([own, *(measured[result.control.name] for result in results)])
    gan_seeds = len(own.aurocs)
    return tuple(
        verdict_chances(
            spread,
            Design(effective_patients=times * own.effective_patients, gan_seeds=seeds, auroc=spread.auroc),
            [likeness(result.control, finalist) for result in results],
            rope=rope,
            true_difference=ropes * rope,
        )
        for times in (1, 2, 4, 8)
        for seeds in (gan_seeds, *(more for more in MORE_GAN_SEEDS if more > gan_seeds))
        for ropes in (0, 2)
    )


def finalist_json(finalist: FinalistResult) -> dict[str, Any]:
    """A finalist as `verdict.json` has it; docs/confirm.md says what each key means."""
    verdict = finalist.verdict
    return {
        "arm": finalist.arm.name,
        "trial": finalist.arm.trial,
        "auroc": finalist.auroc,
        "gan_aurocs": list(finalist.gan_aurocs),
        "worst_gan_auroc": min(finalist.gan_aurocs),
        "verdict": "not_tested" if verdict is None else verdict.word,
        "because_of": [] if verdict is None else list(verdict.controls),
        "comparisons": [_result_json(result) for result in finalist.results],
        "larger_designs": [chances.to_json() for chances in finalist.larger_designs],
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
        "p_better_by_rope": result.verdict.p_better_by_rope,
        "smallest_detectable_difference": result.detectable,
        "chance_of_equivalent": result.chance_of_equivalent,
    }
