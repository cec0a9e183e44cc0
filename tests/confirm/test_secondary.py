"""Secondary outcomes follow from the predictions that are kept, and have intervals."""

import csv
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

from tests.confirm.test_subgroups import CONTROL, FINALIST, REPLICATES, study
from xraytune.confirm.judge import ArmScores, judge_finalists
from xraytune.confirm.record import SecondaryOutcome
from xraytune.confirm.secondary import PREDICTIONS_FILE, add_secondary, write_predictions
from xraytune.data.images import ImageFile, Images
from xraytune.stats.classification import Floats

pytestmark = pytest.mark.slow

THRESHOLD = 0.4
Columns = dict[str, list[str]]
Formula = Callable[[Floats, Floats], float]


def outcomes_of(test: ArmScores, seed: int = 0) -> dict[str, SecondaryOutcome]:
    finalists = judge_finalists(test, rope=0.01)
    is_binary = test.labels.ndim == 1 and test.results.shape[2] == 2
    thresholds = dict.fromkeys(range(len(test.results)), THRESHOLD) if is_binary else {}
    (finalist,) = add_secondary(finalists, test, thresholds, seed=seed)
    return {outcome.metric: outcome for outcome in finalist.comparisons[0].secondary}


def written(folder: Path, test: ArmScores, outputs: list[str], **options: Any) -> Columns:
    """The columns of `predictions.csv`."""
    findings = options.get("findings", [])
    states = {1: "1", 0: "0", -1: "?"}
    images = Images(
        ImageFile(
            file=f"{number}.png",
            label=0,
            sha256="",
            findings="".join(states[state] for state in test.labels[number]) if findings else "",
        )
        for number in range(len(test.patients))
    )
    write_predictions(folder, test, images, outputs, findings)
    text = (folder / PREDICTIONS_FILE).read_text(encoding="utf-8")
    rows = [*csv.DictReader(text.splitlines())]
    assert [row["file"] for row in rows] == [image.file for image in images]
    assert [row["patient"] for row in rows] == [*test.patients]
    return {name: [row[name] for row in rows] for name in rows[0]}


def mean_score(columns: Columns, arm: str, truth: Floats, formula: Formula) -> float:
    """The mean of a formula over the replicates of an arm."""
    names = [f"{arm}, replicate {number + 1}" for number in range(REPLICATES)]
    return float(np.mean([formula(truth, np.array(columns[name], float)) for name in names]))


def sensitivity_at_90(truth: Floats, chance: Floats) -> float:
    false_positives, sensitivity, _ = roc_curve(truth, chance, drop_intermediate=False)
    return float(sensitivity[false_positives <= 0.1 + 1e-12].max())


def test_outcomes_are_those_of_scikit_learn_on_the_written_predictions(tmp_path: Path) -> None:
    test, _, _ = study(3)
    outcomes = outcomes_of(test)
    columns = written(tmp_path, test, ["NORMAL", "PNEUMONIA"])

    formulas: dict[str, Formula] = {
        "auprc": average_precision_score,
        "balanced_accuracy": lambda y, p: balanced_accuracy_score(y, p >= THRESHOLD),
        "brier": brier_score_loss,
        "sensitivity_at_90": sensitivity_at_90,
    }
    assert outcomes.keys() == formulas.keys()
    truth = np.array([name == "PNEUMONIA" for name in columns["label"]])
    for name, formula in formulas.items():
        outcome = outcomes[name]
        scores = [mean_score(columns, arm.name, truth, formula) for arm in (FINALIST, CONTROL)]
        assert [outcome.score, outcome.control_score] == pytest.approx(scores, abs=1e-12)
        assert outcome.difference == pytest.approx(scores[0] - scores[1], abs=1e-12)
        assert outcome.low < outcome.difference < outcome.high


