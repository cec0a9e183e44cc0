"""Secondary outcomes against scikit-learn, definitions and analytic variances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss

from xraytune.confirm.analysis import EvaluationSet
from xraytune.confirm.secondary import compare_outcomes
from xraytune.metrics.classification import Floats
from xraytune.pipeline.task import CLASSIFICATION
from xraytune.seeding import numpy_generator

IMAGES = 400
LABELS = np.arange(IMAGES) % 2
SET = EvaluationSet(
    labels=LABELS, patients=tuple(f"p{number // 4}" for number in range(IMAGES)), positive=1, task=CLASSIFICATION
)
THRESHOLDS = np.full((5, 2), 0.5)


def arm(separation: float, seed: int, *, steepness: float = 1.0, own_noise: float = 0.3) -> Floats:
    """Probabilities [5, 2, N, 2] of replicates that share most of their error."""
    common = numpy_generator(0, "common").normal(size=IMAGES)
    noise = numpy_generator(seed, "own").normal(size=(5, 2, IMAGES))
    positive = expit(steepness * (separation * (LABELS - 0.5) + common + own_noise * noise))
    return np.stack([1 - positive, positive], axis=-1)


FINALIST, CONTROL = arm(3.0, 1, steepness=2.0), arm(2.5, 2)


def test_sensitivity_is_read_where_both_replicates_have_the_same_false_positives() -> None:
    def most_found(scores: Floats, false_positives: int) -> float:
        """The share of positive images above the lowest threshold with at most so many false positives."""
        allowed = [
            threshold
            for threshold in np.append(scores, np.inf)
            if np.count_nonzero(scores[LABELS == 0] >= threshold) <= false_positives
        ]
        return float((scores[LABELS == 1] >= min(allowed)).mean())

    expected = []
    for finalist, control in zip(FINALIST.reshape(-1, IMAGES, 2), CONTROL.reshape(-1, IMAGES, 2), strict=True):
        false_positives = int((control[LABELS == 0, 1] >= 0.5).sum())
        expected.append([most_found(one[:, 1], false_positives) for one in (finalist, control)])

    found = compare_outcomes(SET, FINALIST, CONTROL, (THRESHOLDS, THRESHOLDS))["sensitivity"]

    assert [found.value, found.control_value] == pytest.approx(np.mean(expected, axis=0))
    assert found.difference == pytest.approx(found.value - found.control_value)


def test_brier_score_and_calibration_slope_are_those_of_scikit_learn() -> None:
    def slope(scores: Floats) -> float:
        logits = np.log(scores / (1 - scores)).reshape(-1, 1)
        return float(LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits, LABELS).coef_[0, 0])

    replicates = FINALIST.reshape(-1, IMAGES, 2)[:, :, 1]

    found = compare_outcomes(SET, FINALIST, CONTROL, (THRESHOLDS, THRESHOLDS))

    assert found["brier"].value == pytest.approx(np.mean([brier_score_loss(LABELS, one) for one in replicates]))
    assert found["calibration_slope"].value == pytest.approx(np.mean([slope(one) for one in replicates]), rel=1e-4)
    assert found["calibration_slope"].high < 0, "twice as steep, so its slope is lower"


def test_accuracies_are_those_of_scikit_learn_each_arm_at_its_own_thresholds() -> None:
    limits = numpy_generator(0, "limits").uniform(0.2, 0.8, size=(2, 5, 2))

    found = compare_outcomes(SET, FINALIST, CONTROL, (limits[0], limits[1]))

    for arm_name, scores, own in (("value", FINALIST, limits[0]), ("control_value", CONTROL, limits[1])):
        positive = scores[..., 1].reshape(-1, IMAGES)
        called = positive >= own.reshape(-1, 1)
        assert getattr(found["accuracy"], arm_name) == pytest.approx(
            np.mean([accuracy_score(LABELS, one >= 0.5) for one in positive])
        )
        assert getattr(found["balanced_accuracy"], arm_name) == pytest.approx(
            np.mean([balanced_accuracy_score(LABELS, one) for one in called])
        )


def test_equal_arms_have_no_difference_in_any_outcome() -> None:
    for found in compare_outcomes(SET, FINALIST, FINALIST, (THRESHOLDS, THRESHOLDS)).values():
        assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_the_interval_has_the_variance_over_patients_and_seeds() -> None:
    """Of the Brier score, whose variance over patients (clusters of four images) is known: that of a mean over clusters."""
    finalist, control = (np.repeat(one[:1, :1], 5, axis=0).repeat(2, axis=1) for one in (FINALIST, CONTROL))
    errors = [(one[0, 0, :, 1] - LABELS) ** 2 for one in (finalist, control)]
    of_patients = float((errors[0] - errors[1]).reshape(-1, 4).mean(axis=1).var() / 100)

    same_seeds = compare_outcomes(SET, finalist, control, (THRESHOLDS, THRESHOLDS))["brier"]
    with_seeds = compare_outcomes(SET, FINALIST, CONTROL, (THRESHOLDS, THRESHOLDS))["brier"]

    # 100 patients, eight per degree of freedom: t = 2.18 with 12.5.
    assert (same_seeds.high - same_seeds.low) / 2 == pytest.approx(2.17 * of_patients**0.5, rel=0.1)
    assert with_seeds.low < with_seeds.difference < with_seeds.high


def test_the_slope_of_separated_classes_is_left_out() -> None:
    apart = arm(3.0, 1)
    apart[0, 0] = np.stack([1 - LABELS, LABELS], axis=-1) * 0.8 + 0.1

    assert compare_outcomes(SET, apart, CONTROL, (THRESHOLDS, THRESHOLDS)).keys() == {
        "accuracy",
        "balanced_accuracy",
        "sensitivity",
        "brier",
    }


def test_three_classes_have_accuracies_and_a_brier_score_alone() -> None:
    labels = np.arange(IMAGES) % 3
    images = EvaluationSet(labels=labels, patients=SET.patients, positive=2, task=CLASSIFICATION)
    drawn = numpy_generator(3, "three").dirichlet((1, 1, 1), size=(2, 5, 2, IMAGES))
    squared = ((drawn[0] - np.eye(3)[labels]) ** 2).sum(axis=-1)

    found = compare_outcomes(images, drawn[0], drawn[1], (THRESHOLDS, THRESHOLDS))

    assert found.keys() == {"accuracy", "balanced_accuracy", "brier"}
    assert found["brier"].value == pytest.approx(squared.mean())
    called = drawn[0].argmax(axis=-1).reshape(-1, IMAGES)
    assert found["balanced_accuracy"].value == pytest.approx(
        np.mean([balanced_accuracy_score(labels, one) for one in called])
    )
