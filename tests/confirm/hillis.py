"""The published Obuchowski-Rockette/Hillis interval: the reference that confirm's score interval is tested against."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

from xraytune.stats.classification import Floats
from xraytune.stats.verdict import MOST_DEGREES, Interval


def hillis_interval(*, difference: float, mean_square: float, excess_covariance: float, readers: int) -> Interval:
    """The interval of Obuchowski & Rockette for two treatments, random readers and random cases.

    It uses the variance at the estimate; `score_interval` gives the same interval if there are many patients.

    Args:
        difference: Mean over readers.
        mean_square: MS(treatment x reader): half the sample variance of the readers' differences.
        excess_covariance: Cov2 - Cov3: how much more two readers' figures covary, over other cases, within a treatment than
            across treatments. A negative one counts as 0.
        readers: At least 2.

    Source: Obuchowski & Rockette 1995, "Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests";
    degrees of freedom: Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer ROC
    analysis", equation 9.
    """
    denominator = mean_square + max(readers * excess_covariance, 0.0)
    standard_error = math.sqrt(2 / readers * denominator)
    degrees = float(degrees_of_freedom(mean_square, denominator, readers))
    width, width_90 = (float(stdtrit(degrees, quantile)) * standard_error for quantile in (0.975, 0.95))
    if standard_error > 0:
        p_value = 2 * float(stdtr(degrees, -abs(difference) / standard_error))
    else:
        p_value = float(difference == 0)
    return Interval(
        difference=difference,
        standard_error=standard_error,
        degrees_of_freedom=degrees,
        low=difference - width,
        high=difference + width,
        low_90=difference - width_90,
        high_90=difference + width_90,
        p_value=p_value,
    )


def degrees_of_freedom(mean_square: ArrayLike, denominator: ArrayLike, readers: int) -> Floats:
    """Hillis' degrees of freedom, elementwise: readers - 1 where patients add nothing, most where readers add nothing."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        degrees = np.divide(denominator, mean_square) ** 2 * (readers - 1)
    return np.asarray(np.fmin(degrees, MOST_DEGREES))  # of 0 / 0 the latter
