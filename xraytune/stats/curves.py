"""ROC, precision-recall and calibration curves of one class against the others, with pointwise intervals over patients.

scikit-learn computes the curves; the intervals come from the resamples of `stats/intervals.py`. They are pointwise: a
whole curve leaves its band more often than one time in twenty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri  # type: ignore[import-untyped]
from sklearn.metrics import precision_recall_curve, roc_curve

from xraytune.stats.classification import Flags, Floats, weights_by_score
from xraytune.stats.intervals import patient_intervals

_GRID = np.linspace(0, 1, 101)
_MOST_BINS, _IMAGES_PER_BIN = 10, 20
_ROUNDING = 1e-12
_Z = float(ndtri(0.975))


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A curve of K points (x, y), one for each threshold, and a band: the pointwise 95 % interval of y at G grid points."""

    x: Floats
    y: Floats
    grid: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Mean predicted probability and observed share of the class, with its 95 % interval, in each of B bins.

    The bins have about the same number of images.
    """

    mean_probability: Floats
    share: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCurves:
    """The curves of one class: `roc` is sensitivity over false positive rate, `pr` precision over recall."""

    roc: Curve
    pr: Curve
    calibration: Calibration


def class_curves(
    is_class: Flags, scores: Floats, patients: Sequence[str], *, replicates: int = 2000, seed: int
) -> ClassCurves:
    """Return the curves of one class against the others, with bands from `replicates` resamples of the patients.

    For each of N images: whether it belongs to the class (some must, some must not), its predicted probability of the
    class (finite), and its patient.
    """

    def on_grid(weights: Floats) -> dict[str, Floats]:
        of_class, of_others = (by_score[:, ::-1] for by_score in weights_by_score(is_class, scores, weights))
        true, false = np.cumsum(of_class, axis=1), np.cumsum(of_others, axis=1)
        recall, false_rate = true / true[:, -1:], false / false[:, -1:]
        precision = true / np.maximum(true + false, 1)
        start = np.zeros((len(weights), 1))
        rows = zip(np.hstack([start, false_rate]), np.hstack([start, recall]), strict=True)
        reached = [np.searchsorted(row, _GRID[1:]) for row in recall + _ROUNDING]
        return {
            "roc": np.array([np.interp(_GRID, x, y) for x, y in rows]),
            "pr": np.take_along_axis(precision, np.array(reached), axis=1),
        }

    bands = patient_intervals(on_grid, is_class.astype(np.int64), patients, replicates=replicates, seed=seed)
    false_rate, recall, _ = roc_curve(is_class, scores)
    precision, pr_recall, _ = precision_recall_curve(is_class, scores)
    (roc_low, roc_high), (pr_low, pr_high) = bands["roc"], bands["pr"]
    return ClassCurves(
        roc=Curve(x=false_rate, y=recall, grid=_GRID, low=roc_low, high=roc_high),
        pr=Curve(x=pr_recall, y=precision, grid=_GRID[1:], low=pr_low, high=pr_high),
        calibration=calibration(is_class, scores, patients),
    )


def calibration(is_class: Flags, scores: Floats, patients: Sequence[str]) -> Calibration:
    """Return up to ten bins, with the bounds of `sklearn.calibration.calibration_curve(strategy="quantile")`.

    The intervals are Wilson's, with a bin's patients as its sample size: conservative unless all images of a patient agree.
    Unlike a bootstrap, they do not vanish where the share is 0 or 1.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    bins = min(_MOST_BINS, max(1, len(scores) // _IMAGES_PER_BIN))
    bin_of_image = np.searchsorted(np.quantile(scores, np.arange(1, bins) / bins), scores)
    members = [bin_of_image == number for number in np.unique(bin_of_image)]
    share = np.array([is_class[rows].mean() for rows in members])
    count = np.array([len(np.unique(np.asarray(patients)[rows])) for rows in members])
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return Calibration(
        mean_probability=np.array([scores[rows].mean() for rows in members]),
        share=share,
        low=np.clip(centre - half, 0, 1),
        high=np.clip(centre + half, 0, 1),
    )
