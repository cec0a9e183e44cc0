"""Statistical analysis of the planned arms: comparisons, verdicts, forecast and ratio response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.stats import shapiro  # type: ignore[import-untyped]

from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.forecast import (
    Design,
    Forecast,
    measure_spread,
    probability_equivalent,
    smallest_detectable_difference,
    verdict_chances,
)
from xraytune.confirm.verdict_file import DuplicatePoint, Gain, RatioPoint
from xraytune.stats.classification import Floats, Labels
from xraytune.stats.placements import StructuralComponents
from xraytune.stats.verdict import (
    AgainstControl,
    Comparison,
    ControlKind,
    OverallVerdict,
    compare,
    fixed_sequence,
    judge,
    overall_verdict,
)
from xraytune.trial.task import Task

ArmResults = Callable[[str], Floats]
"""From an arm's name to its results per image, float64 [G, K, N, C]: class probabilities, or Dice with C = 1."""

_MORE_GAN_SEEDS = (10, 20)
"""Numbers of GAN seeds that a forecast covers besides the plan's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """The images that all arms are scored on, val-B or the test folder: labels [N], patients [N], positive class, task."""

    labels: Labels
    patients: tuple[str, ...]
    positive: int
    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScores:
    """The results of a plan's arms on one set of images."""

    plan: Plan
    images: EvaluationSet
    results: ArmResults

    def measure(self, *arms: Arm) -> StructuralComponents:
        """Return the scores [A, G, K] and structural components [A, G, K, P] of A arms."""
        images, results = self.images, np.stack([self.results(arm.name) for arm in arms])
        shape, flat = results.shape[:3], results.reshape(-1, *results.shape[3:])
        found = images.task.components(images.labels, flat, images.patients, images.positive)
        return replace(found, scores=found.scores.reshape(shape), components=found.components.reshape(*shape, -1))


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
    """

    arm: Arm
    score: float
    gan_scores: tuple[float, ...]
    comparisons: tuple[ControlResult, ...]
    verdict: OverallVerdict | None

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


def judge_finalists(test: ArmScores, *, rope: float) -> tuple[FinalistResult, ...]:
    """Compare all finalists with all of their controls, as a fixed sequence in the order of val-B."""
    finalists = test.plan.finalists
    compared = [
        tuple(_result(test, finalist, control, rope=rope) for control in test.plan.controls(finalist))
        for finalist in finalists
    ]
    verdicts = fixed_sequence([overall_verdict(results) for results in compared])
    found = []
    for arm, results, verdict in zip(finalists, compared, verdicts, strict=True):
        scores = test.measure(arm).scores[0]
        found.append(
            FinalistResult(
                arm=arm,
                score=float(scores.mean()),
                gan_scores=tuple(scores.mean(axis=1).tolist()),
                comparisons=results,
                verdict=verdict,
            )
        )
    return tuple(found)


def _result(test: ArmScores, finalist: Arm, control: Arm, *, rope: float) -> ControlResult:
    pair = test.measure(finalist, control)
    spread, comparison = measure_spread(pair), compare(pair)
    design = Design(effective_patients=pair.effective_patients, gan_seeds=test.plan.gan_seeds, score=spread.score)
    return ControlResult(
        control=control.name,
        arm=control,
        kind=control_kind(control, finalist),
        comparison=comparison,
        verdict=judge(comparison.evidence, rope=rope),
        smallest_detectable_difference=smallest_detectable_difference(spread, design),
        chance_of_equivalent=probability_equivalent(spread, design, rope=rope),
    )


def forecast_verdict(val_b: ArmScores, test: EvaluationSet, *, rope: float, gan_seeds: int | None = None) -> Forecast:
    """Forecast the verdict on the first finalist from all results on val-B and the size of the unscored test folder.

    It covers true differences of 0, one and two ROPE; `gan_seeds` GAN seeds (by default the plan's number), 10 and 20; and
    two scores on the test folder: the mean on val-B, and `optimism` lower, because val-B selected the arms.
    """
    first, gan_seeds = val_b.plan.finalists[0], gan_seeds or val_b.plan.gan_seeds
    controls = val_b.plan.controls(first)
    spread, kinds = measure_spread(val_b.measure(first, *controls)), [control_kind(one, first) for one in controls]
    patients = spread.model.effective_patients(test.labels, test.patients, test.positive)
    designs = [
        Design(effective_patients=patients, gan_seeds=seeds, score=spread.score - lower)
        for lower in (0.0, spread.model.optimism)
        for seeds in (gan_seeds, *(more for more in _MORE_GAN_SEEDS if more > gan_seeds))
    ]
    chances = tuple(
        verdict_chances(spread, design, kinds, rope=rope, true_difference=ropes * rope)
        for design in designs
        for ropes in (0, 1, 2)
        if ropes * rope <= 2 * (1 - spread.score)  # else a score is above 1
    )
    metric = val_b.images.task.metric
    return Forecast(metric=metric, gan_seeds=gan_seeds, val_b_score=spread.score, rope=rope, chances=chances)


def ratio_response(val_b: ArmScores) -> tuple[RatioPoint, ...]:
    """Compare the first finalist and its duplicates with the control without extra images, at every ratio, in order."""
    first = val_b.plan.finalists[0]
    others = [arm for arm in val_b.plan.arms if arm.role in ("matched", "ratio") and arm.trial == first.trial]
    zero = next((arm for arm in others if arm.parameters.source == "none"), None)
    if zero is None:
        return ()

    def score(arm: Arm) -> float:
        return float(val_b.measure(arm).scores.mean())

    def gain(one: Arm, other: Arm) -> Gain:
        interval = compare(val_b.measure(one, other)).interval
        return Gain(gain=interval.difference, low=interval.low, high=interval.high)

    duplicates = {arm.parameters.synthetic_ratio: arm for arm in others if arm.parameters.source == "duplicate"}
    points = [RatioPoint(ratio=0.0, score=score(zero), gain=0.0, low=0.0, high=0.0)]
    for arm in (first, *(arm for arm in others if arm.parameters.source == first.parameters.source)):
        ratio = arm.parameters.synthetic_ratio
        point = RatioPoint(ratio=ratio, score=score(arm), **asdict(gain(arm, zero)))
        if repeated := duplicates.get(ratio):
            duplicate = DuplicatePoint(score=score(repeated), **asdict(gain(repeated, zero)))
            point = replace(point, duplicate=duplicate, over_duplicate=gain(arm, repeated))
        points.append(point)
    return tuple(sorted(points, key=lambda point: point.ratio))


def control_kind(control: Arm, finalist: Arm) -> ControlKind:
    """Return how a control differs from a finalist."""
    if control.role != "matched":
        return "tuned"
    if control.parameters.source == "duplicate":
        return "duplicate"
    return "none_same_count" if finalist.parameters.mixing == "replace" else "none"
