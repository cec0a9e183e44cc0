"""Dice, IoU and the 95 % Hausdorff distance of masks, by MONAI, and their means.

HD95 is the larger of two 95 % quantiles (with linear interpolation): of the distances from the edge
pixels of one mask to the nearest edge pixel of the other, in each direction. An edge pixel belongs
to the mask and has one of four neighbours that does not; pixels outside the image do not. Dice and
IoU are 0 if one of two masks is empty, 1 if both are; HD95 is undefined in both cases.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import MachineError, Problem
from xraytune.stats.classification import Floats, Metric, none_if_nan
from xraytune.stats.intervals import Measured, bootstrap

Masks: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredMask:
    """The `MASK_METRICS` of one predicted mask, None if undefined.

    `area` is its share of the image.
    """

    file: str
    patient: str
    metrics: Mapping[str, float | None]
    area: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskMetrics(Measured):
    """Means over the images that have a metric, None if none has it.

    With a single patient, there are no intervals.

    Attributes:
        empty_predictions: Images with an empty prediction. They have no HD95, so a network that
            predicts nothing for difficult images gets a better mean HD95.
    """

    images: int
    patients: int
    empty_predictions: int


def dice(predicted: Masks, true: Masks) -> Floats:
    """Return 2 |A and B| / (|A| + |B|) of each image, float64 [n], of masks [n, H, W]."""
    return _by_monai("compute_dice", predicted, true, ignore_empty=False)


def iou(predicted: Masks, true: Masks) -> Floats:
    """Return |A and B| / |A or B| of each image, float64 [n], of masks [n, H, W]."""
    return _by_monai("compute_iou", predicted, true, ignore_empty=False)


def hd95(predicted: Masks, true: Masks) -> Floats:
    """Return the HD95 of each image in pixels, float64 [n], of masks [n, H, W].

    NaN if one of the two is empty.
    """
    distances = np.full(len(true), np.nan)
    both = predicted.any(axis=(1, 2)) & true.any(axis=(1, 2))  # MONAI warns about empty masks
    if both.any():
        options = {"include_background": True, "percentile": 95}
        distances[both] = _by_monai(
            "compute_hausdorff_distance", predicted[both], true[both], **options
        )
    return distances


MASK_METRICS = (  # each is computed from predicted and true masks, [n, H, W]
    Metric("dice", "Dice", dice),
    Metric("iou", "IoU", iou),
    Metric("hd95_px", "HD95 (pixels)", hd95, decimals=1),
)


def scored_mask(predicted: Masks, true: Masks, *, file: str, patient: str) -> ScoredMask:
    """Return the metrics of one image's mask, [H, W].

    Raises MachineError if MONAI is not installed.
    """
    metrics = {
        metric.name: none_if_nan(metric.compute(predicted[None], true[None])[0])
        for metric in MASK_METRICS
    }
    return ScoredMask(file=file, patient=patient, metrics=metrics, area=float(predicted.mean()))


def mask_metrics(masks: Sequence[ScoredMask], *, replicates: int, seed: int) -> MaskMetrics:
    """Return the means over at least one image, with intervals from bootstrap samples."""
    patients = [mask.patient for mask in masks]
    names = [metric.name for metric in MASK_METRICS]
    values = {
        name: np.array([mask.metrics[name] for mask in masks], dtype=np.float64) for name in names
    }  # None is NaN
    means = measure_means(values, patients, replicates=replicates, seed=seed)
    return MaskMetrics(
        images=len(masks),
        patients=len({*patients}),
        empty_predictions=sum(mask.area == 0 for mask in masks),
        metrics=means.metrics,
        intervals=means.intervals,
    )


def measure_means(
    values: Mapping[str, Floats], patients: Sequence[str], *, replicates: int, seed: int
) -> Measured:
    """Return the mean of each metric, [N], over the images that have it, NaN being the others.

    A mean is None if no image has a value. There is no interval if a resample has none, and with a
    single patient.
    """

    def statistics(weights: Floats) -> dict[str, Floats]:
        means = {}
        with np.errstate(invalid="ignore"):  # 0 / 0
            for name, image_values in values.items():
                counts = weights * np.isfinite(image_values)
                means[name] = counts @ np.nan_to_num(image_values) / counts.sum(axis=1)
        return means

    one_class = np.zeros(len(patients), dtype=np.int64)
    metrics, intervals = bootstrap(
        statistics, one_class, patients, replicates=replicates, seed=seed
    )
    return Measured(metrics=metrics, intervals=intervals if len({*patients}) > 1 else {})


def _by_monai(metric: str, predicted: Masks, true: Masks, **options: Any) -> Floats:
    """Return a metric of masks [n, H, W], in double precision, as counts may exceed 2^24."""
    import torch

    try:
        import monai.metrics  # takes seconds
    except ImportError as error:
        fix = "pip install 'xraytune[segmentation]'"
        raise MachineError(
            Problem("mask metrics need MONAI, which is not installed", fix=fix)
        ) from error
    _quiet_monai()
    tensors = (torch.from_numpy(masks[:, None].astype(np.float64)) for masks in (predicted, true))
    return np.asarray(
        getattr(monai.metrics, metric)(*tensors, **options)[:, 0].numpy(), dtype=np.float64
    )


@cache
def _quiet_monai() -> None:
    """Ignore a warning about MONAI's own call.

    `catch_warnings` would race between the threads that score masks.
    """
    warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
