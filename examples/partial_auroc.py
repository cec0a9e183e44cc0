"""A metric: `xraytune evaluate` shows it, with its interval, wherever this package is installed."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score


def partial_auroc(labels: NDArray[np.int64], probabilities: NDArray[np.float64], positive: int) -> float:
    """AUROC where at most a tenth of the healthy are called ill; by chance 0.5, at best 1.

    Args:
        labels: Class numbers, int64 [N].
        probabilities: float64 [N, C].
        positive: The number of the positive class.

    Source: McClish 1989, "Analyzing a Portion of the ROC Curve".
    """
    return float(roc_auc_score(labels == positive, probabilities[:, positive], max_fpr=0.1))
