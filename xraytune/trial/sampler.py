"""Draw the images of each training step from two seeded streams, one of real and one of extra images.

A stream is an endless sequence of shuffled passes over its images, and step t takes the next part of it. A batch
depends on the seed and the step alone, so a resumed trial needs no sampler state. The real stream does not depend on the
extra images: two arms with one seed see the same real images, in the same views and the same order. `mix.py` decides how
many images of each class the streams hold; `TrialInputs.draws` (inputs.py) joins them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xraytune.base.seeding import numpy_generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The images of one step: their positions in the stream and the view that each one shows, int64 [n] both."""

    positions: NDArray[np.int64]
    views: NDArray[np.int64]


NOTHING = Drawn(positions=np.empty(0, dtype=np.int64), views=np.empty(0, dtype=np.int64))
Stream = Callable[[int], Drawn]
"""A function that returns the images of a step, counted from 0."""


def image_stream(seed: int, purpose: str, *, image_count: int, per_step: int, view_count: int) -> Stream:
    """Return a stream that draws `per_step` of `image_count` images in each step; every pass shows each image once.

    A stream without images draws nothing. Each pass draws one of `view_count` views for each image. The purpose, "real" or
    "extra", separates streams of one seed.
    """

    @lru_cache(maxsize=2)
    def shuffled_pass(number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        generator = numpy_generator(seed, "stream", purpose, number)
        return generator.permutation(image_count), generator.integers(view_count, size=image_count)

    def draw(step: int) -> Drawn:
        if image_count == 0 or per_step == 0:
            return NOTHING
        places = np.arange(step * per_step, (step + 1) * per_step)
        positions, views = [], []
        for number in np.unique(places // image_count).tolist():
            order, shown = shuffled_pass(number)
            chosen = order[places[places // image_count == number] % image_count]
            positions.append(chosen)
            views.append(shown[chosen])
        return Drawn(positions=np.concatenate(positions), views=np.concatenate(views))

    return draw
