"""The expected precision of a verdict is that of simulated verdicts."""

import numpy as np
import pytest

from benchmarks.simulated_studies import Arm, simulate
from xraytune.stats.placements import StructuralComponents
from xraytune.stats.precision import REPLICATE_SD, Precision, expect_precision
from xraytune.stats.verdict import compare, estimate_evidence, judge_pair

PATIENTS = 300
EFFECTIVE = 4 / (1 / 135 + 1 / 165)
"""45 % of the patients of simulated studies are normal."""


def expect(
    auroc: float = 0.955, replicates: int = 10, controls: int = 1, sd: float = REPLICATE_SD
) -> Precision:
    return expect_precision(
        auroc,
        replicates=replicates,
        patients=PATIENTS,
        effective_patients=EFFECTIVE,
        controls=controls,
        sd=sd,
    )


def draw(gain: float, auroc: float, replicates: int, studies: int) -> list[StructuralComponents]:
    arms = [Arm(auroc=auroc + side * gain / 2, replicates_sd=REPLICATE_SD) for side in (1, -1)]
    drawn = simulate(arms, patients=PATIENTS, replicates=replicates, studies=studies, seed=3)
    return [*drawn]


@pytest.mark.slow
@pytest.mark.parametrize(("auroc", "replicates"), [(0.955, 5), (0.955, 10), (0.985, 10)])
def test_the_half_width_is_the_mean_of_simulated_verdicts(auroc: float, replicates: int) -> None:
    intervals = [compare(study) for study in draw(0.0, auroc, replicates, studies=80)]

    mean = np.mean([(interval.high - interval.low) / 2 for interval in intervals])
    assert expect(auroc, replicates).half_width == pytest.approx(mean, rel=0.1)


@pytest.mark.slow
def test_the_gain_is_found_in_four_of_five_simulated_verdicts() -> None:
    studies = draw(expect().gain, 0.955, 10, studies=200)

    share = np.mean(
        [judge_pair(estimate_evidence(study), rope=0.01).is_better for study in studies]
    )
    assert share == pytest.approx(0.8, abs=0.1)


def test_replicates_narrow_the_interval_and_controls_raise_the_gain() -> None:
    few, many = (expect(replicates=replicates, controls=5) for replicates in (5, 10))

    assert many.half_width < 0.8 * few.half_width
    assert many.half_width < many.gain < many.gain_over_all
    assert expect(sd=0.03).half_width > 2 * many.half_width
    assert expect(controls=1).gain_over_all == many.gain
