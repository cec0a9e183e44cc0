"""A grid of the images that a trial trains on: real ones and the extra ones of its mix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.gan.pool import image_grid
from xraytune.pipeline.training_set import TrainingSet


def sample_grid(training_set: TrainingSet, class_count: int, image_size_px: int, *, each: int = 4) -> Image.Image:
    """Draw a row for each class: its first `each` real images on the left, as many extra ones on the right.

    Images of another size are resized to `image_size_px`; missing ones are white.
    """
    rows = []
    for label in range(class_count):
        real = np.flatnonzero(training_set.labels[: training_set.real_count] == label)
        extra = training_set.extra[training_set.labels[training_set.extra] == label]
        for numbers in (real, extra):
            shown = [_shown(training_set, int(number), image_size_px) for number in numbers[:each]]
            blank = np.full((image_size_px, image_size_px), 255, dtype=np.uint8)
            rows += shown + [blank] * (each - len(shown))
    return image_grid(np.stack(rows), columns=2 * each)


def _shown(training_set: TrainingSet, number: int, image_size_px: int) -> NDArray[np.uint8]:
    ((source, _, places),) = training_set.by_source(np.array([number]))
    pixels: NDArray[np.uint8] = training_set.sources[source].read(places)[0]
    if pixels.shape == (image_size_px, image_size_px):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((image_size_px, image_size_px), Image.Resampling.BILINEAR))
