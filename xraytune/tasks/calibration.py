"""Adapt the probabilities of a classifier of two classes to a hospital, with a few of its images.

Scores are usually shifted at another hospital. Platt scaling, a logistic regression of the class on
the logit of the model's probability, corrects that; the ranking of the images stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import expit  # type: ignore[import-untyped]

from xraytune.stats.classification import Flags, Floats
from xraytune.stats.threshold import logits_of, platt_scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The calibrated probability is sigmoid(slope * logit(p) + intercept), p being the model's.

    Attributes:
        images: The number of images that it was fitted to, of so many `patients`.
        threshold: The share of positives among them: the calibrated probability with the best
            balanced accuracy.
    """

    images: int
    patients: int
    slope: float
    intercept: float
    threshold: float

    def apply(self, probabilities: Floats, positive: int) -> Floats:
        """Return calibrated probabilities of two classes, float64 [N, 2]."""
        calibrated = probabilities.copy()
        logits = logits_of(probabilities[:, positive])
        calibrated[:, positive] = expit(self.slope * logits + self.intercept)
        calibrated[:, 1 - positive] = 1 - calibrated[:, positive]
        return calibrated


def fit_calibration(scores: Floats, is_positive: Flags, patient_count: int) -> Calibration:
    """Fit a calibration to probabilities of the positive class, float64 [N].

    Its slope may be negative.
    """
    slope, intercept = platt_scaling(is_positive, scores)
    return Calibration(
        images=len(scores),
        patients=patient_count,
        slope=slope,
        intercept=intercept,
        threshold=float(is_positive.mean()),
    )
