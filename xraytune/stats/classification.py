"""Metrics of classifiers, for one set of images or many resamples: AUROC, sensitivity, ...

A metric is an entry of `METRICS`; intervals, tables, JSON and the model card follow from it. Each
is defined over weighted images: all weights are 1 for a model's own metrics, and in a bootstrap
replicate an image's weight is how often it was drawn. All replicates are computed at once, hundreds
of times faster than with scikit-learn, whose values they are (tests/stats/).

With more than two classes the prediction is the most probable class; metrics of one class are macro
one-vs-rest averages, and `positive` is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import DataError, Problem, XraytuneError

Labels: TypeAlias = NDArray[np.int64]
"""Class numbers, [N]; or findings, [N, C]: 1, 0, or -1 if unknown, which counts nowhere."""
Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Summary: TypeAlias = Literal["card", "patients", "subgroups"]
FEWEST_LABELS = 10
"""A finding is scored on images of which at least so many have it, and as many do not."""


@dataclass(frozen=True, slots=True)
class ScoredImages:
    """True classes and class probabilities of N images, and the rule that predicts a class.

    Or true and predicted findings.

    Attributes:
        labels: Class numbers, int64 [N], or findings, [N, C].
        probabilities: float64 [N, C].
        positive: The class whose probability is the score if there are two classes.
        threshold: The lowest probability that is classified as positive; not used with more than
            two classes. One for each finding, [C].
    """

    labels: Labels
    probabilities: Floats
    _: KW_ONLY
    positive: int
    threshold: float | Floats = 0.5

    @property
    def class_count(self) -> int:
        """The number of classes."""
        return int(self.probabilities.shape[1])

    @property
    def predicted(self) -> Labels:
        """Predicted class numbers, int64 [N]."""
        assert isinstance(self.threshold, float), "findings are predicted one by one"
        return predicted_classes(
            self.probabilities, positive=self.positive, threshold=self.threshold
        )

    def select(self, rows: Flags) -> ScoredImages:
        """Return some of the images."""
        return replace(self, labels=self.labels[rows], probabilities=self.probabilities[rows])

    def classes(self, numbers: Sequence[int] | None = None) -> tuple[ScoredClass, ...]:
        """Return classes against the others: by default the positive one of two, or each.

        Or the `scored_findings`.
        """
        if self.labels.ndim == 2:
            is_predicted = self.probabilities >= self.threshold
        else:
            is_predicted = self.predicted[:, None] == np.arange(self.class_count)
        return tuple(
            ScoredClass(
                is_class=is_class,
                scores=self.probabilities[:, number],
                is_predicted=is_predicted[:, number],
                is_known=is_class | is_other,
            )
            for number, is_class, is_other in one_against_rest(
                self.labels, self.class_count, self.positive, numbers
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredClass:
    """For each of N images: is it of a class, with which probability, and is the class predicted?

    Images of which it is not known whether they are of the class have no weight.
    """

    is_class: Flags
    scores: Floats
    is_predicted: Flags
    is_known: Flags


class WeightedClass:
    """One class against the others in R weightings of the images: sums of weights, float64 [R].

    Attributes:
        by_score: The weights of images of the class, and of the others, at each distinct score,
        ascending: two of [R, G].
    """

    def __init__(self, scored: ScoredClass, weights: Floats) -> None:
        weights = weights * scored.is_known
        self.total = weights.sum(axis=1)
        self.positives = weights @ scored.is_class
        self.predicted = weights @ scored.is_predicted
        self.true_positives = weights @ (scored.is_class & scored.is_predicted)
        self.true_negatives = self.total - self.positives - self.predicted + self.true_positives
        self.by_score = _weights_by_score(scored.is_class, scored.scores, weights)


def _weights_by_score(is_positive: Flags, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    sorted_weights = weights[:, order]
    positive = np.add.reduceat(sorted_weights * is_positive[order], starts, axis=1)
    return positive, np.add.reduceat(sorted_weights, starts, axis=1) - positive


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: how it is computed, what to call it, and where to show it.

    Attributes:
        name: In JSON, CSV and Python.
        label: For people.
        compute: Returns float64 [R], NaN for 0 / 0, of a `WeightedClass` if the metric is
            `of_class`, else of `ScoredImages` and weights, [R, N]; of masks, see
            `stats/segmentation.py`.
        of_class: Whether it is of one class against the others. With two classes, it is the
            positive one's.
        by_class_only: Whether, with more than two classes, the average over the classes is not
            reported.
        is_symmetric: Whether both of two classes have the same value, so the class need not be
            named.
        at_threshold: Whether it depends on the threshold.
        decimals: To show.
        summaries: The short tables that it is also in.
    """

    name: str
    label: str
    compute: Callable[..., Floats]
    _: KW_ONLY
    of_class: bool = False
    by_class_only: bool = False
    is_symmetric: bool = False
    at_threshold: bool = False
    decimals: int = 3
    summaries: tuple[Summary, ...] = ()

    def of(self, text: str, positive: str | None) -> str:
        """Add the positive of two classes to the name or label, if the metric is about it."""
        is_about_it = self.of_class and not self.is_symmetric and positive is not None
        return f"{text} ({positive})" if is_about_it else text