def test_outcomes_of_several_classes_are_macro_averages(tmp_path: Path) -> None:
    test, _, _ = study(4)
    random = np.random.default_rng(4)
    labels = np.arange(len(test.labels)) % 3
    logits = random.normal(size=(2 * REPLICATES, len(labels), 3)) + 2 * np.eye(3)[labels]
    chances = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    test = replace(test, labels=labels, results=chances)
    names = ["NORMAL", "BACTERIAL", "VIRAL"]
    outcomes = outcomes_of(test)
    columns = written(tmp_path, test, names)

    prefix = f"{FINALIST.name}, replicate"
    scores: dict[str, list[Any]] = {name: [] for name in outcomes}
    for number in range(1, REPLICATES + 1):
        of_classes = np.array([columns[f"{prefix} {number}: {name}"] for name in names], float)
        sides = [np.array([label == name for label in columns["label"]]) for name in names]
        pairs = [*zip(sides, of_classes, strict=True)]
        scores["auprc"].append(np.mean([average_precision_score(*pair) for pair in pairs]))
        scores["sensitivity_at_90"].append(np.mean([sensitivity_at_90(*pair) for pair in pairs]))
        predicted = of_classes.argmax(axis=0)
        scores["balanced_accuracy"].append(balanced_accuracy_score(labels, predicted))
        scores["brier"].append(brier_score_loss(labels, of_classes.T, scale_by_half=False))
    for name, outcome in outcomes.items():
        assert outcome.score == pytest.approx(np.mean(scores[name]), abs=1e-12)


def test_outcomes_of_findings_are_means_over_those_with_enough_known_labels(tmp_path: Path) -> None:
    test, _, _ = study(5)
    random = np.random.default_rng(5)
    labels = random.integers(-1, 2, size=(len(test.labels), 3))
    labels[:, 2] = 0
    labels[:5, 2] = 1  # too few
    noise = random.normal(size=(2 * REPLICATES, *labels.shape))
    test = replace(test, labels=labels, results=1 / (1 + np.exp(-labels - noise)))
    names = ["edema", "mass", "hernia"]
    outcomes = outcomes_of(test)
    columns = written(tmp_path, test, names, findings=names)

    formulas: dict[str, Formula] = {
        "auprc": average_precision_score,
        "brier": brier_score_loss,
        "sensitivity_at_90": sensitivity_at_90,
    }
    assert outcomes.keys() == formulas.keys(), "findings have no threshold"
    for outcome_name, formula in formulas.items():
        scores = []
        for name in names[:2]:
            truth = np.array(columns[f"label_{name}"])
            known = truth != "?"
            for number in range(1, REPLICATES + 1):
                chance = columns[f"{FINALIST.name}, replicate {number}: {name}"]
                scores.append(formula(truth[known] == "1", np.array(chance, float)[known]))
        score = outcomes[outcome_name].score
        assert score == pytest.approx(np.mean(scores), abs=1e-12)


def test_outcomes_of_masks_follow_from_the_dice_of_each_image(tmp_path: Path) -> None:
    test, _, _ = study(6, patients=95)
    random = np.random.default_rng(6)
    dice = random.beta(9, 1, size=(2 * REPLICATES, 95, 1))
    dice[:, 0] = 0.0
    test = replace(test, labels=np.zeros(95, dtype=np.int64), results=dice)
    outcomes = outcomes_of(test)
    columns = written(tmp_path, test, ["image"])

    def worst_tenth(_: Floats, dice: Floats) -> float:
        ten = np.sort(dice)[:10]
        return float((ten[:9].sum() + ten[9] / 2) / 9.5)

    formulas: dict[str, Formula] = {
        "iou": lambda _, dice: float(np.mean(dice / (2 - dice))),
        "worst_dice": worst_tenth,
    }
    assert outcomes.keys() == formulas.keys()
    assert "label" not in columns
    for name, formula in formulas.items():
        score = mean_score(columns, FINALIST.name, np.zeros(95), formula)
        assert outcomes[name].score == pytest.approx(score, abs=1e-12)


def test_an_outcome_that_improves_has_an_interval_above_zero_and_equal_arms_have_zero_in_it() -> (
    None
):
    improved = outcomes_of(study(0, patients=1000)[0])
    test, _, _ = study(0)
    equal = outcomes_of(replace(test, results=test.results[[1, 3, 5, 7, 9, 9, 7, 5, 3, 1]]))

    assert all(improved[name].low > 0 for name in ("auprc", "sensitivity_at_90"))
    assert all(outcome.low < 0 < outcome.high for outcome in equal.values())


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

    once, four = outcomes_of(test), outcomes_of(repeated)

    for name, outcome in once.items():
        width = outcome.high - outcome.low
        assert four[name].high - four[name].low == pytest.approx(width, rel=0.1)
