"""The formulas of secondary outcomes over weighted images."""

import numpy as np
import pytest

from tests.stats.conftest import of_two_classes
from xraytune.stats.classification import ScoredImages, sensitivity_at
from xraytune.stats.secondary import SPECIFICITY, weighted_outcomes


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