def _auroc(images: WeightedClass) -> Floats:
    """Return Mann-Whitney's U over the number of pairs, where ties count one half."""
    positive, other = images.by_score
    other_below = np.cumsum(other, axis=1) - other
    pairs_won = ((other_below + other / 2) * positive).sum(axis=1)
    return np.asarray(pairs_won / (positive.sum(axis=1) * other.sum(axis=1)))


def _auprc(images: WeightedClass) -> Floats:
    """Return the sum over thresholds of precision times the increase in recall."""
    positive, other = images.by_score
    descending = positive[:, ::-1]
    true = np.cumsum(descending, axis=1)
    predicted = true + np.cumsum(other[:, ::-1], axis=1)
    # Where nothing is predicted positive yet, the weight is 0, so any denominator works.
    precision = true / np.where(predicted > 0, predicted, 1)
    return np.asarray((precision * descending).sum(axis=1) / true[:, -1])


def _accuracy(images: ScoredImages, weights: Floats) -> Floats:
    return np.asarray(weights @ (images.predicted == images.labels) / weights.sum(axis=1))


def _balanced_accuracy(images: ScoredImages, weights: Floats) -> Floats:
    is_right = images.predicted == images.labels
    recalls = []
    for number in np.unique(images.labels):
        is_class = images.labels == number
        recalls.append(weights @ (is_right & is_class) / (weights @ is_class))
    return np.asarray(np.mean(recalls, axis=0))


