"""Metrics of classifiers, for one set of images or many resamples: AUROC, sensitivity, ...

A metric is an entry of `METRICS`; tables, JSON and the model card follow from it. Each metric is
computed over weighted images: all weights are 1 for a model's own metrics, and in a bootstrap
replicate an image's weight is how often it is chosen. All replicates are computed at once, which is
hundreds of times faster than scikit-learn and gives the same values (tests/stats/).

With more than two classes, the prediction is the most probable class, metrics of one class are
macro one-vs-rest averages, and `positive` is not used.
"""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from xraytune.base.arrays import AnyArray, BoolArray, Float64Array, Int64Array
from xraytune.base.errors import DataError, XraytuneError
from xraytune.base.records import frozen

Labels: TypeAlias = Int64Array
"""Class numbers, [N], or findings, [N, C]: 1, 0, or -1 if unknown. Unknown findings are ignored."""
Floats: TypeAlias = Float64Array
Flags: TypeAlias = BoolArray
FEWEST_LABELS = 10
"""A finding is scored if at least this many images have it and at least this many do not."""
LEAST_FIT = 0.6
"""Where the classifier of another hospital has a smaller AUROC on a study's patients, what this
hospital sent did harm (docs/studies/two_hospitals.md)."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's names, and where it is reported.

    Attributes:
        name: Name in JSON, CSV and Python.
        label: Name for people.
        of_class: Whether the metric is of one class against the others. With two classes, this is
            the positive class.
        is_averaged: Whether the average over more than two classes is reported.
        on_card: Whether the metric is on the model card.
        of_subgroups: Whether the metric is reported for subgroups.
        is_secondary: Whether `confirm` also compares arms by the metric.
        decimals: Number of decimals to show.
    """

    name: str
    label: str
    of_class: bool = False
    is_averaged: bool = True
    on_card: bool = False
    of_subgroups: bool = False
    is_secondary: bool = False
    decimals: int = 3

    def of(self, text: str, positive: str | None) -> str:
        """Return a name or label, with the positive of two classes if the metric depends on it."""
        # The AUROC of both classes is the same.
        is_about_it = self.of_class and self.name != "auroc" and positive is not None
        return f"{text} ({positive})" if is_about_it else text


METRICS = (
    Metric("auroc", "AUROC", of_class=True, on_card=True, of_subgroups=True),
    Metric("auprc", "AUPRC", of_class=True, on_card=True, is_secondary=True),
    Metric("accuracy", "accuracy"),
    Metric("balanced_accuracy", "balanced accuracy", on_card=True, is_secondary=True),
    Metric(
        "sensitivity",
        "sensitivity",
        of_class=True,
        is_averaged=False,
        on_card=True,
        of_subgroups=True,
    ),
    Metric(
        "specificity",
        "specificity",
        of_class=True,
        is_averaged=False,
        on_card=True,
        of_subgroups=True,
    ),
    Metric("ppv", "PPV", of_class=True, is_averaged=False),
    Metric("npv", "NPV", of_class=True, is_averaged=False),
    Metric("f1", "F1", of_class=True),
    Metric("brier", "Brier score", is_secondary=True),
)
CLASS_METRICS = tuple(metric for metric in METRICS if metric.of_class)


def reported_metrics(class_count: int) -> tuple[Metric, ...]:
    """Return the metrics that are reported with this many classes, or with findings (0)."""
    return tuple(
        metric
        for metric in METRICS
        if (class_count == 2 or metric.is_averaged) and (class_count or metric.of_class)
    )


@frozen
class ScoredClass:
    """One class or finding of N images, against the others.

    Attributes:
        is_class, is_other: Whether each image is of the class, and whether it is not; both are
            False if this is unknown.
        scores: Probability of the class.
        is_predicted: Whether the class is predicted.
    """

    is_class: Flags
    is_other: Flags
    scores: Floats
    is_predicted: Flags


