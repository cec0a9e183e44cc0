"""Does a verdict hold in each group? Compared in the results that are kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from tests.confirm.verdicts import CONTROL, FINALIST, SEXES, study
from xraytune.confirm.compare import judge_finalists
from xraytune.confirm.outcomes import FEWEST_PATIENTS, compare_in_groups
from xraytune.confirm.record import Subgroup
from xraytune.stats.placements import scorable_labels


def compared(seed: int, **options: Any) -> dict[str, Subgroup]:
    test, sexes, _ = study(seed, **options)
    (verdict,) = judge_finalists(test, rope=0.01)
    test = replace(test, thresholds=dict.fromkeys(range(len(test.results)), 0.5))
    groups = compare_in_groups(test, verdict, {"sex": sexes})
    return {group.value: group for group in groups}


def test_images_that_help_one_group_are_shown_to_help_there_and_nowhere_else() -> None:
    helped = [0, 0]
    for seed in range(20):
        groups = compared(seed)
        for number, sex in enumerate(SEXES):
            difference = groups[sex].difference
            assert difference is not None
            helped[number] += difference.low > 0
    assert helped[0] >= 18
    assert helped[1] <= 1


def test_scores_and_rates_of_a_group_are_those_of_scikit_learn_on_its_images() -> None:
    test, sexes, files = study(3)
    groups = compared(3)

    for sex, group in groups.items():
        rows = np.array([sexes[file] == sex for file in files])
        labels = test.labels[rows]
        for which in (FINALIST, CONTROL):
            chances = test.results[test.plan.run_numbers(which)][:, rows, 1]
            aurocs = [roc_auc_score(labels, each) for each in chances]
            assert group.scores[which.name] == pytest.approx(np.mean(aurocs), abs=1e-12)
            recalls = [
                np.mean([recall_score(labels, each >= 0.5, pos_label=side) for each in chances])
                for side in (1, 0)
            ]
            assert group.rates[which.name] == pytest.approx(recalls, abs=1e-12)
        assert group.difference is not None
        scores = group.scores
        difference = scores[FINALIST.name] - scores[CONTROL.name]
        assert group.difference.difference == pytest.approx(difference, abs=1e-12)
        assert (group.images, group.patients) == (120, 120)


def test_images_of_one_class_are_scored_with_all_images_of_the_other() -> None:
    test, _, files = study(3)
    (verdict,) = judge_finalists(test, rope=0.01)
    types = {file: "viral" for file, label in zip(files, test.labels, strict=True) if label == 1}
    types |= dict.fromkeys([*types][::2], "bacterial")

    groups = compare_in_groups(test, verdict, {"type": types})

    for group in groups:
        rows = np.array([types.get(file, group.value) == group.value for file in files])
        chances = test.results[test.plan.run_numbers(FINALIST)][:, rows, 1]
        aurocs = [roc_auc_score(test.labels[rows], each) for each in chances]
        assert group.scores[FINALIST.name] == pytest.approx(np.mean(aurocs), abs=1e-12)
        assert group.is_of_one_class
        assert group.images == 60


def test_a_group_with_too_few_patients_of_a_class_is_named_and_not_compared() -> None:
    small = compared(0, patients=4 * (FEWEST_PATIENTS - 1))
    large = compared(0, patients=4 * FEWEST_PATIENTS)

    assert [group.difference is None for group in small.values()] == [True, True]
    assert all(group.patients == 2 * (FEWEST_PATIENTS - 1) for group in small.values())
    assert [group.difference is None for group in large.values()] == [False, False]


@pytest.mark.parametrize("kind", ["three classes", "findings", "masks"])
def test_only_two_classes_have_a_sensitivity_and_a_specificity(kind: str) -> None:
    """Other runs have a threshold, too, which decides nothing."""
    test, sexes, _ = study(3)
    (verdict,) = judge_finalists(test, rope=0.01)
    random = np.random.default_rng(0)
    runs, images, _ = test.results.shape
    labels: Any = {
        "three classes": random.integers(3, size=images),
        "findings": random.integers(2, size=(images, 3)),
        "masks": np.zeros(images, dtype=np.int64),
    }[kind]
    results = random.dirichlet([1, 1, 1], size=(runs, images))
    if kind == "masks":
        results = results[:, :, :1]
    test = replace(
        test,
        labels=scorable_labels(labels, results, test.patients),
        results=results,
        thresholds=dict.fromkeys(range(runs), 0.5),
    )

    groups = compare_in_groups(test, verdict, {"sex": sexes})

    assert {group.value for group in groups} == {*SEXES}
    assert not any(group.rates for group in groups)
