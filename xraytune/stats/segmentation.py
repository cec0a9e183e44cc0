"""Dice, IoU and the 95 % Hausdorff distance of masks, and their means.

HD95 is the larger of two 95 % quantiles (with linear interpolation), one for each direction, of the
distances from the edge pixels of one mask to the nearest edge pixel of the other. An edge pixel
belongs to the mask, and at least one of its four neighbours does not; pixels outside the image
belong to no mask. Dice and IoU are 0 if one of the two masks is empty, and 1 if both are; HD95 is
undefined in both cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TypeAlias

import numpy as np

from xraytune.base.arrays import BoolArray
from xraytune.base.records import frozen
from xraytune.stats.classification import Floats, Metric
from xraytune.stats.intervals import Measured, bootstrap

Masks: TypeAlias = BoolArray
MASK_METRICS = (
    Metric("dice", "Dice"),
    Metric("iou", "IoU", is_secondary=True),
    Metric("hd95_px", "HD95 (pixels)", decimals=1),
)


@frozen
class ScoredMask:
    """The `MASK_METRICS` of one predicted mask, None if undefined.

    `area` is the share of the image that the predicted mask covers.
    """

    file: str
    patient: str
    metrics: Mapping[str, float | None]
    area: float


@frozen
class MaskMetrics(Measured):
    """Means of metrics over the images for which a metric is defined, None if there are none.

    With a single patient, there are no intervals.

    Attributes:
        images, patients: Number of images and of patients.
        empty_predictions: Number of images with an empty prediction. HD95 is undefined for them, so
            a network that predicts nothing for difficult images gets a better mean HD95.
    """

    images: int
    patients: int
    empty_predictions: int


def scored_mask(predicted: Masks, true: Masks, *, file: str, patient: str) -> ScoredMask:
    """Return the metrics of one image's mask, [H, W]."""
    overlap = np.count_nonzero(predicted & true)
    either = np.count_nonzero(predicted | true)
    metrics = {
        "dice": 2 * overlap / (overlap + either) if either else 1.0,
        "iou": overlap / either if either else 1.0,
        "hd95_px": _hd95(predicted, true) if predicted.any() and true.any() else None,
    }
    return ScoredMask(file=file, patient=patient, metrics=metrics, area=float(predicted.mean()))


def _hd95(predicted: Masks, true: Masks) -> float:
    # Evaluations of masks alone need it.
    from scipy.ndimage import (  # type: ignore[import-untyped]
        binary_erosion,
        distance_transform_edt,
    )

    first, second = (mask & ~binary_erosion(mask) for mask in (predicted, true))
    distances = (
        distance_transform_edt(~second)[first],
        distance_transform_edt(~first)[second],
    )
    return max(float(np.quantile(distance, 0.95)) for distance in distances)


def mask_metrics(masks: Sequence[ScoredMask], *, resample_count: int) -> MaskMetrics:
    """Return the means over the images, at least one, with bootstrap intervals over patients."""
    patients = [mask.patient for mask in masks]
    values = {
        metric.name: np.array([mask.metrics[metric.name] for mask in masks], dtype=np.float64)
        for metric in MASK_METRICS
    }  # None is NaN
    means = measure_means(values, patients, resample_count=resample_count)
    return MaskMetrics(
        images=len(masks),
        patients=len({*patients}),
        empty_predictions=sum(mask.area == 0 for mask in masks),
        **asdict(means),
    )


def measure_means(
    values: Mapping[str, Floats], patients: Sequence[str], *, resample_count: int
) -> Measured:
    """Return the mean of each metric, [N], over the images for which it is not NaN.

    A mean is None if no image has a value. There is no interval if a resample has no value, or if
    there is a single patient.
    """

    def statistics(weights: Floats) -> dict[str, Floats]:
        means = {}
        with np.errstate(invalid="ignore"):  # 0 / 0
            for name, image_values in values.items():
                counts = weights * np.isfinite(image_values)
                means[name] = counts @ np.nan_to_num(image_values) / counts.sum(axis=1)
        return means

    one_class = np.zeros(len(patients), dtype=np.int64)
    return bootstrap(statistics, one_class, patients, resample_count=resample_count)
