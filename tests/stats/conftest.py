"""Images of two classes."""

import numpy as np

from xraytune.base.arrays import Int64Array
from xraytune.stats.classification import Floats, ScoredImages


def of_two_classes(labels: Int64Array, scores: Floats, threshold: float = 0.5) -> ScoredImages:
    return ScoredImages(
        labels, np.stack([1 - scores, scores], axis=1), positive=1, threshold=threshold
    )
