"""AUROCs and covariances agree with the definitions, pair by pair, and with the jackknife."""

import numpy as np
import pytest
from scipy.stats import norm, rankdata  # type: ignore[import-untyped]

from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import Floats, Labels
from xraytune.stats.placements import (
    StructuralComponents,
    auroc_interval,
    error_variance,
    mean_components,
    structural_components,
)


def two_models(image_count: int = 90, seed: int = 1) -> tuple[Labels, Floats]:
    """Labels, and probabilities [2, N, 2] of models that resemble each other, with ties."""
    generator = numpy_generator(seed, "models")
    labels = np.arange(image_count) % 3 // 2
    shared = generator.normal(labels * 1.2, 1)
    scores = np.round(1 / (1 + np.exp(-shared - generator.normal(0, 0.5, (2, image_count)))), 1)
    return labels.astype(np.int64), np.stack([1 - scores, scores], axis=2)


def placements(labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    """Of positive and of other images, by comparing all pairs."""
    positive = scores[labels == 1]
    other = scores[labels == 0]
    wins = (positive[:, None] > other[None]) + 0.5 * (positive[:, None] == other[None])
    return wins.mean(axis=1), wins.mean(axis=0)


def covariance(found: StructuralComponents) -> Floats:
    return found.components @ found.components.T


def test_standard_error_of_the_published_rating_example() -> None:
    """Hanley & McNeil 1982, table 1: 109 CT images in five categories.

    Stata's roctab prints .8932 and, by DeLong, .0307.
    """
    normal = [33, 6, 6, 11, 2]
    abnormal = [3, 2, 2, 11, 33]
    ratings = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0] * 2, normal + abnormal)
    labels = np.repeat([0, 1], [sum(normal), sum(abnormal)])

    patients = [f"p{number:03d}" for number in range(len(labels))]

    found = structural_components(
        labels, np.stack([-ratings, ratings], axis=1)[None], patients, positive=1
    )

    assert round(found.scores[0], 4) == 0.8932
    assert round(float(np.sqrt(covariance(found)[0, 0])), 4) == 0.0307


def test_with_patients_of_one_class_each_the_covariance_is_obuchowskis() -> None:
    labels, probabilities = two_models()
    order = np.argsort(labels, kind="stable")
    labels, probabilities = labels[order], probabilities[:, order]
    clusters = np.repeat(np.arange(36), [1, 4] * 18)

    found = structural_components(
        labels, probabilities, [f"p{number}" for number in clusters], positive=1
    )

    expected = np.zeros((2, 2))
    for side in range(2):
        sums = np.zeros((2, 36))
        for model in range(2):
            placed = placements(labels, probabilities[model, :, 1])[1 - side]
            np.add.at(sums[model], clusters[labels == side], placed - placed.mean())
        count = len(np.unique(clusters[labels == side]))
        expected += sums @ sums.T * count / (count - 1) / np.sum(labels == side) ** 2
    assert covariance(found) == pytest.approx(expected, rel=1e-10)


def aurocs_of_samples(patients: int, count: int) -> Floats:
    """AUROCs [count] of a network whose true AUROC is .9."""
    generator = numpy_generator(7, "trials")
    each = patients // 2
    scores = generator.standard_normal((count, patients))
    scores[:, each:] += np.sqrt(2) * norm.ppf(0.9)
    ranks = rankdata(scores, axis=1)[:, each:].sum(axis=1)
    return np.asarray((ranks - each * (each + 1) / 2) / each**2)


@pytest.mark.parametrize("patients", [12, 60, 200])
def test_the_interval_of_an_auroc_contains_the_true_one_in_95_percent_of_samples(
    patients: int,
) -> None:
    measured = aurocs_of_samples(patients, 3000)
    intervals = {value: auroc_interval(value, patients) for value in np.unique(measured)}

    covered = np.mean([intervals[value][0] <= 0.9 <= intervals[value][1] for value in measured])

    assert 0.925 < covered < 0.985


def dice_of_two_networks(images: int, seed: int = 1) -> Floats:
    """Dice of two networks on the same images, [2, images], skewed, with a few failures."""
    generator = numpy_generator(seed, "dice")
    errors = np.exp(generator.normal(-3, 0.5, images) + generator.normal(0, 0.2, (2, images)))
    return np.asarray(1 - np.minimum(errors * np.where(generator.random(images) < 0.05, 6, 1), 1))


def test_the_components_of_a_mean_are_the_covariance_of_means() -> None:
    dice = dice_of_two_networks(80)

    found = mean_components(dice, [f"p{number:02d}" for number in range(80)])

    assert found.scores == pytest.approx(dice.mean(axis=1))
    assert covariance(found) == pytest.approx(np.cov(dice) / 80, rel=1e-12)
    assert found.effective_patients == 80
    assert found.variance is error_variance


def test_the_variance_of_a_mean_is_that_of_a_bootstrap_of_patients() -> None:
    """The mean is over images: a patient counts once for each of the images, and they vary."""
    sizes = np.tile([1, 1, 2, 5], 20)
    patients = np.repeat(np.arange(80), sizes)
    generator = numpy_generator(3, "bootstrap")
    dice = dice_of_two_networks(len(patients)) - 0.01 * generator.standard_normal(80)[patients]
    sums = np.stack([np.bincount(patients, weights=one) for one in dice])
    drawn = generator.multinomial(80, np.full(80, 1 / 80), size=20_000)
    bootstrap = np.cov(sums @ drawn.T / (drawn @ sizes)) * 80 / 79

    found = mean_components(dice, [f"p{number:02d}" for number in patients])

    assert found.scores == pytest.approx(dice.mean(axis=1))
    assert found.components.shape == (2, 80)
    assert covariance(found) == pytest.approx(bootstrap, rel=0.06)
    assert covariance(found)[0, 0] > 1.15 * np.var(dice[0], ddof=1) / dice.shape[1], (
        "images are not independent"
    )
