"""The threshold barely depends on the validation images, and does no harm with few of them."""

import numpy as np
import pytest
from scipy.special import expit, logit  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression

from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import Flags, Floats
from xraytune.stats.threshold import balanced_threshold, platt_scaling

MIDDLE = 2.0
"""Logit at which the classes have equal density: the best threshold for balanced accuracy."""


def overconfident_scores(
    count: int, seed: int, positive_share: float = 0.75
) -> tuple[Flags, Floats]:
    """A classifier with AUROC .98 and too large logits that lean towards the positive class."""
    generator = numpy_generator(seed, "scores")
    is_positive = np.arange(count) < round(count * positive_share)
    logits = MIDDLE + np.where(is_positive, 6.0, -6.0) + generator.normal(0, 4, count)
    return is_positive, expit(logits)


def test_threshold_of_many_images_matches_logistic_regression() -> None:
    is_positive, scores = overconfident_scores(20_000, seed=3)

    fit = LogisticRegression(C=np.inf).fit(logit(scores)[:, None], is_positive)
    crossing = (logit(is_positive.mean()) - fit.intercept_[0]) / fit.coef_[0, 0]

    assert logit(balanced_threshold(is_positive, scores)) == pytest.approx(crossing, abs=0.02)


@pytest.mark.parametrize(
    ("low", "high"), [(0.5 - 5e-10, 0.5 + 5e-10), (0.45, 0.55), (0.05, 0.95), (0.0, 1.0)]
)
def test_separated_classes_are_separated(low: float, high: float) -> None:
    is_positive = np.array([False] * 3 + [True] * 9)
    scores = np.array([low] * 3 + [high] * 9)

    assert low < balanced_threshold(is_positive, scores) <= high


@pytest.mark.parametrize("scores", [[0.2, 0.2, 0.2, 0.2], [0.9, 0.8, 0.2, 0.1]])
def test_uninformative_scores_give_threshold_one_half(scores: list[float]) -> None:
    assert balanced_threshold(np.array([False, False, True, True]), np.array(scores)) == 0.5


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_platt_scaling_undoes_a_narrow_range_of_scores(scale: float) -> None:
    """A penalty on the slope, as scikit-learn has, would leave them near the prevalence."""
    is_positive, scores = overconfident_scores(50, seed=0)
    slope, intercept = platt_scaling(is_positive, scores)
    narrow_slope, narrow_intercept = platt_scaling(is_positive, expit(scale * logit(scores)))

    assert narrow_slope * scale == pytest.approx(slope, rel=1e-3)
    assert narrow_intercept == pytest.approx(intercept, rel=1e-3)
