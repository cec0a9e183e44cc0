"""Classification metrics for one set of images or for many resamples: AUROC, AUPRC and the metrics at a threshold.

Each metric is defined once, over weighted images: all weights are 1 for a model's own metrics, and in a bootstrap
replicate an image's weight is how often it was drawn.

With more than two classes the prediction is the most probable class; AUROC, AUPRC, F1, sensitivity, specificity and the
predictive values are macro one-vs-rest averages, and `positive` is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import DataError, Problem, XraytuneError

Labels: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
_CALIBRATION_BINS = 15
_BinaryMetric: TypeAlias = Callable[[Flags, Floats, Floats], Floats]
"""(is positive [N], score [N], weights [R, N]) -> [R]."""


class Score(Protocol):
    """A score such as `auroc`, from labels, int64 [N], and a network's results, float64 [N, C]; higher is better."""

    def __call__(self, labels: Labels, results: Floats, /, *, positive: int) -> float: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationMetrics:
    """The metrics of one model on one set of images.

    Attributes:
        auroc: Area under the ROC curve; ties count one half.
        auprc: Average precision.
        balanced_accuracy: Mean recall of the classes.
        sensitivity: Recall of the positive class.
        specificity: Recall of the rest.
        ppv: Share of the images predicted as positive that are (precision); None if there are none.
        npv: Share of the others that are not; None if there are none.
        f1: 2 TP / (2 TP + FP + FN).
        brier: Mean squared error of the positive class's probability, 0 to 1; with more than two classes summed over the
            classes, 0 to 2 (Brier 1950).
        ece: Expected calibration error, 0 to 1: the mean of |confidence - accuracy| over 15 confidence bins of equal width,
            closed above and weighted by their images. Confidence is the probability of the most probable class,
            regardless of the threshold (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3).
    """

    images: int
    auroc: float
    auprc: float
    accuracy: float
    balanced_accuracy: float
    sensitivity: float
    specificity: float
    ppv: float | None
    npv: float | None
    f1: float
    brier: float
    ece: float


def auroc(labels: Labels, probabilities: Floats, *, positive: int) -> float:
    """Return the area under the ROC curve; with more than two classes the macro one-vs-rest average.

    Args:
        labels: Class numbers, int64 [N].
        probabilities: float64 [N, C].
        positive: The class whose probability is the score if C = 2.

    Raises:
        DataError: A class has no image.
        ValueError: A probability is not finite.
    """
    require_scorable(labels, probabilities, probabilities.shape[1])
    return float(_mean_over_classes(_auroc, labels, probabilities, _ones(labels), positive)[0])


def auprc(labels: Labels, probabilities: Floats, *, positive: int) -> float:
    """Return the average precision. Arguments, errors and the average over more than two classes are those of `auroc`."""
    require_scorable(labels, probabilities, probabilities.shape[1])
    return float(_mean_over_classes(_average_precision, labels, probabilities, _ones(labels), positive)[0])


def sensitivity_at(labels: Labels, probabilities: Floats, *, positive: int, specificity: float) -> float:
    """Return the highest sensitivity at any threshold with at least the given specificity, for two classes.

    Images with equal scores fall on the same side of every threshold; nothing is interpolated. Above all scores,
    sensitivity is 0 and specificity 1. Arguments and errors are those of `auroc`.
    """
    require_scorable(labels, probabilities, 2)
    positives, others = weights_by_score(labels == positive, probabilities[:, positive], _ones(labels))
    # Where the threshold is just above each score.
    is_specific = np.cumsum(others, axis=1) / others.sum() >= specificity
    missed = np.cumsum(positives, axis=1)[is_specific].min()
    return float((positives.sum() - missed) / positives.sum())


def classification_metrics(
    labels: Labels, probabilities: Floats, *, positive: int, threshold: float = 0.5
) -> ClassificationMetrics:
    """Return all metrics; arguments and errors as for `auroc`.

    `threshold` is the lowest probability that is classified as positive; it is not used with more than two classes.
    """
    require_scorable(labels, probabilities, probabilities.shape[1])
    values = weighted_metrics(labels, probabilities, _ones(labels), positive=positive, threshold=threshold)
    numbers = {name: float(value[0]) for name, value in values.items()}
    ppv, npv = (known(numbers.pop(name)) for name in ("ppv", "npv"))
    return ClassificationMetrics(images=len(labels), ppv=ppv, npv=npv, **numbers)


