"""Where an arm lies between other arms: its worth in patients, or its share of a gain.

The other arms form a path along which scores grow; between two arms, scores are interpolated. An
interval ends where the test of `stats/verdict.py` no longer finds the arm better than the path, and
where the test begins to find it worse. So the interval accounts for the replicates and the patients
of the arm and of the path, and for the correlation between them.

Source: inverse regression by inverting a test, Fieller 1954, "Some problems in interval
estimation".
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from xraytune.base.records import frozen
from xraytune.stats.placements import StructuralComponents, even_variance
from xraytune.stats.verdict import LEVEL, compare, estimate_evidence, p_values

_STEPS = 200
"""Number of places on the path at which the arm is tested."""


@frozen
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def mean_score(measured: StructuralComponents, arm: int) -> Estimate:
    """Return the mean score of an arm of `measured`, [A, K], over replicates and patients."""
    against_zero = _mix(measured, [arm], [[1.0], [0.0]])
    comparison = compare(replace(against_zero, effective_patients=np.inf, variance=even_variance))
    return Estimate(value=comparison.difference, low=comparison.low, high=comparison.high)


def place_between(
    measured: StructuralComponents, arm: int, path: Sequence[int], at: Sequence[float]
) -> Estimate:
    """Return where an arm lies on a path of other arms.

    A place beyond an end of the path is limited to this end. The mean scores along the path are
    made monotone by isotonic regression.

    Args:
        measured: The scores of all arms, [A, K].
        arm: Number of the arm.
        path: Numbers of the arms on the path.
        at: Places of the arms on the path, ascending.
    """
    from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]  # takes a second

    means = measured.scores.mean(axis=1)
    value = float(np.interp(means[arm], isotonic_regression(means[[*path]]).x, at))
    better: list[float] = []
    worse: list[float] = []
    for position in np.linspace(at[0], at[-1], _STEPS).tolist():
        on_path = [np.interp(position, at, is_there) for is_there in np.eye(len(at))]
        pair = _mix(measured, [arm, *path], [[1, *np.zeros(len(at))], [0, *on_path]])
        at_most, at_least = map(float, p_values(estimate_evidence(pair), 0.0))
        if at_most < LEVEL / 2:
            better.append(position)
        if at_least < LEVEL / 2:
            worse.append(position)
    low = min(value, max(better, default=at[0]))
    high = max(value, min(worse, default=at[-1]))
    return Estimate(value=value, low=low, high=high)


def worth_between(
    measured: StructuralComponents, arm: int, numbers: Sequence[int], patients: int
) -> Estimate:
    """Return how many more patients than `patients` an arm is worth, within the range of the curve.

    The first arms of `measured` must be those without extra images, on `numbers` of patients.
    """
    found = place_between(measured, arm, range(len(numbers)), np.log(numbers).tolist())
    equal = np.exp([found.value, found.low, found.high])
    value, low, high = (equal - patients).round(3).tolist()
    return Estimate(value=value, low=low, high=high)


def _mix(
    measured: StructuralComponents, arms: Sequence[int], weights: Sequence[Sequence[float]]
) -> StructuralComponents:
    """Return two weighted sums of n arms, with weights [2, n]."""
    rows = [*arms]
    scores = np.array(weights) @ measured.scores[rows]
    components = np.tensordot(weights, measured.components[rows], 1)
    return replace(measured, scores=scores, components=components)
