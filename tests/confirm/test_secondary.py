"""Secondary outcomes follow from the predictions that are kept, and have intervals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    roc_curve,
)

from tests.confirm.verdicts import CONTROL, FINALIST, REPLICATES, study
from tests.model.conftest import read_rows
from xraytune.confirm.compare import ArmScores, judge_finalists
from xraytune.confirm.outcomes import (
    PREDICTIONS_FILE,
    add_secondary,
    read_thresholds,
    write_predictions,
)
from xraytune.confirm.record import SecondaryOutcome
from xraytune.data.images import ImageFile, ImageTable
from xraytune.stats.classification import Floats
from xraytune.study.folder import StudyFolder
from xraytune.study.row import RunRow, append_run

THRESHOLD = 0.4
Formula = Callable[[Any, Floats], float]
"""From the labels and the results, [N, C], of a network to a score."""


def images_of(test: ArmScores) -> ImageTable:
    """The scored images, with their findings if there are any."""
    states = np.array(["0", "1", "?"])[test.labels.reshape(len(test.patients), -1)]  # -1: unknown
    return ImageTable(
        ImageFile(
            file=f"{index:04}.png",
            label=0,
            sha256="",
            findings="".join(states[index]) if test.labels.ndim == 2 else "",
        )
        for index in range(len(test.patients))
    )


def outcomes_of(test: ArmScores, seed: int = 0) -> dict[str, SecondaryOutcome]:
    finalists = judge_finalists(test, rope=0.01)
    is_binary = test.labels.ndim == 1 and test.results.shape[2] == 2
    thresholds = dict.fromkeys(range(len(test.results)), THRESHOLD) if is_binary else {}
    (finalist,) = add_secondary(finalists, replace(test, thresholds=thresholds), seed=seed)
    return {outcome.metric: outcome for outcome in finalist.comparisons[0].secondary}


def sensitivity_at_90(truth: Floats, chance: Floats) -> float:
    false_positives, sensitivity, _ = roc_curve(truth, chance, drop_intermediate=False)
    return float(sensitivity[false_positives <= 0.1 + 1e-12].max())


def of_class(formula: Formula) -> Formula:
    """The formula of the second class."""
    return lambda labels, chances: formula(labels == 1, chances[:, 1])


def of_classes(formula: Formula) -> Formula:
    """The mean over three classes."""
    return lambda labels, chances: float(
        np.mean([formula(labels == number, chances[:, number]) for number in range(3)])
    )


def of_findings(formula: Formula) -> Formula:
    """The mean over the first two findings, of the images of which they are known."""

    def mean(labels: Floats, chances: Floats) -> float:
        known = [labels[:, number] >= 0 for number in range(min(2, labels.shape[1]))]
        each = (
            formula(labels[rows, number] == 1, chances[rows, number])
            for number, rows in enumerate(known)
        )
        return float(np.mean([*each]))

    return mean


def worst_tenth(dice: Floats) -> float:
    ten = np.sort(dice)[:10]
    return float((ten[:9].sum() + ten[9] / 2) / 9.5)


def binary() -> ArmScores:
    return study(3)[0]


def classes() -> ArmScores:
    test, _, _ = study(4)
    labels = np.arange(len(test.labels)) % 3
    noise = np.random.default_rng(4).normal(size=(2 * REPLICATES, len(labels), 3))
    odds = np.exp(noise + 2 * np.eye(3)[labels])
    return replace(test, labels=labels, results=odds / odds.sum(axis=2, keepdims=True))


def findings() -> ArmScores:
    test, _, _ = study(5)
    random = np.random.default_rng(5)
    labels = random.integers(-1, 2, size=(len(test.labels), 3))
    labels[:, 2] = 0
    labels[:5, 2] = 1  # too few
    noise = random.normal(size=(2 * REPLICATES, *labels.shape))
    return replace(test, labels=labels, results=1 / (1 + np.exp(-labels - noise)))


def one_finding() -> ArmScores:
    test = findings()
    return replace(test, labels=test.labels[:, :1], results=test.results[..., :1])


def masks() -> ArmScores:
    test, _, _ = study(6, patients=95)
    dice = np.random.default_rng(6).beta(9, 1, size=(2 * REPLICATES, 95, 1))
    dice[:, 0] = 0.0
    return replace(test, labels=np.zeros(95, dtype=np.int64), results=dice)


@pytest.mark.parametrize(
    ("make", "formulas"),
    [
        (
            binary,
            {
                "auprc": of_class(average_precision_score),
                "balanced_accuracy": of_class(
                    lambda y, p: balanced_accuracy_score(y, p >= THRESHOLD)
                ),
                "brier": of_class(brier_score_loss),
                "sensitivity_at_90": of_class(sensitivity_at_90),
            },
        ),
        (
            classes,
            {
                "auprc": of_classes(average_precision_score),
                "balanced_accuracy": lambda y, p: balanced_accuracy_score(y, p.argmax(axis=1)),
                "brier": lambda y, p: brier_score_loss(y, p, scale_by_half=False),
                "sensitivity_at_90": of_classes(sensitivity_at_90),
            },
        ),
        (
            findings,  # without a threshold
            {
                "auprc": of_findings(average_precision_score),
                "brier": of_findings(brier_score_loss),
                "sensitivity_at_90": of_findings(sensitivity_at_90),
            },
        ),
        (
            one_finding,  # whose results are not averaged like Dice
            {
                "auprc": of_findings(average_precision_score),
                "brier": of_findings(brier_score_loss),
                "sensitivity_at_90": of_findings(sensitivity_at_90),
            },
        ),
        (
            masks,
            {
                "iou": lambda _, dice: float(np.mean(dice / (2 - dice))),
                "worst_dice": lambda _, dice: worst_tenth(dice[:, 0]),
            },
        ),
    ],
)
def test_outcomes_are_those_of_scikit_learn(
    make: Callable[[], ArmScores], formulas: dict[str, Formula]
) -> None:
    """Of classes, macro averages; of findings, means over those with enough known labels."""
    test = make()

    outcomes = outcomes_of(test)

    assert outcomes.keys() == formulas.keys()
    for name, formula in formulas.items():
        outcome = outcomes[name]
        scores = [
            np.mean([formula(test.labels, test.results[run]) for run in test.plan.run_numbers(arm)])
            for arm in (FINALIST, CONTROL)
        ]
        assert [outcome.score, outcome.control_score] == pytest.approx(scores, abs=1e-12)
        assert outcome.difference == pytest.approx(scores[0] - scores[1], abs=1e-12)
        assert outcome.low < outcome.difference < outcome.high


CLASSES = ["NORMAL", "BACTERIAL", "VIRAL"]
FINDINGS = ["edema", "mass", "hernia"]


@pytest.mark.parametrize(
    ("make", "outputs", "labels", "columns"),
    [
        (binary, CLASSES[:2], ["label"], [""]),
        (classes, CLASSES, ["label"], [f": {name}" for name in CLASSES]),
        (findings, FINDINGS, [f"label_{x}" for x in FINDINGS], [f": {x}" for x in FINDINGS]),
        (masks, ["image"], [], [""]),
    ],
)
def test_the_predictions_of_all_runs_are_written_with_their_labels(
    tmp_path: Path,
    make: Callable[[], ArmScores],
    outputs: list[str],
    labels: list[str],
    columns: list[str],
) -> None:
    """Verdicts on the numbers that `judge` reads in them are compared in tests/test_judge.py."""
    test = make()

    write_predictions(tmp_path, test, images_of(test), outputs, FINDINGS * (make is findings))

    row, *_ = read_rows(tmp_path / PREDICTIONS_FILE)
    runs = [
        f"{arm.name}, replicate {number + 1}{column}"
        for arm in (FINALIST, CONTROL)
        for number in range(REPLICATES)
        for column in columns
    ]
    assert [*row] == ["file", "patient", *labels, *runs]
    assert "label" not in row or row["label"] == outputs[test.labels[0]]


def test_an_outcome_that_improves_has_an_interval_above_zero_and_equal_arms_have_zero_in_it() -> (
    None
):
    improved = outcomes_of(study(0, patients=1000)[0])
    test, _, _ = study(0)
    equal = outcomes_of(replace(test, results=test.results[[1, 3, 5, 7, 9, 9, 7, 5, 3, 1]]))

    assert all(improved[name].low > 0 for name in ("auprc", "sensitivity_at_90"))
    assert all(outcome.low < 0 < outcome.high for outcome in equal.values())


def test_a_threshold_of_zero_is_kept(tmp_path: Path) -> None:
    runs = StudyFolder(tmp_path)
    for number, threshold in enumerate((0.0, 0.3, None)):
        append_run(runs, RunRow(number=number, status="complete", threshold=threshold))

    assert read_thresholds(runs) == {0: 0.0, 1: 0.3}


def test_intervals_repeat_with_their_seed() -> None:
    test, _, _ = study(1)

    assert outcomes_of(test, seed=1) == outcomes_of(test, seed=1)
    assert outcomes_of(test, seed=1) != outcomes_of(test, seed=2)


def test_images_of_one_patient_are_no_independent_evidence() -> None:
    """Each image four times: as of the same patient, the interval is as wide as with one."""
    test, _, _ = study(2)
    repeated = replace(
        test,
        labels=np.tile(test.labels, 4),
        results=np.tile(test.results, (1, 4, 1)),
        patients=test.patients * 4,
    )

    once = outcomes_of(test)
    four = outcomes_of(repeated)

    for name, outcome in once.items():
        width = outcome.high - outcome.low
        assert four[name].high - four[name].low == pytest.approx(width, rel=0.1)
