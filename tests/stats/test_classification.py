"""Metrics agree with scikit-learn, including ties and weights."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from xraytune.base.errors import DataError, TrialError
from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import (
    METRICS,
    ScoredImages,
    Summary,
    auprc,
    auroc,
    classification_metrics,
    reported_metrics,
    require_finite_outputs,
    require_results,
    sensitivity_at,
    weighted_metrics,
)
from xraytune.stats.intervals import measure
from xraytune.stats.placements import structural_components
from xraytune.stats.threshold import balanced_threshold

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def of_two_classes(labels: Labels, scores: Floats, threshold: float = 0.5) -> ScoredImages:
    return ScoredImages(labels, np.stack([1 - scores, scores], axis=1), positive=1, threshold=threshold)


def images_with_ties(class_count: int, image_count: int = 120, seed: int = 3) -> tuple[Labels, Floats]:
    """Draw labels of all classes, and probabilities on a coarse grid, so that many scores are equal."""
    generator = numpy_generator(seed, "images")
    labels = np.concatenate([np.arange(class_count), generator.integers(0, class_count, image_count - class_count)])
    raw = generator.integers(1, 6, (image_count, class_count)).astype(np.float64)
    raw[np.arange(image_count), labels] += 2
    return labels, raw / raw.sum(axis=1, keepdims=True)


def test_exactly_the_metrics_at_the_threshold_depend_on_it() -> None:
    labels, probabilities = images_with_ties(2)
    low, high = (
        classification_metrics(ScoredImages(labels, probabilities, positive=1, threshold=at)) for at in (0.3, 0.6)
    )

    assert {name for name in low if low[name] != high[name]} == {
        metric.name for metric in METRICS if metric.at_threshold
    }


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_two_class_figures_equal_scikit_learn(positive: int, threshold: float) -> None:
    labels, probabilities = images_with_ties(2)
    scores, truth = probabilities[:, positive], (labels == positive).astype(int)
    called = (scores >= threshold).astype(int)

    figures = classification_metrics(ScoredImages(labels, probabilities, positive=positive, threshold=threshold))

    assert figures["auroc"] == pytest.approx(reference.roc_auc_score(truth, scores))
    assert figures["auprc"] == pytest.approx(reference.average_precision_score(truth, scores))
    assert figures["accuracy"] == pytest.approx(reference.accuracy_score(truth, called))
    assert figures["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, called))
    assert figures["sensitivity"] == pytest.approx(reference.recall_score(truth, called))
    assert figures["specificity"] == pytest.approx(reference.recall_score(truth, called, pos_label=0))
    assert figures["ppv"] == pytest.approx(reference.precision_score(truth, called))
    assert figures["npv"] == pytest.approx(reference.precision_score(truth, called, pos_label=0))
    assert figures["f1"] == pytest.approx(reference.f1_score(truth, called))
    assert figures["brier"] == pytest.approx(reference.brier_score_loss(truth, scores))


def test_three_class_figures_equal_scikit_learn_macro_averages() -> None:
    labels, probabilities = images_with_ties(3)
    called, one_hot = probabilities.argmax(axis=1), np.eye(3)[labels]

    figures = classification_metrics(ScoredImages(labels, probabilities, positive=2))

    assert figures["auroc"] == pytest.approx(reference.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert figures["auprc"] == pytest.approx(reference.average_precision_score(one_hot, probabilities, average="macro"))
    assert figures["accuracy"] == pytest.approx(reference.accuracy_score(labels, called))
    assert figures["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, called))
    assert figures["sensitivity"] == pytest.approx(reference.recall_score(labels, called, average="macro"))
    rests = [reference.recall_score(labels != one, called != one) for one in range(3)]
    assert figures["specificity"] == pytest.approx(np.mean(rests))
    assert figures["ppv"] == pytest.approx(reference.precision_score(labels, called, average="macro"))
    not_predicted = [reference.precision_score(labels != one, called != one) for one in range(3)]
    assert figures["npv"] == pytest.approx(np.mean(not_predicted))
    assert figures["f1"] == pytest.approx(reference.f1_score(labels, called, average="macro"))
    assert figures["brier"] == pytest.approx(((probabilities - one_hot) ** 2).sum(axis=1).mean())


def test_a_predictive_value_is_undefined_where_nothing_is_predicted() -> None:
    labels, probabilities = images_with_ties(2)

    none_positive = classification_metrics(ScoredImages(labels, probabilities, positive=1, threshold=2.0))
    all_positive = classification_metrics(ScoredImages(labels, probabilities, positive=1, threshold=0.0))

    assert (none_positive["ppv"], all_positive["npv"]) == (None, None)
    assert none_positive["npv"] == pytest.approx(np.mean(labels == 0))
    assert all_positive["ppv"] == pytest.approx(np.mean(labels == 1))


def test_images_that_no_resample_drew_do_not_count_even_at_the_highest_score() -> None:
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.2, 0.4, 0.6, 0.9])

    weighted = weighted_metrics(of_two_classes(labels, scores), np.array([[1.0, 1, 1, 0]]))

    assert weighted["auprc"][0] == pytest.approx(reference.average_precision_score(labels[:3], scores[:3]))


def test_weighted_figures_equal_those_of_the_repeated_images() -> None:
    labels, probabilities = images_with_ties(2)
    counts = numpy_generator(1, "counts").integers(0, 4, len(labels))
    repeated = np.repeat(np.arange(len(labels)), counts)

    weighted = weighted_metrics(
        ScoredImages(labels, probabilities, positive=1, threshold=0.4), counts[None].astype(np.float64)
    )

    figures = classification_metrics(ScoredImages(labels[repeated], probabilities[repeated], positive=1, threshold=0.4))
    for name, value in weighted.items():
        assert value[0] == pytest.approx(figures[name]), name


def test_one_class_only_is_refused_with_the_missing_class_named() -> None:
    with pytest.raises(DataError, match=r"class number 0 has no image among 4(.|\n)*fix: evaluate on images of every"):
        classification_metrics(ScoredImages(np.ones(4, dtype=np.int64), np.full((4, 2), 0.5), positive=1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused_by_every_metric(value: float) -> None:
    labels, patients = np.array([0, 0, 1, 1]), list("abcd")
    scores = np.array([0.1, 0.2, 0.3, value])
    images = of_two_classes(labels, scores)
    both = images.probabilities

    for metric in (
        lambda: auroc(labels, both, positive=1),
        lambda: auprc(labels, both, positive=1),
        lambda: sensitivity_at(labels, both, positive=1, specificity=0.9),
        lambda: classification_metrics(images),
        lambda: measure(images, patients, seed=1),
        lambda: structural_components(labels, both[None], patients, positive=1),
        lambda: balanced_threshold(labels == 1, scores),
    ):
        with pytest.raises(ValueError, match="must be finite"):
            metric()


def test_outputs_that_are_not_finite_are_counted_by_image() -> None:
    outputs = np.array([[1.0, np.nan], [1.0, 2.0], [np.inf, np.nan], [0.0, 0.0]])

    require_finite_outputs(outputs[[1, 3]], TrialError, "trial 3")
    with pytest.raises(TrialError, match=r"^trial 3: .* NaN or infinite for 2 of 4 images\n.*use a smaller lr"):
        require_finite_outputs(outputs, TrialError, "trial 3")


@pytest.mark.parametrize(
    ("results", "shape", "words"),
    [
        ([[0.0, 1.0], [0.4, 0.6 + 5e-7]], (2, 2), ""),
        ([[0.2, 0.3, 0.5]], (1, 3), ""),
        ([[0.0], [1.0], [0.3]], (3, 1), ""),  # Dice coefficients
        ([[0.0, 1.0]], (2, 2), r"float64 \(1, 2\) instead of"),
        (np.array([[0.0, 1.0]], dtype=np.float32), (1, 2), "float32"),
        ([[1.0, np.nan]], (1, 2), "not between 0 and 1"),
        ([[-0.1], [0.5]], (2, 1), "not between 0 and 1"),
        ([[1.1], [0.5]], (2, 1), "not between 0 and 1"),
        ([[0.5, 0.5], [0.4, 0.6 + 5e-6]], (2, 2), "do not sum to 1"),
    ],
)
def test_stored_results_are_probabilities_or_dice_coefficients(
    results: object, shape: tuple[int, int], words: str
) -> None:
    stored = results if isinstance(results, np.ndarray) else np.array(results)
    if not words:
        require_results(stored, shape)
        return
    with pytest.raises(ValueError, match=words):
        require_results(stored, shape)


def test_each_table_shows_its_metrics_of_two_and_of_more_classes() -> None:
    def shown(class_count: int, summary: Summary | None = None) -> list[str]:
        positive = "sick" if class_count == 2 else None
        return [metric.of(metric.label, positive) for metric in reported_metrics(class_count, summary)]

    rates = ["sensitivity (sick)", "specificity (sick)"]
    values = ["PPV (sick)", "NPV (sick)", "F1 (sick)"]
    assert shown(2) == ["AUROC", "AUPRC (sick)", "accuracy", "balanced accuracy", *rates, *values, "Brier score"]
    assert shown(3) == ["AUROC", "AUPRC", "accuracy", "balanced accuracy", "F1", "Brier score"]
    assert shown(2, "card") == ["AUROC", "AUPRC (sick)", "balanced accuracy", *rates]
    assert (shown(2, "patients"), shown(2, "subgroups")) == (["AUROC", "accuracy", *rates], ["AUROC", *rates])


@pytest.mark.parametrize("specificity", [0.5, 0.9, 0.99])
def test_sensitivity_at_a_specificity_is_the_best_threshold_of_scikit_learns_roc_curve(specificity: float) -> None:
    labels, probabilities = images_with_ties(2)
    false_rate, true_rate, _ = reference.roc_curve(labels == 1, probabilities[:, 1], drop_intermediate=False)

    found = sensitivity_at(labels, probabilities, positive=1, specificity=specificity)

    assert found == pytest.approx(true_rate[1 - false_rate >= specificity].max())
