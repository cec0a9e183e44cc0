"""The formulas of secondary outcomes over weighted images."""

import numpy as np
import pytest

from tests.stats.conftest import of_two_classes
from xraytune.stats.classification import Floats, ScoredImages, sensitivity_at
from xraytune.stats.secondary import SPECIFICITY, secondary_components, weighted_outcomes


def test_an_image_that_is_drawn_twice_counts_like_two_images() -> None:
    random = np.random.default_rng(8)
    for count in (20, 90):
        labels = np.arange(count) % 2
        chance = np.round((labels + random.uniform(size=count)) / 2, 1)  # with ties
        images = of_two_classes(labels, chance)
        weights = random.integers(0, 3, size=(5, count)).astype(float)

        found = weighted_outcomes(images, weights)["sensitivity_at_90"]

        for row, value in zip(weights.astype(int), found, strict=True):
            places = np.repeat(np.arange(count), row)
            drawn = images.probabilities[places]
            expected = sensitivity_at(labels[places], drawn, positive=1, specificity=SPECIFICITY)
            assert value == pytest.approx(expected, abs=1e-12)


def test_masks_that_are_drawn_twice_count_like_two() -> None:
    random = np.random.default_rng(9)
    dice = random.beta(9, 1, size=50)
    images = ScoredImages(np.zeros(50, dtype=np.int64), dice[:, None], positive=0)
    weights = random.integers(0, 3, size=50)

    found = weighted_outcomes(images, weights[None].astype(float))

    repeated = np.repeat(dice, weights)
    assert found["iou"] == pytest.approx(np.mean(repeated / (2 - repeated)))
    once = ScoredImages(np.zeros(len(repeated), dtype=np.int64), repeated[:, None], positive=0)
    same = weighted_outcomes(once, np.ones((1, len(repeated))))
    assert found["worst_dice"] == pytest.approx(same["worst_dice"])


def test_the_variance_assumed_for_an_outcome_is_near_that_over_studies() -> None:
    """The assumption counts where few patients tell little, so it must not be that of AUROCs."""
    random = np.random.default_rng(3)
    labels = np.arange(100) % 2

    def draw_results() -> Floats:
        """Return two equal arms of five replicates, whose scores correlate by .8 and .85."""
        noise = (
            random.normal(size=(1, 1, 100)) * 0.8**0.5 + random.normal(size=(2, 1, 100)) * 0.05**0.5
        )
        scores = 2 * labels + noise + random.normal(size=(2, 5, 100)) * 0.15**0.5
        chance = 1 / (1 + np.exp(2 - 2 * scores.reshape(10, 100)))
        return np.stack([1 - chance, chance], axis=-1)

    differences: dict[str, list[float]] = {}
    for _ in range(200):
        of_networks = []
        for of_network in draw_results():
            images = ScoredImages(labels, of_network, positive=1, threshold=0.5)
            of_networks.append(weighted_outcomes(images, np.ones((1, 100))))
        for name in of_networks[0]:
            scores = np.array([outcomes[name][0] for outcomes in of_networks])
            differences.setdefault(name, []).append(scores[:5].mean() - scores[5:].mean())

    found = secondary_components(
        labels, draw_results(), [*map(str, range(100))], positive=1, thresholds={}, seed=1
    )
    for name in ("balanced_accuracy", "brier", "sensitivity_at_90"):
        components = found[name]
        mean = components.scores.mean()
        assumed = 4 / components.effective_patients * components.variance(mean, mean)
        assert 0.4 < assumed / np.var(differences[name]) < 2.5, name


def test_the_variance_over_few_patients_is_not_too_small() -> None:
    random = np.random.default_rng(4)
    labels = np.arange(8) % 2
    chance = random.uniform(size=8)
    results = np.stack([1 - chance, chance], axis=-1)[None]
    squared_errors = (labels - chance) ** 2
    expected = np.mean([squared_errors[labels == label].var(ddof=1) for label in (0, 1)]) / 8

    variances = [
        secondary_components(labels, results, [*"abcdefgh"], positive=1, thresholds={}, seed=seed)[
            "brier"
        ].components
        for seed in range(30)
    ]

    assert np.mean([(found**2).sum() for found in variances]) == pytest.approx(expected, rel=0.1)
