"""ROC, precision-recall and calibration curves, and their bands."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from xraytune.base.seeding import numpy_generator
from xraytune.stats.curves import calibration, class_curves


def drawn(image_count: int = 200) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Classes that overlap, with scores in steps of .01, so that some are equal."""
    generator = numpy_generator(4, "curves")
    is_class = generator.random(image_count) < 0.4
    scores = np.clip(generator.normal(0.4 + 0.25 * is_class, 0.2), 0, 1)
    return is_class, np.asarray(np.round(scores, 2), dtype=np.float64)


def test_without_variation_between_patients_the_bands_are_the_curves() -> None:
    """One patient of each class: every resample is the sample."""
    is_class, scores = drawn()

    found = class_curves(is_class, scores, [str(one) for one in is_class], replicates=3, seed=0)

    false_rate, recall, _ = roc_curve(is_class, scores, drop_intermediate=False)
    precision, pr_recall, _ = precision_recall_curve(is_class, scores)
    at_recall = [precision[np.flatnonzero(pr_recall >= one - 1e-9)[-1]] for one in found.pr.grid]
    for band in (found.roc.low, found.roc.high):
        assert band == pytest.approx(np.interp(found.roc.grid, false_rate, recall))
    for band in (found.pr.low, found.pr.high):
        assert band == pytest.approx(at_recall)


def test_bands_contain_the_curves_and_copies_of_images_do_not_narrow_them() -> None:
    is_class, scores = drawn()
    patients = [str(number) for number in range(200)]

    once = class_curves(is_class, scores, patients, replicates=200, seed=0)
    copied = class_curves(np.tile(is_class, 3), np.tile(scores, 3), patients * 3, replicates=200, seed=0)

    on_grid = np.interp(once.roc.grid, once.roc.x, once.roc.y)
    assert np.all((once.roc.low <= on_grid + 1e-9) & (on_grid <= once.roc.high + 1e-9))
    assert np.mean(once.roc.high - once.roc.low) > 0.05
    assert copied.roc.low == pytest.approx(once.roc.low)
    assert copied.pr.high == pytest.approx(once.pr.high)


def test_calibration_bins_are_scikit_learns() -> None:
    is_class, scores = drawn()

    found = calibration(is_class, scores, [str(n) for n in range(200)])

    share, mean_probability = calibration_curve(is_class, scores, n_bins=10, strategy="quantile")
    assert found.share == pytest.approx(share)
    assert found.mean_probability == pytest.approx(mean_probability)
    assert np.all((found.low < found.share + 1e-9) & (found.share - 1e-9 < found.high))


def test_a_bin_s_interval_counts_patients() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I: 0 of 20 and 1 of 29."""
    none = calibration(np.zeros(20, dtype=np.bool_), np.full(20, 0.5), [str(n) for n in range(20)])
    one = calibration(np.arange(29) == 0, np.full(29, 0.5), [str(n) for n in range(29)])
    copied = calibration(np.arange(58) // 2 == 0, np.full(58, 0.5), [str(n // 2) for n in range(58)])

    assert (none.low[0], none.high[0]) == pytest.approx((0, 0.1611), abs=1e-4)
    assert (one.low[0], one.high[0]) == pytest.approx((0.0061, 0.1718), abs=1e-4)
    assert (copied.low[0], copied.high[0]) == pytest.approx((one.low[0], one.high[0]))


def test_few_images_have_few_bins() -> None:
    is_class, scores = drawn(30)

    assert len(calibration(is_class, scores, [str(n) for n in range(30)]).share) == 1
