"""Metrics agree with scikit-learn, including ties and weights."""

import numpy as np
import pytest
from sklearn import metrics as reference

from tests.stats.conftest import of_two_classes
from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import (
    Floats,
    Labels,
    ScoredImages,
    auroc,
    sensitivity_at,
    weighted_metrics,
)
from xraytune.stats.intervals import measure


def unweighted(images: ScoredImages) -> dict[str, float | None]:
    return measure(images, [""] * len(images.labels), resample_count=0).metrics


def images_with_ties(
    class_count: int, image_count: int = 120, seed: int = 3
) -> tuple[Labels, Floats]:
    """Draw labels of all classes, and probabilities on a coarse grid, with many ties."""
    generator = numpy_generator(seed, "images")
    labels = np.concatenate(
        [np.arange(class_count), generator.integers(0, class_count, image_count - class_count)]
    )
    raw = generator.integers(1, 6, (image_count, class_count)).astype(np.float64)
    raw[np.arange(image_count), labels] += 2
    return labels, raw / raw.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("class_count", "positive", "threshold"), [(2, 0, 0.3), (2, 1, 0.5), (3, 2, 0.5)]
)
def test_figures_equal_scikit_learn(class_count: int, positive: int, threshold: float) -> None:
    """Those of one class are of the positive one of two, else means over the classes."""
    labels, probabilities = images_with_ties(class_count)
    images = ScoredImages(labels, probabilities, positive=positive, threshold=threshold)
    called = images.predicted
    scored = [positive] if class_count == 2 else range(class_count)
    expected: dict[str, list[float]] = {
        "accuracy": [reference.accuracy_score(labels, called)],
        "balanced_accuracy": [reference.balanced_accuracy_score(labels, called)],
    }
    for number in scored:
        truth = labels == number
        score = probabilities[:, number]
        is_called = called == number
        for name, value in {
            "auroc": reference.roc_auc_score(truth, score),
            "auprc": reference.average_precision_score(truth, score),
            "sensitivity": reference.recall_score(truth, is_called),
            "specificity": reference.recall_score(~truth, ~is_called),
            "ppv": reference.precision_score(truth, is_called),
            "npv": reference.precision_score(~truth, ~is_called),
            "f1": reference.f1_score(truth, is_called),
            "brier": reference.brier_score_loss(truth, score) * len(scored),
        }.items():
            expected.setdefault(name, []).append(value)

    figures = unweighted(images)

    assert figures == pytest.approx({name: np.mean(values) for name, values in expected.items()})


def test_a_predictive_value_is_undefined_where_nothing_is_predicted() -> None:
    labels, probabilities = images_with_ties(2)

    none_positive = unweighted(ScoredImages(labels, probabilities, positive=1, threshold=2.0))
    all_positive = unweighted(ScoredImages(labels, probabilities, positive=1, threshold=0.0))

    assert (none_positive["ppv"], all_positive["npv"]) == (None, None)
    assert none_positive["npv"] == pytest.approx(np.mean(labels == 0))
    assert all_positive["ppv"] == pytest.approx(np.mean(labels == 1))


def test_weighted_figures_equal_those_of_the_repeated_images() -> None:
    labels, probabilities = images_with_ties(2)
    counts = numpy_generator(1, "counts").integers(0, 4, len(labels))
    repeated = np.repeat(np.arange(len(labels)), counts)

    weighted = weighted_metrics(
        ScoredImages(labels, probabilities, positive=1, threshold=0.4),
        counts[None].astype(np.float64),
    )

    figures = unweighted(
        ScoredImages(labels[repeated], probabilities[repeated], positive=1, threshold=0.4)
    )
    for name, value in weighted.items():
        assert value[0] == pytest.approx(figures[name]), name


def test_scores_that_are_not_finite_are_refused() -> None:
    """NaN sorts last, so AUROC would be 1."""
    scores = np.array([0.1, 0.2, 0.3, np.nan])
    images = of_two_classes(np.array([0, 0, 1, 1]), scores)

    with pytest.raises(ValueError, match="must be finite"):
        auroc(images.labels, images.probabilities, positive=1)
    with pytest.raises(ValueError, match="must be finite"):
        unweighted(images)


@pytest.mark.parametrize("specificity", [0.5, 0.9, 0.99])
def test_sensitivity_at_a_specificity_is_the_best_threshold_of_scikit_learns_roc_curve(
    specificity: float,
) -> None:
    labels, probabilities = images_with_ties(2)
    false_rate, true_rate, _ = reference.roc_curve(
        labels == 1, probabilities[:, 1], drop_intermediate=False
    )

    found = sensitivity_at(labels, probabilities, positive=1, specificity=specificity)

    assert found == pytest.approx(true_rate[1 - false_rate >= specificity].max())
