"""Statistical analysis of the scores: comparisons, verdicts, forecast and ratio response of the planned arms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

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
from xraytune.confirm.verdict import (
    AgainstControl,
    ControlKind,
    OverallVerdict,
    fixed_sequence,
    judge,
    overall_verdict,
)
from xraytune.metrics.classification import Floats, Labels
from xraytune.metrics.placements import StructuralComponents
from xraytune.pipeline.task import Task

ArmResults = Callable[[str], Floats]
"""From an arm's name to its results per image, float64 [G, K, N, C]: class probabilities, or Dice with C = 1."""

FEWEST_PATIENTS = 5
"""The fewest patients for an interval: of each class, or in total for segmentation."""
MORE_GAN_SEEDS = (10, 20)
"""Numbers of GAN seeds that a forecast covers besides the plan's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """The images that all arms are scored on, val-B or the test folder: labels [N], patients [N], positive class, task."""

    labels: Labels
    patients: tuple[str, ...]
    positive: int
    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResult(AgainstControl):
    """A finalist minus one control, the `arm`, on the test images.

    The smallest detectable difference is that with a power of .8, None if even the largest possible one is not detected;
    `chance_of_equivalent` is the probability of `equivalent` if there is no difference.
    """

    arm: Arm
    comparison: Comparison
    smallest_detectable_difference: float | None
    chance_of_equivalent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalistResult:
    """A finalist and all of its comparisons, on the test images.

    Attributes:
        score: Mean over its replicates.
        gan_scores: By GAN seed, averaged over its classifier seeds, [G].
        verdict: None if it was not tested.
        larger_designs: If it is undecided: the forecast of studies with more patients or GAN seeds, if the finalist equals
            all controls (even places) and if it is better by two ROPE (odd ones).
    """

    arm: Arm
    score: float
    gan_scores: tuple[float, ...]
    comparisons: tuple[ControlResult, ...]
    verdict: OverallVerdict | None
    larger_designs: tuple[VerdictChances, ...] = ()

    @property
    def has_outlying_gan(self) -> bool:
        """Whether the GAN seeds' scores are clearly not normal, as when a GAN collapses occasionally.

        Source: Shapiro & Wilk 1965, "An analysis of variance test for normality", at 1 %.
        """
        few_or_equal = len(self.gan_scores) < 3 or len(set(self.gan_scores)) < 2
        return not few_or_equal and float(shapiro(self.gan_scores).pvalue) < 0.01


RATIO_CAVEAT = (
    "val-B selected this finalist, so its score there is optimistic; "
    "read the ratio response as a description, not a test"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The gain in score of one arm over another on val-B, with a 95 % interval."""

    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatePoint(Gain):
    """The first finalist with `source: duplicate` at one ratio; the gain is over ratio 0."""

    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioPoint(Gain):
    """The first finalist at one ratio on val-B; the gain is over ratio 0.

    `over_duplicate` is the gain over as many repeated real images; there are none at 0 and with `mixing: replace`.
    """

    ratio: float
    score: float
    duplicate: DuplicatePoint | None = None
    over_duplicate: Gain | None = None


def judge_finalists(
    plan: Plan, images: EvaluationSet, results: ArmResults, *, rope: float
) -> tuple[FinalistResult, ...]:
    """Compare all finalists with all of their controls, as a fixed sequence in the order of val-B."""
    measured = {arm.name: measure(images, results(arm.name)) for arm in plan.arms if arm.role not in ("ratio", "worth")}
    compared = [
        tuple(_result(finalist, control, measured, rope=rope) for control in plan.controls(finalist))
        for finalist in plan.finalists
    ]
    verdicts = fixed_sequence([overall_verdict(results) for results in compared])
    return tuple(
        FinalistResult(
            arm=arm,
            score=float(measured[arm.name].scores.mean()),
            gan_scores=tuple(measured[arm.name].scores.mean(axis=1).tolist()),
            comparisons=results,
            verdict=verdict,
            larger_designs=_larger_designs(arm, results, measured, rope=rope)
            if verdict is not None and verdict.word == "undecided"
            else (),
        )
        for arm, results, verdict in zip(plan.finalists, compared, verdicts, strict=True)
    )


def forecast_verdict(
    plan: Plan,
    val_b: EvaluationSet,
    test: EvaluationSet,
    results: ArmResults,
    *,
    rope: float,
    gan_seeds: int | None = None,
) -> Forecast:
    """Forecast the verdict on the first finalist from all results on val-B and the size of the unscored test folder.

    It covers true differences of 0, one and two ROPE; `gan_seeds` GAN seeds (by default the plan's number), 10 and 20; and
    two scores on the test folder: the mean on val-B, and `optimism` lower, because val-B selected the arms.
    """
    first, gan_seeds = plan.finalists[0], gan_seeds or plan.gan_seeds
    controls = plan.controls(first)
    spread = _spread([measure(val_b, results(arm.name)) for arm in (first, *controls)])
    model = spread.model
    patients = model.effective_patients(test.labels, test.patients, test.positive)
    designs = [
        Design(effective_patients=patients, gan_seeds=seeds, score=spread.score - lower)
        for lower in (0.0, model.optimism)
        for seeds in _gan_seeds(gan_seeds)
    ]
    differences = [ropes * rope for ropes in (0, 1, 2) if ropes * rope <= 2 * (1 - spread.score)]  # else it is above 1
    kinds = [control_kind(control, first) for control in controls]
    chances = _chances(spread, designs, kinds, differences, rope=rope)
    return Forecast(metric=val_b.task.metric, gan_seeds=gan_seeds, val_b_score=spread.score, rope=rope, chances=chances)


