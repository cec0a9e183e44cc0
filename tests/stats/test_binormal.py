"""The binormal variance agrees with simulated scores and SciPy, and has its symmetries."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm  # type: ignore[import-untyped]

from xraytune.stats.placements import ACROSS_ARMS, WITHIN_ARM, placement_variance


@pytest.mark.parametrize(
    ("first", "second"),
    [(0.5, 0.5), (0.9, 0.9), (0.955, 0.945), (0.99, 0.975), (0.3, 0.8), (0.5, 0.7)],
)
def test_covariance_equals_scipy_bivariate_normal(first: float, second: float) -> None:
    def product_of_placements(one: float, other: float, correlation: float) -> float:
        spread = np.array([[1, correlation / 2], [correlation / 2, 1]])
        return float(multivariate_normal([0, 0], spread).cdf(norm.ppf([one, other])))

    same = sum(product_of_placements(auroc, auroc, WITHIN_ARM) for auroc in (first, second))
    expected = same - 2 * product_of_placements(first, second, ACROSS_ARMS) - (first - second) ** 2

    assert float(placement_variance(first, second)) == pytest.approx(expected, rel=1e-4, abs=1e-7)
