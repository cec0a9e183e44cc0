"""Quality of synthetic images: every figure against a second source on the same features."""

import contextlib
import io

import numpy as np
import pytest

from xraytune.stats.classification import Floats
from xraytune.synth.generator_quality import (
    coverage,
    kernel_inception_distance,
    label_agreement,
    transfer_auroc,
)


def features(seed: int, count: int, shift: float = 0.0) -> Floats:
    return np.random.default_rng(seed).normal(shift, 1, (count, 12))


def test_kid_equals_the_definition() -> None:
    """Gretton et al. 2012, equation 3, written out."""
    real = features(0, 60)
    synthetic = features(1, 60, 0.5)

    between = (real @ synthetic.T / 12 + 1) ** 3
    expected = -2 * between.mean()
    for images in (real, synthetic):
        kernel = (images @ images.T / 12 + 1) ** 3
        expected += (kernel.sum() - np.trace(kernel)) / (60 * 59)
    assert kernel_inception_distance(real, synthetic) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("shift", "count"), [(0.0, 80), (0.7, 80), (0.3, 130)])
def test_coverage_equals_that_of_prdc(shift: float, count: int) -> None:
    from prdc import compute_prdc  # type: ignore[import-untyped]

    real = features(3, 80)
    synthetic = features(4, count, shift)
    with contextlib.redirect_stdout(io.StringIO()):
        expected = compute_prdc(real, synthetic, nearest_k=5)

    assert coverage(real, synthetic) == pytest.approx(expected["coverage"])


def test_transfer_auroc_shows_whether_classes_mean_the_same() -> None:
    classes = np.repeat([0, 1], 60)
    real = np.concatenate([features(7, 60), features(8, 60, 0.8)]), classes
    drawn = np.concatenate([features(9, 60), features(10, 60, 0.8)])
    assert (transfer_auroc((drawn, classes), real, positive=1) or 0) > 0.95
    assert (transfer_auroc((drawn, 1 - classes), real, positive=1) or 1) < 0.05
    assert transfer_auroc((drawn, 0 * classes), (drawn, 0 * classes), positive=1) is None


def test_label_agreement_is_low_for_a_class_on_the_side_of_another() -> None:
    """Though its images are ranked rightly."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    real = generator.normal(size=(400, 4)) + 3 * labels[:, None]
    shifted = real + 3  # all images on the side of class 1

    assert min(label_agreement((real, labels), (real, labels))) > 0.95
    of_first, of_second = label_agreement((real, labels), (shifted, labels))
    assert of_first < 0.1
    assert of_second > 0.95


def test_transfer_auroc_of_findings_is_their_mean() -> None:
    """One that all training images have is at chance; unknown ones, and rare ones, do not count."""
    classes = np.repeat([0, 1], 60)
    real, drawn = (
        np.concatenate([features(seed, 60), features(seed + 1, 60, 0.8)]) for seed in (7, 9)
    )
    unknown = np.where(np.arange(120) % 3, classes, -1)
    rare = np.eye(120, dtype=np.int64)[0]
    scored = real, np.stack([classes, classes, rare], axis=1)
    learnt = drawn, np.stack([unknown, 1 - 0 * classes, classes], axis=1)
    assert 0.74 < (transfer_auroc(learnt, scored, positive=0) or 0) <= 0.75
    assert transfer_auroc(learnt, (real, rare[:, None]), positive=0) is None