def known(value: float) -> float | None:
    """Return a value, or None for NaN, which stands for 0 / 0 in the weighted metrics."""
    return None if np.isnan(value) else float(value)


def predicted_classes(probabilities: Floats, *, positive: int, threshold: float) -> Labels:
    """Return predicted class numbers, int64 [N]: by the threshold with two classes, else the most probable class."""
    if probabilities.shape[1] == 2:
        return np.asarray(np.where(probabilities[:, positive] >= threshold, positive, 1 - positive))
    return np.asarray(probabilities.argmax(axis=1))


def require_finite(scores: Floats) -> None:
    """Raise ValueError unless all scores are finite: NaN sorts last, so an AUROC with it may be 1."""
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")


def require_results(results: Floats, shape: tuple[int, int]) -> None:
    """Raise ValueError unless these are class probabilities, float64 [N, C], or Dice coefficients with C = 1."""
    if results.dtype != np.float64 or results.shape != shape:
        raise ValueError(f"{results.dtype} {results.shape} instead of float64 {shape}")
    if not ((results >= 0) & (results <= 1)).all():  # also of NaN
        raise ValueError("a result is not between 0 and 1")
    if shape[1] > 1 and not np.allclose(results.sum(axis=1), 1, rtol=0, atol=1e-6):
        raise ValueError("the probabilities of an image do not sum to 1")


def require_finite_outputs(outputs: NDArray[Any], error: type[XraytuneError], where: Path | str) -> None:
    """Raise `error` if a row of outputs, [N, C], has a value that is not finite; `where` names the network."""
    if bad := int((~np.isfinite(outputs)).any(axis=1).sum()):
        what = f"the network's output is NaN or infinite for {bad} of {len(outputs)} images"
        raise error(Problem(what, where, "train the network again; if it happens again, use a smaller lr"))


def require_scorable(labels: Labels, scores: Floats, class_count: int) -> None:
    """Raise DataError if a class has no image, and ValueError unless all scores are finite."""
    require_finite(scores)
    counts = np.bincount(labels, minlength=class_count)
    if not counts.all():
        what = f"class number {int(np.argmin(counts))} has no image among {len(labels)}, so AUROC is undefined"
        raise DataError(Problem(what, fix="evaluate on images of every class"))


def weighted_metrics(
    labels: Labels, probabilities: Floats, weights: Floats, *, positive: int, threshold: float
) -> dict[str, Floats]:
    """Return all metrics except `images` for many weightings of the same images: name -> float64 [R].

    `weights` is how often each image counts, float64 [R, N]; in every row each class has some weight. A predictive value
    is NaN where no image is predicted so.
    """
    class_count = probabilities.shape[1]
    predicted = predicted_classes(probabilities, positive=positive, threshold=threshold)
    of_classes = [
        weighted_class_metrics(labels == number, probabilities[:, number], predicted == number, weights)
        for number in ([positive] if class_count == 2 else range(class_count))
    ]
    means = {name: np.mean([one[name] for one in of_classes], axis=0) for name in of_classes[0]}
    return {
        "auroc": means.pop("auroc"),
        "auprc": means.pop("auprc"),
        "accuracy": weighted_accuracy(labels, predicted, weights),
        "balanced_accuracy": _weighted_balanced_accuracy(labels, predicted, weights),
        **means,
        "f1": _mean_over_classes(_f1, labels, np.eye(class_count)[predicted], weights, positive),
        "brier": weighted_brier_score(labels, probabilities, weights, positive=positive),
        "ece": _calibration_error(labels, probabilities, weights),
    }


def weighted_accuracy(labels: Labels, predicted: Labels, weights: Floats) -> Floats:
    """Return the accuracy of predicted classes, int64 [N], under weights [R, N]: float64 [R]."""
    return np.asarray(weights @ (predicted == labels) / weights.sum(axis=1))


