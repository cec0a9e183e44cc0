"""Choose the threshold at which an image is classified as positive, from scores of validation images.

Every score enters a smooth fit, so replacing a few validation patients changes the threshold
little, unlike the maximum of a curve such as Youden's J, which depends on single images.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit  # type: ignore[import-untyped]

from xraytune.stats.classification import Flags, Floats, require_scorable


def balanced_threshold(is_positive: Flags, scores: Floats) -> float:
    """Return the threshold for balanced accuracy, where the calibrated probability equals the prevalence.

    There both classes have the same density, so sensitivity plus specificity is largest if the fit,
    Platt scaling, is right. The threshold lies between the lowest and the highest score; it is 0.5
    if the scores do not increase with the class.

    Classes are bool [N], scores the probability of the positive class, float64 [N].

    Raises:
        DataError: All images are positive, or none is.
        ValueError: A score is not finite.

    Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines", with its regularised
    targets.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # loaded when a trial ends

    require_scorable(is_positive.astype(np.int64), scores, 2)
    smallest = np.finfo(np.float64).eps
    logits = np.asarray(logit(np.clip(scores, smallest, 1 - smallest)))
    centre, spread = float(logits.mean()), float(logits.std())
    if spread == 0:
        return 0.5
    standardised = (logits - centre) / spread
    positives, others = int(is_positive.sum()), int((~is_positive).sum())
    targets = np.where(is_positive, (positives + 1) / (positives + 2), 1 / (others + 2))

    def loss(line: Floats) -> tuple[float, Floats]:
        fitted = line[0] * standardised + line[1]
        error = expit(fitted) - targets
        return float((np.logaddexp(0, fitted) - targets * fitted).sum()), np.array(
            [error @ standardised, error.sum()]
        )

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    if slope <= 0:
        return 0.5
    # Not the prevalence but the targets' mean, which equals the fit's mean, so the crossing lies
    # within the scores.
    crossing = np.clip(
        (logit(targets.mean()) - offset) / slope, standardised.min(), standardised.max()
    )
    return float(expit(centre + spread * float(crossing)))
