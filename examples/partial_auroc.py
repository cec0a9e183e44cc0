"""A metric: `xraytune evaluate` reports it with an interval wherever this package is installed."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score


def partial_auroc(labels: NDArray[np.int64], probabilities: NDArray[np.float64], positive: int) -> float:
    """Return the standardised partial AUROC for false positive rates up to 0.1: 0.5 by chance, 1 at best.

    Args:
        labels: Class indices, int64 [N].
        probabilities: float64 [N, C].
        positive: Index of the positive class.

    Source: McClish 1989, "Analyzing a Portion of the ROC Curve".
    """
    return float(roc_auc_score(labels == positive, probabilities[:, positive], max_fpr=0.1))
