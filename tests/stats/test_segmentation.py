"""Dice, IoU and HD95 against definitions written here; empty masks.

Means with intervals over patients.
"""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from xraytune.base.seeding import numpy_generator
from xraytune.stats.segmentation import ScoredMask, mask_metrics, scored_mask

Masks = NDArray[np.bool_]


def blobs(seed: int, count: int = 12, height: int = 40, width: int = 52) -> Masks:
    """Smooth random shapes, some of which touch the border of the image."""
    noise = numpy_generator(seed, "blobs").normal(size=(count, height, width))
    smooth = ndimage.gaussian_filter(noise, (0, 4, 4))
    found: Masks = smooth > np.quantile(smooth, 0.7, axis=(1, 2), keepdims=True)
    return found


def edge(mask: Masks) -> Masks:
    """Pixels of the mask of which one of four neighbours is not in it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def hd95_by_definition(first: Masks, second: Masks) -> float:
    """The larger 95 % quantile of the distances between the edges: over all pairs of pixels."""

    def quantile(of: Masks, to: Masks) -> float:
        a = np.argwhere(edge(of))
        b = np.argwhere(edge(to))
        nearest = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2)).min(axis=1)
        return float(np.quantile(nearest, 0.95))

    return max(quantile(first, second), quantile(second, first))


def test_the_metrics_are_their_definitions_on_random_shapes() -> None:
    for predicted, true in zip(blobs(1), blobs(2), strict=True):
        overlap = (predicted & true).sum()
        expected = {
            "dice": 2 * overlap / (predicted.sum() + true.sum()),
            "iou": overlap / (predicted | true).sum(),
            "hd95_px": hd95_by_definition(predicted, true),
        }

        found = scored_mask(predicted, true, file="a.png", patient="a")

        assert found.metrics == pytest.approx(expected, rel=1e-12)


def test_empty_masks_have_no_distance() -> None:
    empty = np.zeros((1, 8, 8), dtype=np.bool_)
    full = np.ones((1, 8, 8), dtype=np.bool_)

    for predicted, true, overlap in ((empty, empty, 1), (empty, full, 0), (full, empty, 0)):
        found = scored_mask(predicted[0], true[0], file="a.png", patient="a")
        assert found.metrics == {"dice": overlap, "iou": overlap, "hd95_px": None}
        assert found.area == predicted.mean()


def scored(dice: float, hd95_px: float | None, patient: str, area: float = 0.3) -> ScoredMask:
    metrics = {"dice": dice, "iou": dice, "hd95_px": hd95_px}
    return ScoredMask(file="x.png", patient=patient, metrics=metrics, area=area)


def test_means_are_over_images_and_count_empty_predictions_apart() -> None:
    masks = [scored(0.9, 3, "a"), scored(0.8, 5, "b"), scored(0.0, None, "b", area=0)]

    found = mask_metrics(masks, resample_count=200)

    assert (found.images, found.patients, found.empty_predictions) == (3, 2, 1)
    assert found.metrics["dice"] == pytest.approx(1.7 / 3)
    assert found.metrics["hd95_px"] == 4
    assert found.intervals["dice"] == (0.4, 0.9)
    assert found.intervals["hd95_px"] == (3, 5)