def _brier(images: ScoredImages, weights: Floats) -> Floats:
    """Return the mean squared error of the positive of two classes, 0 to 1.

    Of more, summed over the classes, 0 to 2.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    errors = (images.probabilities - np.eye(images.class_count)[images.labels]) ** 2
    error = errors[:, images.positive] if images.class_count == 2 else errors.sum(axis=1)
    return np.asarray(weights @ error / weights.sum(axis=1))


_EVERYWHERE: tuple[Summary, ...] = ("card", "patients", "subgroups")
_rate = partial(Metric, of_class=True, by_class_only=True, at_threshold=True)
METRICS = (
    Metric("auroc", "AUROC", _auroc, of_class=True, is_symmetric=True, summaries=_EVERYWHERE),
    Metric("auprc", "AUPRC", _auprc, of_class=True, summaries=("card",)),
    Metric("accuracy", "accuracy", _accuracy, at_threshold=True, summaries=("patients",)),
    Metric(
        "balanced_accuracy",
        "balanced accuracy",
        _balanced_accuracy,
        at_threshold=True,
        summaries=("card",),
    ),
    _rate(
        "sensitivity",
        "sensitivity",
        lambda images: images.true_positives / images.positives,
        summaries=_EVERYWHERE,
    ),
    _rate(
        "specificity",
        "specificity",
        lambda images: images.true_negatives / (images.total - images.positives),
        summaries=_EVERYWHERE,
    ),
    _rate("ppv", "PPV", lambda images: images.true_positives / images.predicted),
    _rate("npv", "NPV", lambda images: images.true_negatives / (images.total - images.predicted)),
    Metric(
        "f1",
        "F1",
        lambda images: 2 * images.true_positives / (images.predicted + images.positives),
        of_class=True,
        at_threshold=True,
    ),
    Metric("brier", "Brier score", _brier),
)
CLASS_METRICS = tuple(metric for metric in METRICS if metric.of_class)


def reported_metrics(class_count: int, summary: Summary | None = None) -> tuple[Metric, ...]:
    """Return the metrics of all images with this many classes, 0 for findings.

    Or only those in a short table.
    """
    return tuple(
        metric
        for metric in METRICS
        if (class_count == 2 or not metric.by_class_only)
        and (class_count or metric.of_class)
        and (summary is None or summary in metric.summaries)
    )


def scored_findings(findings: Labels) -> list[int]:
    """Return the findings, of [N, C], with at least `FEWEST_LABELS` positives and negatives."""
    fewest = np.minimum((findings == 1).sum(axis=0), (findings == 0).sum(axis=0))
    return np.flatnonzero(fewest >= FEWEST_LABELS).tolist()


def rarest_findings(has: Flags) -> Labels:
    """Return the rarest finding that each image or patient has, [N, C] to [N]; C if it has none."""
    counts = np.where(has, has.sum(axis=0), np.inf)
    return np.asarray(np.where(has.any(axis=1), counts.argmin(axis=1), has.shape[1]))


def one_against_rest(
    labels: Labels, class_count: int, positive: int, numbers: Sequence[int] | None = None
) -> list[tuple[int, Flags, Flags]]:
    """Return the number of each class or finding, which images are of it, and which not, bool [N].

    By default, these are the positive one of two classes, each of more classes, or the
    `scored_findings`.
    """
    if labels.ndim == 2:
        chosen = scored_findings(labels) if numbers is None else numbers
        return [(number, labels[:, number] == 1, labels[:, number] == 0) for number in chosen]
    if numbers is None:
        numbers = [positive] if class_count == 2 else range(class_count)
    return [(number, labels == number, labels != number) for number in numbers]


def auroc(labels: Labels, probabilities: Floats, *, positive: int) -> float:
    """Return the area under the ROC curve.

    With more than two classes, or findings, the macro average.

    Args:
        labels: Class numbers, int64 [N], or findings, [N, C].
        probabilities: float64 [N, C].
        positive: The class whose probability is the score if there are two classes.

    Raises:
        DataError: A class has no image, or no finding has enough positives and negatives.
        ValueError: A probability is not finite.
    """
    return _mean_over_classes(_auroc, labels, probabilities, positive)


def auprc(labels: Labels, probabilities: Floats, *, positive: int) -> float:
    """Return the average precision.

    Arguments, errors and the average over more than two classes are those of `auroc`.
    """
    return _mean_over_classes(_auprc, labels, probabilities, positive)


def sensitivity_at(
    labels: Labels, probabilities: Floats, *, positive: int, specificity: float
) -> float:
    """Return the highest sensitivity at any threshold with at least this specificity; two classes.

    Images with equal scores fall on the same side of every threshold; nothing is interpolated.
    Above all scores, sensitivity is 0 and specificity 1. Arguments and errors are those of `auroc`.
    """
    require_scorable(labels, probabilities, 2)
    (scored,) = ScoredImages(labels, probabilities, positive=positive).classes()
    positives, others = WeightedClass(scored, _ones(labels)).by_score
    # Where the threshold is just above each score.
    is_specific = np.cumsum(others, axis=1) / others.sum() >= specificity
    missed = np.cumsum(positives, axis=1)[is_specific].min()
    return float((positives.sum() - missed) / positives.sum())


def _mean_over_classes(
    compute: Callable[[WeightedClass], Floats], labels: Labels, probabilities: Floats, positive: int
) -> float:
    images = ScoredImages(labels, probabilities, positive=positive)
    require_scorable(labels, probabilities, images.class_count)
    ones = _ones(labels)
    return float(np.mean([compute(WeightedClass(scored, ones)) for scored in images.classes()]))


def classification_metrics(images: ScoredImages) -> dict[str, float | None]:
    """Return the metrics of `weighted_metrics` by name, None if undefined.

    Errors as for `auroc`.
    """
    require_scorable(images.labels, images.probabilities, images.class_count)
    values = weighted_metrics(images, _ones(images.labels))
    return {name: none_if_nan(value[0]) for name, value in values.items()}


def none_if_nan(value: float) -> float | None:
    """Return a value, or None for NaN, which stands for 0 / 0 in the weighted metrics."""
    return None if np.isnan(value) else float(value)


def predicted_classes(probabilities: Floats, *, positive: int, threshold: float) -> Labels:
    """Return predicted classes, int64 [N]: of two by the threshold, else the most probable one."""
    if probabilities.shape[1] == 2:
        return np.asarray(np.where(probabilities[:, positive] >= threshold, positive, 1 - positive))
    return np.asarray(probabilities.argmax(axis=1))


def require_finite(scores: Floats) -> None:
    """Raise ValueError unless all scores are finite: with NaN, which sorts last, AUROC may be 1."""
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")


def require_finite_outputs(
    outputs: NDArray[Any], error: type[XraytuneError], where: Path | str
) -> None:
    """Raise `error` if a row of outputs, [N, C], has a value that is not finite.

    `where` names the network.
    """
    if bad := int((~np.isfinite(outputs)).any(axis=1).sum()):
        what = f"the network's output is NaN or infinite for {bad} of {len(outputs)} images"
        raise error(
            Problem(what, where, "train the network again; if it happens again, use a smaller lr")
        )


def require_scorable(labels: Labels, scores: Floats, class_count: int) -> None:
    """Raise DataError if a class has no image, or no finding can be scored.

    ValueError unless all scores are finite.
    """
    require_finite(scores)
    if labels.ndim == 2:
        if not scored_findings(labels):
            few = f"{FEWEST_LABELS} positives and {FEWEST_LABELS} negatives"
            what = f"no finding has {few} among {len(labels)} images"
            raise DataError(Problem(what, fix="use more images, or more frequent findings"))
        return
    counts = np.bincount(labels, minlength=class_count)
    if not counts.all():
        missing = f"class number {int(np.argmin(counts))} has no image among {len(labels)}"
        what = f"{missing}, so AUROC is undefined"
        raise DataError(Problem(what, fix="evaluate on images of every class"))


def weighted_metrics(images: ScoredImages, weights: Floats) -> dict[str, Floats]:
    """Return all `METRICS`, of findings the `CLASS_METRICS`, in R weightings: float64 [R] by name.

    `weights` is how often each image counts, float64 [R, N]; in every row each class has some
    weight. A predictive value is NaN where no image is predicted so.
    """
    of_classes = [weighted_class_metrics(scored, weights) for scored in images.classes()]
    metrics = {}
    for metric in METRICS:
        if metric.of_class:
            values = [of_class[metric.name] for of_class in of_classes]
            metrics[metric.name] = np.asarray(np.mean(values, axis=0))
        elif images.labels.ndim == 1:
            metrics[metric.name] = metric.compute(images, weights)
    return metrics


def weighted_class_metrics(scored: ScoredClass, weights: Floats) -> dict[str, Floats]:
    """Return the `CLASS_METRICS` of one class against the others, as `weighted_metrics` does."""
    weighted = WeightedClass(scored, weights)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return {metric.name: metric.compute(weighted) for metric in CLASS_METRICS}


def _ones(labels: Labels) -> Floats:
    return np.ones((1, len(labels)))
