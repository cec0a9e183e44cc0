"""Secondary outcomes against scikit-learn, definitions and analytic variances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit  # type: ignore[import-untyped]
from sklearn.metrics import accuracy_score, brier_score_loss

from xraytune.base.seeding import numpy_generator
from xraytune.confirm.score import EvaluationSet
from xraytune.confirm.secondary import compare_outcomes
from xraytune.stats.classification import Floats
from xraytune.trial.task import TASKS

IMAGES = 400
LABELS = np.arange(IMAGES) % 2
SET = EvaluationSet(
    labels=LABELS,
    patients=tuple(f"p{number // 4}" for number in range(IMAGES)),
    positive=1,
    task=TASKS["classification"],
)
THRESHOLDS = np.full(5, 0.5)


def arm(separation: float, seed: int, *, steepness: float = 1.0, own_noise: float = 0.3) -> Floats:
    """Probabilities [5, N, 2] of replicates that share most of their error."""
    common = numpy_generator(0, "common").normal(size=IMAGES)
    noise = numpy_generator(seed, "own").normal(size=(5, IMAGES))
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
    for finalist, control in zip(FINALIST, CONTROL, strict=True):
        false_positives = int((control[LABELS == 0, 1] >= 0.5).sum())
        expected.append([most_found(one[:, 1], false_positives) for one in (finalist, control)])

    found = compare_outcomes(SET, FINALIST, CONTROL, THRESHOLDS)["sensitivity"]

    assert [found.value, found.control_value] == pytest.approx(np.mean(expected, axis=0))
    assert found.difference == pytest.approx(found.value - found.control_value)


def test_accuracy_and_brier_score_are_those_of_scikit_learn() -> None:
    found = compare_outcomes(SET, FINALIST, CONTROL, THRESHOLDS)

    for arm_name, probabilities in (("value", FINALIST), ("control_value", CONTROL)):
        replicates = probabilities[..., 1]
        accuracies = [accuracy_score(LABELS, one >= 0.5) for one in replicates]
        briers = [brier_score_loss(LABELS, one) for one in replicates]
        assert getattr(found["accuracy"], arm_name) == pytest.approx(np.mean(accuracies))
        assert getattr(found["brier"], arm_name) == pytest.approx(np.mean(briers))


def test_equal_arms_have_no_difference_in_any_outcome() -> None:
    for found in compare_outcomes(SET, FINALIST, FINALIST, THRESHOLDS).values():
        assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_the_interval_has_the_variance_over_patients_and_replicates() -> None:
    """Of the Brier score, whose variance over patients (clusters of four images) is known: that of a mean over clusters."""
    finalist, control = (np.repeat(one[:1], 5, axis=0) for one in (FINALIST, CONTROL))
    errors = [(one[0, :, 1] - LABELS) ** 2 for one in (finalist, control)]
    of_patients = float((errors[0] - errors[1]).reshape(-1, 4).mean(axis=1).var() / 100)

    same_scores = compare_outcomes(SET, finalist, control, THRESHOLDS)["brier"]
    varying = compare_outcomes(SET, FINALIST, CONTROL, THRESHOLDS)["brier"]

    # 100 patients, eight per degree of freedom: t = 2.18 with 12.5.
    assert (same_scores.high - same_scores.low) / 2 == pytest.approx(2.17 * of_patients**0.5, rel=0.1)
    assert varying.low < varying.difference < varying.high


def test_three_classes_have_an_accuracy_and_a_brier_score_alone() -> None:
    labels = np.arange(IMAGES) % 3
    images = EvaluationSet(labels=labels, patients=SET.patients, positive=2, task=TASKS["classification"])
    drawn = numpy_generator(3, "three").dirichlet((1, 1, 1), size=(2, 5, IMAGES))
    squared = ((drawn[0] - np.eye(3)[labels]) ** 2).sum(axis=-1)

    found = compare_outcomes(images, drawn[0], drawn[1], THRESHOLDS)

    assert found.keys() == {"accuracy", "brier"}
    assert found["brier"].value == pytest.approx(squared.mean())
    assert found["accuracy"].value == pytest.approx((drawn[0].argmax(axis=-1) == labels).mean())
