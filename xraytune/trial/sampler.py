"""Draw the images of each training step from two seeded streams, one of real and one of extra images.

A stream is an endless sequence of shuffled passes over its images, and step t takes the next part
of it. A batch depends on the seed and the step alone, so a resumed trial needs no sampler state.
The real stream does not depend on the extra images: two arms with one seed see the same real
images, in the same views and the same order. `mix.py` decides how many images of each class the
streams hold; `TrialInputs.draws` (inputs.py) joins them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.base.seeding import numpy_generator


class Batch(NamedTuple):
    """The images of one step: their numbers and the view that each one shows, int64 [n] both."""

    numbers: NDArray[np.int64]
    views: NDArray[np.int64]


NOTHING = Batch(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
Stream: TypeAlias = Callable[[int], Batch]
"""A function that returns the images of a step, counted from 0."""


def image_stream(
    seed: int, purpose: str, *, image_count: int, per_step: int, view_count: int
) -> Stream:
    """Return a stream that draws `per_step` of `image_count` images in each step.

    Every pass shows each image once, in one of `view_count` views. A stream without images draws
    nothing. The purpose, "real" or "extra", separates streams of one seed.
    """

    @lru_cache(maxsize=2)
    def shuffled_pass(number: int) -> Batch:
        generator = numpy_generator(seed, "stream", purpose, number)
        order = generator.permutation(image_count)
        views = generator.integers(view_count, size=image_count)
        return Batch(order, views[order])

    def draw(step: int) -> Batch:
        if image_count == 0 or per_step == 0:
            return NOTHING
        first = step * per_step
        last = (step + 1) * per_step
        numbers = []
        views = []
        for number in range(first // image_count, (last - 1) // image_count + 1):
            shown = shuffled_pass(number)
            begin = number * image_count
            part = slice(max(first - begin, 0), last - begin)
            numbers.append(shown.numbers[part])
            views.append(shown.views[part])
        return Batch(np.concatenate(numbers), np.concatenate(views))

    return draw
