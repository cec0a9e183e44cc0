"""Choose the threshold from which an image is positive, by the scores of validation images.

Every score enters a smooth fit, so replacing a few validation patients changes the threshold
little, unlike the maximum of a curve such as Youden's J, which depends on single images.
"""

import numpy as np
from scipy.special import expit, logit  # type: ignore[import-untyped]

from xraytune.stats.classification import Flags, Floats


def balanced_threshold(is_positive: Flags, scores: Floats) -> float:
    """Return the threshold for balanced accuracy: the calibrated probability is the prevalence.

    There both classes have the same density, so sensitivity plus specificity is largest if the fit,
    Platt scaling, is right. The threshold lies between the lowest and the highest score; it is 0.5
    if the scores do not increase with the class.

    Classes are bool [N], scores the probability of the positive class, float64 [N].
    Both classes have images.
    """
    slope, intercept = platt_scaling(is_positive, scores)
    if slope <= 0:
        return 0.5
    # Not the prevalence but the targets' mean, which equals the fit's mean, so the crossing lies
    # within the scores.
    crossing = (logit(_platt_targets(is_positive).mean()) - intercept) / slope
    logits = logits_of(scores)
    return float(expit(np.clip(crossing, logits.min(), logits.max())))


def platt_scaling(is_positive: Flags, scores: Floats) -> tuple[float, float]:
    """Return slope and intercept of the logit of the calibrated probability on that of the score.

    Unlike a regression with a penalty on the slope (scikit-learn's default), the fit is the same
    however narrow the range of the scores is. Arguments are those of `balanced_threshold`; the
    slope is 0 if all scores are equal.

    Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines", with its regularised
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
    """Return finite logits, also of 0 and 1."""
    smallest = np.finfo(np.float64).eps
    return np.asarray(logit(np.clip(probabilities, smallest, 1 - smallest)))


def _platt_targets(is_positive: Flags) -> Floats:
    positives = int(is_positive.sum())
    others = int((~is_positive).sum())
    return np.where(is_positive, (positives + 1) / (positives + 2), 1 / (others + 2))