def ratio_response(plan: Plan, images: EvaluationSet, results: ArmResults) -> tuple[RatioPoint, ...]:
    """Compare the first finalist and its duplicates with the control without extra images, at every ratio, in order."""
    first = plan.finalists[0]
    others = [arm for arm in plan.arms if arm.role in ("matched", "ratio") and arm.trial == first.trial]
    zero = next((arm for arm in others if arm.parameters.source == "none"), None)
    if zero is None:
        return ()
    base = measure(images, results(zero.name))
    duplicates = {arm.parameters.synthetic_ratio: arm for arm in others if arm.parameters.source == "duplicate"}
    points = [RatioPoint(ratio=0.0, score=float(base.scores.mean()), gain=0.0, low=0.0, high=0.0)]
    for arm in (first, *(arm for arm in others if arm.parameters.source == first.parameters.source)):
        ratio, finalist = arm.parameters.synthetic_ratio, measure(images, results(arm.name))
        point = RatioPoint(ratio=ratio, score=float(finalist.scores.mean()), **asdict(_gain(finalist, base)))
        if ratio in duplicates:
            repeated = measure(images, results(duplicates[ratio].name))
            duplicate = DuplicatePoint(score=float(repeated.scores.mean()), **asdict(_gain(repeated, base)))
            point = replace(point, duplicate=duplicate, over_duplicate=_gain(finalist, repeated))
        points.append(point)
    return tuple(sorted(points, key=lambda point: point.ratio))


def control_kind(control: Arm, finalist: Arm) -> ControlKind:
    """Return how a control differs from a finalist."""
    if control.role != "matched":
        return "tuned"
    if control.parameters.source == "duplicate":
        return "duplicate"
    return "none_same_count" if finalist.parameters.mixing == "replace" else "none"


def measure(images: EvaluationSet, results: Floats) -> StructuralComponents:
    """Return the scores [G, K] and structural components [G, K, P] of an arm's results [G, K, N, C]."""
    shape = results.shape[:2]
    flat = results.reshape(-1, *results.shape[2:])
    found = images.task.components(images.labels, flat, images.patients, images.positive)
    return replace(found, scores=found.scores.reshape(shape), components=found.components.reshape(*shape, -1))


def _stacked(arms: Sequence[StructuralComponents]) -> tuple[Floats, Floats]:
    return np.stack([arm.scores for arm in arms]), np.stack([arm.components for arm in arms])


def _spread(arms: Sequence[StructuralComponents]) -> Spread:
    first = arms[0]
    return measure_spread(*_stacked(arms), effective_patients=first.effective_patients, model=first.model)


def compare_arms(one: StructuralComponents, other: StructuralComponents) -> Comparison:
    """Compare two arms by what `measure` returned."""
    return compare(*_stacked([one, other]), effective_patients=one.effective_patients, model=one.model)


def _gain(one: StructuralComponents, other: StructuralComponents) -> Gain:
    interval = compare_arms(one, other).interval
    return Gain(gain=interval.difference, low=interval.low, high=interval.high)


def _result(finalist: Arm, control: Arm, measured: Mapping[str, StructuralComponents], *, rope: float) -> ControlResult:
    pair = [measured[finalist.name], measured[control.name]]
    patients, spread, comparison = pair[0].effective_patients, _spread(pair), compare_arms(*pair)
    design = Design(effective_patients=patients, gan_seeds=len(pair[0].scores), score=spread.score)
    return ControlResult(
        control=control.name,
        arm=control,
        kind=control_kind(control, finalist),
        comparison=comparison,
        verdict=judge(comparison.evidence, rope=rope),
        smallest_detectable_difference=smallest_detectable_difference(spread, design),
        chance_of_equivalent=probability_equivalent(spread, design, rope=rope),
    )


def _larger_designs(
    finalist: Arm, results: Sequence[ControlResult], measured: Mapping[str, StructuralComponents], *, rope: float
) -> tuple[VerdictChances, ...]:
    own = measured[finalist.name]
    spread = _spread([own, *(measured[result.control] for result in results)])
    designs = [
        Design(effective_patients=times * own.effective_patients, gan_seeds=gan_seeds, score=spread.score)
        for times in (1, 2, 4, 8)
        for gan_seeds in _gan_seeds(len(own.scores))
    ]
    return _chances(spread, designs, [result.kind for result in results], (0.0, 2 * rope), rope=rope)


def _gan_seeds(planned: int) -> tuple[int, ...]:
    return (planned, *(more for more in MORE_GAN_SEEDS if more > planned))


def _chances(
    spread: Spread,
    designs: Iterable[Design],
    kinds: Sequence[ControlKind],
    differences: Sequence[float],
    *,
    rope: float,
) -> tuple[VerdictChances, ...]:
    return tuple(
        verdict_chances(spread, design, kinds, rope=rope, true_difference=difference)
        for design in designs
        for difference in differences
    )