def _weighted_balanced_accuracy(labels: Labels, predicted: Labels, weights: Floats) -> Floats:
    """Return the mean recall of the classes; see `weighted_accuracy`."""
    of_class = (labels == number for number in np.unique(labels))
    return np.asarray(np.mean([_share(predicted == labels, is_class, weights) for is_class in of_class], axis=0))


def weighted_brier_score(labels: Labels, probabilities: Floats, weights: Floats, *, positive: int) -> Floats:
    """Return `ClassificationMetrics.brier` of probabilities, [N, C], under weights [R, N]: float64 [R]."""
    if probabilities.shape[1] == 2:
        errors = (probabilities[:, positive] - (labels == positive)) ** 2
    else:
        errors = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    return np.asarray(weights @ errors / weights.sum(axis=1))


def weighted_class_metrics(is_class: Flags, scores: Floats, is_predicted: Flags, weights: Floats) -> dict[str, Floats]:
    """Return the metrics of one class against the others, as `weighted_metrics` does: name -> float64 [R].

    For each of N images: whether it is of the class, its probability of the class, and whether the class is predicted.
    """
    return {
        "auroc": _auroc(is_class, scores, weights),
        "auprc": _average_precision(is_class, scores, weights),
        "sensitivity": _share(is_predicted, is_class, weights),
        "specificity": _share(~is_predicted, ~is_class, weights),
        "ppv": _share(is_class, is_predicted, weights),
        "npv": _share(~is_class, ~is_predicted, weights),
    }


def _share(of: Flags, among: Flags, weights: Floats) -> Floats:
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return np.asarray((weights @ (of & among)) / (weights @ among))


def _ones(labels: Labels) -> Floats:
    return np.ones((1, len(labels)))


def _mean_over_classes(metric: _BinaryMetric, labels: Labels, scores: Floats, weights: Floats, positive: int) -> Floats:
    classes = [positive] if scores.shape[1] == 2 else range(scores.shape[1])
    return np.asarray(np.mean([metric(labels == each, scores[:, each], weights) for each in classes], axis=0))


def _auroc(is_positive: Flags, scores: Floats, weights: Floats) -> Floats:
    """Return Mann-Whitney's U over the number of pairs, [R]."""
    positive, other = weights_by_score(is_positive, scores, weights)
    other_below = np.cumsum(other, axis=1) - other
    pairs_won = ((other_below + other / 2) * positive).sum(axis=1)
    return np.asarray(pairs_won / (positive.sum(axis=1) * other.sum(axis=1)))


def _average_precision(is_positive: Flags, scores: Floats, weights: Floats) -> Floats:
    """Return the sum over thresholds of precision times the increase in recall, [R]."""
    positive, other = (by_score[:, ::-1] for by_score in weights_by_score(is_positive, scores, weights))
    true = np.cumsum(positive, axis=1)
    predicted = true + np.cumsum(other, axis=1)
    # Where nothing is predicted positive yet, the weight is 0, so any denominator works.
    precision = true / np.where(predicted > 0, predicted, 1)
    return np.asarray((precision * positive).sum(axis=1) / true[:, -1])


def _f1(is_positive: Flags, is_predicted: Floats, weights: Floats) -> Floats:
    true = weights @ (is_predicted * is_positive)
    return np.asarray(2 * true / (weights @ is_predicted + weights @ is_positive))


def _calibration_error(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    confidence = probabilities.max(axis=1)
    excess = confidence - (probabilities.argmax(axis=1) == labels)
    bin_of_image = np.searchsorted(np.arange(1, _CALIBRATION_BINS) / _CALIBRATION_BINS, confidence)
    gaps = [np.abs(weights @ (excess * (bin_of_image == number))) for number in range(_CALIBRATION_BINS)]
    return np.asarray(np.sum(gaps, axis=0) / weights.sum(axis=1))


def weights_by_score(is_positive: Flags, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the weights of the positive and the other images at each distinct score, ascending: both [R, G]."""
    order = np.argsort(scores, kind="stable")
    sorted_scores = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_scores[1:] != sorted_scores[:-1]]))
    sorted_weights = weights[:, order]
    positive = np.add.reduceat(sorted_weights * is_positive[order], starts, axis=1)
    return positive, np.add.reduceat(sorted_weights, starts, axis=1) - positive
