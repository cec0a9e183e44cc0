"""The place of an arm between others, with an interval for both."""

import numpy as np
import pytest

from benchmarks.simulated_studies import Arm, simulate
from xraytune.stats.between import Estimate, mean_score, place_between
from xraytune.stats.placements import StructuralComponents

PATH = (0.9, 0.93, 0.95, 0.965)


def study(*aurocs: float, seed: int = 0) -> StructuralComponents:
    arms = [Arm(auroc=auroc, replicates_sd=0.004) for auroc in aurocs]
    (drawn,) = simulate(arms, patients=400, replicates=5, studies=1, seed=seed)
    return drawn


def place_of(measured: StructuralComponents, arm: int) -> Estimate:
    """The place of an arm between the first four."""
    return place_between(measured, arm, range(4), range(4))


@pytest.mark.parametrize("auroc", [0.91, 0.935, 0.96])
def test_a_score_between_two_arms_lies_between_them(auroc: float) -> None:
    measured = study(*PATH, auroc)
    means = measured.scores.mean(axis=1)

    found = place_of(measured, 4)

    assert found.low < found.value < found.high
    assert np.interp(found.value, range(4), means[:4]) == pytest.approx(means[4])


def test_an_arm_beyond_the_path_is_at_its_end() -> None:
    measured = study(*PATH, 0.7, 0.999)

    worse, better = (place_of(measured, arm) for arm in (4, 5))

    assert (worse.value, worse.low, worse.high) == (0, 0, 0)
    assert (better.value, better.low, better.high) == (3, 3, 3)


def test_a_path_that_falls_by_chance_counts_as_level() -> None:
    measured = study(0.9, 0.94, 0.938, 0.96, 0.939)

    found = place_of(measured, 4)

    assert 0.5 < found.value < 3
    assert found.low < 1.5 < found.high


def test_the_interval_grows_with_the_uncertainty_of_the_path_and_of_the_arm() -> None:
    """An arm that is one of the path, in all draws, is there; one with its own chance is not."""
    measured = study(*PATH, PATH[1])

    itself = place_of(measured, 1)
    alike = place_of(measured, 4)

    assert itself.value == 1
    assert itself.high - itself.low < alike.high - alike.low


def test_a_mean_has_an_interval_over_draws_and_patients() -> None:
    measured = study(0.9)
    by_draw = measured.scores[0].std(ddof=1) / np.sqrt(5)

    found = mean_score(measured, 0)

    assert found.low < found.value < found.high <= 1
    assert (found.high - found.low) / 2 > 1.96 * by_draw
