"""The binormal variance agrees with simulated scores and SciPy's bivariate normal, and has the right symmetries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm  # type: ignore[import-untyped]

from xraytune.stats.placements import ACROSS_ARMS, WITHIN_ARM, around, placement_variance

AUROCS = st.floats(0, 1)


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


@given(AUROCS, AUROCS)
def test_the_order_of_the_arms_and_the_direction_of_the_scores_do_not_matter(
    first: float, second: float
) -> None:
    variance = float(placement_variance(first, second))

    assert variance > 0
    assert float(placement_variance(second, first)) == pytest.approx(variance, abs=1e-12)
    assert float(placement_variance(1 - first, 1 - second)) == pytest.approx(variance, abs=2e-6)


@given(st.floats(0.6, 0.99), st.floats(0, 1), st.floats(0, 1))
def test_at_one_mean_a_larger_difference_has_a_larger_variance(
    mean: float, one: float, other: float
) -> None:
    smaller, larger = sorted((one, other))
    room = 2 * (1 - mean)

    less, more = (
        float(placement_variance(*around(mean, share * room))) for share in (smaller, larger)
    )

    assert more >= less - 1e-9
    assert float(placement_variance(*around(mean, -larger * room))) == pytest.approx(
        more, abs=1e-12
    )
