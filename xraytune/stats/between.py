"""Where an arm lies between others: how many patients it is worth, or which share of a gain it has.

The others are a path: scores in between are interpolated. An interval contains the places whose
score the test of `stats/verdict.py` does not tell from the arm's. So it accounts for the draws and
the patients of both, and for what they have in common.

Source: inverse regression by inverting a test, Fieller 1954, "Some problems in interval
estimation".
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from xraytune.base.records import frozen
from xraytune.stats.placements import StructuralComponents, even_variance
from xraytune.stats.verdict import LEVEL, compare, gather, p_values

_STEPS = 200
"""On the whole path."""


@frozen
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def mean_score(measured: StructuralComponents, arm: int) -> Estimate:
    """Return the mean score of an arm of `measured`, [A, K], over replicates and patients."""
    against_zero = _mix(measured, [arm], [[1.0], [0.0]])
    found = compare(replace(against_zero, effective_patients=np.inf, variance=even_variance))
    return Estimate(value=found.difference, low=found.low, high=found.high)


def place_between(
    measured: StructuralComponents, arm: int, path: Sequence[int], at: Sequence[float]
) -> Estimate:
    """Return where an arm lies on a path of others, which are `at` these places, ascending.

    The arms are of `measured`, with scores [A, K]. A place beyond an end of the path is that end.
    The means along the path count as monotone (isotonic regression).
    """
    from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]  # takes a second

    def could_be_at(place: float) -> bool:
        on_path = [np.interp(place, at, is_there) for is_there in np.eye(len(at))]
        pair = _mix(measured, [arm, *path], [[1, *np.zeros(len(at))], [0, *on_path]])
        return min(map(float, p_values(gather(pair), 0.0))) >= LEVEL / 2

    means = measured.scores.mean(axis=1)
    value = float(np.interp(means[arm], isotonic_regression(means[[*path]]).x, at))
    places = np.linspace(at[0], at[-1], _STEPS).tolist()
    possible = [value, *filter(could_be_at, places)]
    return Estimate(value=value, low=min(possible), high=max(possible))


def _mix(
    measured: StructuralComponents, arms: Sequence[int], weights: Sequence[Sequence[float]]
) -> StructuralComponents:
    """Return two weighted sums of n arms, with weights [2, n]."""
    chosen = [*arms]
    scores = np.array(weights) @ measured.scores[chosen]
    components = np.tensordot(weights, measured.components[chosen], 1)
    return replace(measured, scores=scores, components=components)
