"""Choose the threshold from which an image is positive, by the scores of validation images.

Every score enters a smooth fit, so replacing a few validation patients changes the threshold only a
little. The maximum of a curve such as Youden's J depends on single images instead.
"""

import numpy as np
from scipy.special import expit, logit  # type: ignore[import-untyped]

from xraytune.stats.classification import Flags, Floats


def balanced_threshold(is_positive: Flags, scores: Floats) -> float:
    """Return the threshold that maximises balanced accuracy if Platt scaling fits the scores.

    At this threshold, the calibrated probability equals the prevalence, so both classes have the
    same density. The threshold lies between the lowest and the highest score; it is 0.5 if the
    scores are not higher in the positive class.

    Args:
        is_positive: Whether each image is of the positive class, bool [N]. Both classes must have
            images.
        scores: Probability of the positive class, float64 [N].
    """
    slope, intercept = platt_scaling(is_positive, scores)
    if slope <= 0:
        return 0.5
    # The mean of the targets takes the place of the prevalence. It equals the mean of the fit, so
    # the crossing lies within the scores.
    crossing = (logit(_platt_targets(is_positive).mean()) - intercept) / slope
    logits = logits_of(scores)
    return float(expit(np.clip(crossing, logits.min(), logits.max())))


def platt_scaling(is_positive: Flags, scores: Floats) -> tuple[float, float]:
    """Return the slope and intercept that map the logit of a score to its calibrated logit.

    Unlike a regression with a penalty on the slope (scikit-learn's default), the fit is the same
    however narrow the range of the scores is. Arguments are as for `balanced_threshold`. The slope
    is 0 if all scores are equal.

    From: Platt 1999, "Probabilistic Outputs for Support Vector Machines", with its regularised
    targets.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # loaded when a trial ends

    logits = logits_of(scores)
    centre = float(logits.mean())
    spread = float(logits.std())
    if spread == 0:
        return 0.0, float(logit(_platt_targets(is_positive).mean()))
    standardised = (logits - centre) / spread
    targets = _platt_targets(is_positive)

    def loss(line: Floats) -> tuple[float, Floats]:
        fitted = line[0] * standardised + line[1]
        error = expit(fitted) - targets
        value = float((np.logaddexp(0, fitted) - targets * fitted).sum())
        return value, np.array([error @ standardised, error.sum()])

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x.tolist()
    return slope / spread, offset - slope * centre / spread


def logits_of(probabilities: Floats) -> Floats:
    """Return logits that are finite even for probabilities of 0 and 1."""
    smallest = np.finfo(np.float64).eps
    return np.asarray(logit(np.clip(probabilities, smallest, 1 - smallest)))


def _platt_targets(is_positive: Flags) -> Floats:
    positives = int(is_positive.sum())
    negatives = int((~is_positive).sum())
    return np.where(is_positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
