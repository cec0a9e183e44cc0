"""Check that the worth of an arm in patients has intervals that cover the truth: simulated studies with a known curve.

    make bench ONLY=worth

On a probit scale, the AUROC without extra images is linear in the logarithm of the number of patients,
so that it is not on the line between two numbers. A gift's AUROC is that of more patients. The standard
error of a share of 200 studies is .015 at .95, that of the mean of all cells .003.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from scipy.stats import norm  # type: ignore[import-untyped]

from benchmarks.figures import Figure, figure
from benchmarks.simulated_studies import Arm, simulate
from xraytune.stats.between import worth_between

_NUMBERS = (25, 50, 100, 200)
_STUDIES = 200
_SLOPE = 0.16
"""Of the probit of AUROC over log patients; as on Kermany's X-rays."""


def measure() -> Iterator[Figure]:
    """Count the intervals that contain the truth, by AUROC, scored patients, number and worth."""
    shares = []
    cases = product((0.96, 0.85), (500, 1500), (25, 50), (0, 10, 40, 110))
    for number, (lowest, patients, own, worth) in enumerate(cases):
        counts = [*_NUMBERS, own + worth]
        arms = [
            _arm(count, lowest, own if place == 4 else count) for place, count in enumerate(counts)
        ]
        studies = simulate(arms, patients=patients, replicates=5, studies=_STUDIES, seed=number)
        found = [worth_between(study, 4, _NUMBERS, own) for study in studies]
        shares.append(float(np.mean([each.low <= worth <= each.high for each in found])))
    yield figure("worth: mean coverage", float(np.mean(shares)), "share", "0.93 to 0.97")
    for what, share in (("lowest", min(shares)), ("highest", max(shares))):
        yield figure(f"worth: {what} coverage of {len(shares)} cells", share, "share")


def _arm(worth: int, lowest: float, patients: int) -> Arm:
    """Return an arm as good as `worth` patients, whose draws of `patients` vary as much as these do."""
    auroc = float(norm.cdf(norm.ppf(lowest) + _SLOPE * np.log(worth / _NUMBERS[0])))
    return Arm(auroc=auroc, replicates_sd=0.012 * np.sqrt(_NUMBERS[0] / patients))
