"""How good probabilities are: AUROC, AUPRC and the figures at a threshold, for one set of images or for many resamples.

Takes labels and probabilities as arrays, gives plain numbers. Each figure is defined once, over weighted images: a
model's own figures have the weight 1 everywhere, a bootstrap replicate counts how often each image was drawn.

With more than two classes the decision is the most probable class instead of a threshold; AUROC, AUPRC and F1 are
means over the classes, each against the rest; sensitivity and specificity are of `positive` against the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.config.extensions import Extensions
from xraytune.errors import DataError, Problem

Labels: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
_CALIBRATION_BINS = 15
_Figure: TypeAlias = Callable[[Flags, Floats, Floats], Floats]
"""Of one class against the rest: (is positive [N], score [N], weights [R, N]) -> [R]."""
Metric: TypeAlias = Callable[[Labels, Floats, int], float]
"""Of another package: (labels [N], probabilities [N, C], positive) -> its value."""
METRICS = Extensions("metric")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationMetrics:
    """The figures of one model on one set of images.

    Attributes:
        images: Their number.
        auroc: Area under the ROC curve; ties count one half.
        auprc: Average precision, the step-wise area under the precision-recall curve.
        accuracy: Share of right decisions.
        balanced_accuracy: Mean recall of the classes.
        sensitivity: Share of the positive images that are called positive.
        specificity: Share of the other images that are not called positive.
        f1: 2 TP / (2 TP + FP + FN).
        brier: Mean squared error of the positive class's probability, 0 to 1; with more than two classes the mean of
            the squared errors' sum over classes, 0 to 2 (Brier 1950).
        ece: Expected calibration error: the mean distance between confidence and accuracy over 15 bins of confidence, each
            weighted by its images, 0 to 1. Confidence is the probability of the most probable class, whatever the
            threshold; the bins are of equal width and closed above (Guo et al. 2017, "On Calibration of Modern Neural
            Networks", equation 3).
    """

    images: int
    auroc: float
    auprc: float
    accuracy: float
    balanced_accuracy: float
    sensitivity: float
    specificity: float
    f1: float
    brier: float
    ece: float


def auroc(labels: Labels, probabilities: Floats, *, positive: int) -> float:
    """Area under the ROC curve; more than two classes: mean over the classes, each against the rest.

    Args:
        labels: Class numbers, int64 [N].
        probabilities: float64 [N, C].
        positive: The class whose probability is the score when C = 2.

    Raises:
        DataError: A class has no image.
        ValueError: A probability is not finite.
    """
    require_scorable(labels, probabilities, probabilities.shape[1])
    return float(_mean_over_classes(_auroc, labels, probabilities, _ones(labels), positive)[0])


def classification_metrics(
    labels: Labels, probabilities: Floats, *, positive: int, threshold: float = 0.5
) -> ClassificationMetrics:
    """All figures of one set of images.

    Args:
        labels: Class numbers, int64 [N].
        probabilities: float64 [N, C].
        positive: The class that sensitivity is about.
        threshold: Two classes: called positive from this probability on. More: not used.

    Raises:
        DataError: A class has no image.
        ValueError: A probability is not finite.
    """
    require_scorable(labels, probabilities, probabilities.shape[1])
    values = weighted_metrics(labels, probabilities, _ones(labels), positive=positive, threshold=threshold)
    return ClassificationMetrics(images=len(labels), **{name: float(value[0]) for name, value in values.items()})


def require_finite(scores: Floats) -> None:
    """Check that scores can be ranked: NaN sorts last, so an AUROC with it may be 1.

    Raises:
        ValueError: A score is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")


def require_scorable(labels: Labels, scores: Floats, class_count: int) -> None:
    """Check that each class has an image, and `require_finite`.

    Raises:
        DataError: A class has no image.
        ValueError: A score is not finite.
    """
    require_finite(scores)
    counts = np.bincount(labels, minlength=class_count)
    if not counts.all():
        what = f"class number {int(np.argmin(counts))} has no image among {len(labels)}, so AUROC has no value"
        raise DataError(Problem(what, fix="evaluate on images of every class"))


def weighted_metrics(
    labels: Labels, probabilities: Floats, weights: Floats, *, positive: int, threshold: float
) -> dict[str, Floats]:
    """All figures but `images`, for many weightings of the same images at once.

    Args:
        labels: Class numbers, int64 [N].
        probabilities: float64 [N, C].
        weights: How often each image counts, float64 [R, N]; no class may weigh 0 in a row.
        positive: The class that sensitivity is about.
        threshold: As in `classification_metrics`.

    Returns:
        Name of the figure -> float64 [R].
    """
    class_count = probabilities.shape[1]
    if class_count == 2:
        is_called = probabilities[:, positive] >= threshold
        decisions = np.where(is_called, positive, 1 - positive)
        squared_error = (probabilities[:, positive] - (labels == positive)) ** 2
    else:
        decisions = probabilities.argmax(axis=1)
        squared_error = ((probabilities - np.eye(class_count)[labels]) ** 2).sum(axis=1)

    def share(of: Flags, among: Flags) -> Floats:
        return np.asarray((weights @ (of & among)) / (weights @ among))

    everywhere = np.ones(len(labels), dtype=np.bool_)
    is_right = decisions == labels
    recalls = [share(is_right, labels == number) for number in range(class_count)]
    return {
        "auroc": _mean_over_classes(_auroc, labels, probabilities, weights, positive),
        "auprc": _mean_over_classes(_average_precision, labels, probabilities, weights, positive),
        "accuracy": share(is_right, everywhere),
        "balanced_accuracy": np.mean(recalls, axis=0),
        "sensitivity": recalls[positive],
        "specificity": share(decisions != positive, labels != positive),
        "f1": _mean_over_classes(_f1, labels, np.eye(class_count)[decisions], weights, positive),
        "brier": (weights @ squared_error) / weights.sum(axis=1),
        "ece": _calibration_error(labels, probabilities, weights),
    }


def _ones(labels: Labels) -> Floats:
    return np.ones((1, len(labels)))


def _mean_over_classes(figure: _Figure, labels: Labels, scores: Floats, weights: Floats, positive: int) -> Floats:
    class_count = scores.shape[1]
    classes = [positive] if class_count == 2 else range(class_count)
    values = [figure(labels == number, scores[:, number], weights) for number in classes]
    return np.asarray(np.mean(values, axis=0))


def _auroc(is_positive: Flags, scores: Floats, weights: Floats) -> Floats:
    """Mann-Whitney's U over the number of pairs, [R]: the chance that a positive image scores above another."""
    positive, other = _weights_by_score(is_positive, scores, weights)
    other_below = np.cumsum(other, axis=1) - other
    pairs_won = ((other_below + other / 2) * positive).sum(axis=1)
    return np.asarray(pairs_won / (positive.sum(axis=1) * other.sum(axis=1)))


def _average_precision(is_positive: Flags, scores: Floats, weights: Floats) -> Floats:
    """Sum over thresholds of precision times the gain in recall, [R]."""
    positive, other = (by_score[:, ::-1] for by_score in _weights_by_score(is_positive, scores, weights))
    found = np.cumsum(positive, axis=1)
    called = found + np.cumsum(other, axis=1)
    # Where nothing is called yet, no weight is gained either: any denominator does.
    precision = found / np.where(called > 0, called, 1)
    return np.asarray((precision * positive).sum(axis=1) / found[:, -1])


def _f1(is_positive: Flags, is_called: Floats, weights: Floats) -> Floats:
    hits = weights @ (is_called * is_positive)
    return np.asarray(2 * hits / (weights @ is_called + weights @ is_positive))


def _calibration_error(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    """Expected calibration error, [R]."""
    confidence = probabilities.max(axis=1)
    excess = confidence - (probabilities.argmax(axis=1) == labels)
    bin_of_image = np.searchsorted(np.arange(1, _CALIBRATION_BINS) / _CALIBRATION_BINS, confidence)
    gaps = [np.abs(weights @ (excess * (bin_of_image == number))) for number in range(_CALIBRATION_BINS)]
    return np.asarray(np.sum(gaps, axis=0) / weights.sum(axis=1))


def _weights_by_score(is_positive: Flags, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of the positive and of the other images at each distinct score, ascending: both [R, G]."""
    order = np.argsort(scores, kind="stable")
    sorted_scores = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_scores[1:] != sorted_scores[:-1]]))
    sorted_weights = weights[:, order]
    positive = np.add.reduceat(sorted_weights * is_positive[order], starts, axis=1)
    return positive, np.add.reduceat(sorted_weights, starts, axis=1) - positive
