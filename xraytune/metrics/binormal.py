"""Patient variance of the AUROC difference of two models in the binormal model: the shape of a variance, not its size.

Near an AUROC of 1 an estimated variance is small exactly when the estimated AUROC is high, so an interval that uses it is
too narrow on the side of the lower AUROC. The binormal model gives the variance as a function of the AUROCs instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, owens_t  # type: ignore[import-untyped]

from xraytune.metrics.classification import Floats

WITHIN_ARM, ACROSS_ARMS = 0.85, 0.8
"""Assumed correlations of two replicates' errors on the same image: within an arm, and between arms."""
_NEAREST = 1e-6
"""Smallest distance to an AUROC of 0 or 1."""


def placement_variance(first: ArrayLike, second: ArrayLike) -> Floats:
    """Variance of one patient's contribution to the difference of two arms' AUROCs, elementwise.

    Scores are normal with equal variances in both classes. A patient's placement is the chance that a random patient of the
    other class is ranked correctly against this one. Over n patients of one class and m of the other, the difference has
    this variance times 1/n + 1/m.

    Args:
        first: AUROC of the first arm, in [0, 1].
        second: AUROC of the second arm.
    """
    above, below = (ndtri(np.clip(auroc, _NEAREST, 1 - _NEAREST)) for auroc in (first, second))
    same = _bivariate(above, above, WITHIN_ARM / 2) + _bivariate(below, below, WITHIN_ARM / 2)
    gap = ndtr(above) - ndtr(below)
    return np.asarray(np.maximum(same - 2 * _bivariate(above, below, ACROSS_ARMS / 2) - gap**2, _NEAREST**2))


def around(mean: ArrayLike, difference: ArrayLike) -> tuple[Floats, Floats]:
    """Return two AUROCs with a given mean and difference; the mean is shifted only as needed to keep both within [0, 1]."""
    half = np.abs(np.asarray(difference)) / 2
    centre = np.clip(mean, half, np.maximum(1 - half, half))
    return np.asarray(centre + np.asarray(difference) / 2), np.asarray(centre - np.asarray(difference) / 2)


def _bivariate(first: Floats, second: Floats, correlation: float) -> Floats:
    """P(X <= first and Y <= second) of standard normal X and Y.

    Source: Owen 1956, "Tables for computing bivariate normal probabilities", equation 2.1.
    """
    first, second = (np.where(np.abs(value) < _NEAREST, _NEAREST, value) for value in (first, second))
    root = np.sqrt(1 - correlation**2)
    inner = owens_t(first, (second / first - correlation) / root) + owens_t(
        second, (first / second - correlation) / root
    )
    return np.asarray((ndtr(first) + ndtr(second)) / 2 - inner - (first * second < 0) / 2)