@dataclass(frozen=True, slots=True)
class ScoredImages:
    """True classes or findings of N images, their probabilities, and the rule for predictions.

    Attributes:
        labels: Class numbers, int64 [N], or findings, [N, C].
        probabilities: Probabilities of the classes or findings, float64 [N, C].
        positive: The class whose probability is the score if there are two classes.
        threshold: The lowest probability that is classified as positive; not used with more than
            two classes. For findings, it may be an array with a threshold for each finding, [C].
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

    def classes(self, *, both: bool = False) -> tuple[ScoredClass, ...]:
        """Return each class against the others, or each of the `scored_findings`.

        If there are two classes, only the positive one is returned, unless `both`.
        """
        if self.labels.ndim == 2:
            is_predicted = self.probabilities >= self.threshold
        else:
            is_predicted = self.predicted[:, None] == np.arange(self.class_count)
        sides = one_against_rest(self.labels, self.class_count, None if both else self.positive)
        return tuple(
            ScoredClass(
                is_class=is_class,
                is_other=is_other,
                scores=self.probabilities[:, index],
                is_predicted=is_predicted[:, index],
            )
            for index, is_class, is_other in sides
        )


def are_averaged(labels: Labels, results: Floats) -> bool:
    """Return whether results, [..., C], are averaged, as the Dice of masks, which have no labels.

    The results of a single finding, which has labels [N, 1], are no such ones.
    """
    return labels.ndim == 1 and results.shape[-1] == 1


def predicted_classes(probabilities: Floats, *, positive: int, threshold: float) -> Labels:
    """Return predicted classes, int64 [N].

    Of two classes, the positive one is predicted if its probability reaches the threshold; of
    more, the most probable one.
    """
    if probabilities.shape[1] == 2:
        return np.asarray(np.where(probabilities[:, positive] >= threshold, positive, 1 - positive))
    return np.asarray(probabilities.argmax(axis=1))


def one_against_rest(
    labels: Labels, class_count: int, positive: int | None
) -> list[tuple[int, Flags, Flags]]:
    """Return the number of each class or finding, which images are of it, and which not, bool [N].

    If there are two classes, only `positive` is returned, unless it is None. Of findings, the
    `scored_findings` are returned.
    """
    if labels.ndim == 2:
        scored = scored_findings(labels)
        return [(index, labels[:, index] == 1, labels[:, index] == 0) for index in scored]
    indices = range(class_count) if class_count > 2 or positive is None else [positive]
    return [(index, labels == index, labels != index) for index in indices]


def scored_findings(findings: Labels) -> list[int]:
    """Return the numbers of the findings that can be scored, given findings [N, C].

    Each has at least `FEWEST_LABELS` positive and `FEWEST_LABELS` negative images.
    """
    rarer_counts = np.minimum((findings == 1).sum(axis=0), (findings == 0).sum(axis=0))
    return np.flatnonzero(rarer_counts >= FEWEST_LABELS).tolist()


def rarest_findings(is_present: Flags) -> Labels:
    """Return the rarest finding, [N], that each image or patient has, [N, C]; C if it has none."""
    counts = np.where(is_present, is_present.sum(axis=0), np.inf)
    return np.asarray(np.where(is_present.any(axis=1), counts.argmin(axis=1), is_present.shape[1]))


def weighted_metrics(images: ScoredImages, weights: Floats) -> dict[str, Floats]:
    """Return all `METRICS`, or the `CLASS_METRICS` of findings, by name, each float64 [R].

    `weights` is how often each image counts in each of R weightings, float64 [R, N]; in every row,
    each class has some weight. A predictive value is NaN where no image has the predicted class.

    Origin of the Brier score: Brier 1950, "Verification of forecasts expressed in terms of
    probability". With two classes, it is the mean squared error of the positive class's
    probability, from 0 to 1. With more, the squared errors are summed over the classes, so that it
    is from 0 to 2.
    """
    by_class = [weighted_class_metrics(scored, weights) for scored in images.classes()]
    values = {
        metric.name: np.mean([class_metrics[metric.name] for class_metrics in by_class], axis=0)
        for metric in CLASS_METRICS
    }
    if images.labels.ndim == 1:
        total = weights.sum(axis=1)
        is_right = images.predicted == images.labels
        recalls = []
        for label in np.unique(images.labels):
            is_class = images.labels == label
            recalls.append(weights @ (is_right & is_class) / (weights @ is_class))
        errors = (images.probabilities - np.eye(images.class_count)[images.labels]) ** 2
        error = errors[:, images.positive] if images.class_count == 2 else errors.sum(axis=1)
        values["accuracy"] = weights @ is_right / total
        values["balanced_accuracy"] = np.mean(recalls, axis=0)
        values["brier"] = weights @ error / total
    return values


def weighted_class_metrics(scored: ScoredClass, weights: Floats) -> dict[str, Floats]:
    """Return the `CLASS_METRICS` of one class against the others, as `weighted_metrics` does."""
    positives = weights @ scored.is_class
    negatives = weights @ scored.is_other
    true_positives = weights @ (scored.is_class & scored.is_predicted)
    true_negatives = weights @ (scored.is_other & ~scored.is_predicted)
    predicted = true_positives + negatives - true_negatives

    class_weights, other_weights = _weights_at_scores(scored, weights)
    # Mann-Whitney's U: the pairs that are in order, where ties count one half.
    others_below = np.cumsum(other_weights, axis=1) - other_weights
    pairs = ((others_below + other_weights / 2) * class_weights).sum(axis=1)
    # The sum over thresholds of precision times the increase in recall. Where nothing is predicted
    # positive yet, the weight is 0, so any denominator works.
    descending = class_weights[:, ::-1]
    true = np.cumsum(descending, axis=1)
    above = true + np.cumsum(other_weights[:, ::-1], axis=1)
    precision = true / np.where(above > 0, above, 1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return {
            "auroc": pairs / (positives * negatives),
            "auprc": (precision * descending).sum(axis=1) / positives,
            "sensitivity": true_positives / positives,
            "specificity": true_negatives / negatives,
            "ppv": true_positives / predicted,
            "npv": true_negatives / (negatives + positives - predicted),
            "f1": 2 * true_positives / (predicted + positives),
        }


def weighted_sensitivity_at(scored: ScoredClass, weights: Floats, specificity: float) -> Floats:
    """Return `sensitivity_at` of one class against the others, as `weighted_metrics` does."""
    class_weights, other_weights = _weights_at_scores(scored, weights)
    # The thresholds are the distinct scores, and one above all of them.
    others_below = np.cumsum(other_weights, axis=1) - other_weights
    negatives = other_weights.sum(axis=1, keepdims=True)
    is_specific = others_below >= specificity * negatives - _ROUNDING
    return np.asarray((class_weights * is_specific).sum(axis=1) / class_weights.sum(axis=1))


def _weights_at_scores(scored: ScoredClass, weights: Floats) -> tuple[Floats, Floats]:
    """Return the weights of a class and of the others at each distinct score, ascending, [R, S]."""
    order = np.argsort(scored.scores, kind="stable")
    starts = np.flatnonzero(np.diff(scored.scores[order], prepend=-np.inf))
    class_weights, other_weights = (
        np.add.reduceat((weights * side)[:, order], starts, axis=1)
        for side in (scored.is_class, scored.is_other)
    )
    return class_weights, other_weights


def auroc(labels: Labels, probabilities: Floats, *, positive: int) -> float:
    """Return the area under the ROC curve.

    With more than two classes or with findings, the macro average is returned.

    Args:
        labels: Class numbers, int64 [N], or findings, [N, C].
        probabilities: float64 [N, C].
        positive: The class whose probability is the score if there are two classes.

    Raises:
        DataError: A class has no image, or no finding has enough positives and negatives.
        ValueError: A probability is not finite.
    """
    return _measure(labels, probabilities, positive)["auroc"].item()


def auprc(labels: Labels, probabilities: Floats, *, positive: int) -> float:
    """Return the average precision.

    Arguments, errors and the average over more than two classes are as for `auroc`.
    """
    return _measure(labels, probabilities, positive)["auprc"].item()


def _measure(labels: Labels, probabilities: Floats, positive: int) -> dict[str, Floats]:
    require_scorable(labels, probabilities)
    images = ScoredImages(labels, probabilities, positive=positive)
    return weighted_metrics(images, np.ones((1, len(labels))))


def sensitivity_at(
    labels: Labels, probabilities: Floats, *, positive: int, specificity: float
) -> float:
    """Return the highest sensitivity at any threshold with at least this specificity.

    There must be two classes. Images with equal scores fall on the same side of every threshold;
    nothing is interpolated. At a threshold above all scores, sensitivity is 0 and specificity is 1.
    Arguments and errors are as for `auroc`.
    """
    require_scorable(labels, probabilities)
    (scored,) = ScoredImages(labels, probabilities, positive=positive).classes()
    weights = np.ones((1, len(labels)))
    return weighted_sensitivity_at(scored, weights, specificity).item()


def require_finite_outputs(
    outputs: AnyArray, error: type[XraytuneError], where: Path | str
) -> None:
    """Raise `error` if a row of outputs, [N, C], has a value that is not finite.

    `where` names the network.
    """
    bad = int((~np.isfinite(outputs)).any(axis=1).sum())
    if bad:
        raise error(
            f"the network's output is NaN or infinite for {bad} of {len(outputs)} images",
            where,
            "train the network again; if it happens again, use a smaller lr",
        )


def require_scorable(labels: Labels, scores: Floats) -> None:
    """Raise DataError if a class has no image, or no finding can be scored; scores are [..., C].

    Raises ValueError if a score is not finite: NaN sorts last, so AUROC might be 1.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if labels.ndim == 2:
        if not scored_findings(labels):
            few = f"{FEWEST_LABELS} positives and {FEWEST_LABELS} negatives"
            raise DataError(
                f"no finding has {few} among {len(labels)} images",
                fix="use more images, or more frequent findings",
            )
    elif not np.bincount(labels, minlength=scores.shape[-1]).all():
        raise DataError(
            "a class has no image, so AUROC is undefined", fix="evaluate on images of every class"
        )
